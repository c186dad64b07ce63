"""The ament_python package dff_ros, built by colcon and by pip alike.

Ranges stand here; the versions that ``make setup`` installs are pinned in constraints.txt.
"""

from collections import defaultdict
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "dff_ros"
VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent


def data_files() -> "list[tuple[str, list[str]]]":
    """Where ROS tools look: the package's marker, package.xml, launch files, configuration and model bundles."""
    share = Path("share") / PACKAGE
    targets = defaultdict(list)
    targets["share/ament_index/resource_index/packages"].append(f"resource/{PACKAGE}")
    targets[str(share)].append("package.xml")
    for folder in ("launch", "config", "models"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                relative = file.relative_to(ROOT)
                targets[str(share / relative.parent)].append(str(relative))
    return sorted(targets.items())


setup(
    name=PACKAGE,
    version=VERSION,
    description="Deep Feature Flow for ROS 2: the slow network on key frames, a fast flow on every other frame",
    maintainer="Seed 8c2a9ce9 maintainers",
    maintainer_email="maintainers@users.noreply.b-seed-8c2a9ce9.example",
    license="Apache-2.0",
    packages=find_packages(include=["dff_ros", "dff_ros.*", "dff_train", "dff_train.*"]),
    package_data={"dff_train": ["recipes/*.yaml"], "dff_ros.report": ["templates/*"]},
    data_files=data_files(),
    python_requires=">=3.10,<3.14",
    install_requires=[
        "setuptools",
        "numpy>=1.21,<3",
        "pycocotools>=2.0.6,<3",
        "PyYAML>=5.4,<7",
        "rosbags>=0.10,<0.12",
        "safetensors>=0.4,<1",
        "torch>=2.1,<3",
        "tqdm>=4.57,<5",
    ],
    extras_require={
        # What a ROS 2 installation brings along (package.xml names it), as wheels for machines without one.
        "wheels": [
            "opencv-python-headless>=4.5,<6",
            "ros-rclpy[fastrtps]>=7.1,<8",
            "ros-sensor-msgs>=5.3,<6",
            "ros-geometry-msgs>=5.3,<6",
            "ros-diagnostic-msgs>=5.3,<6",
            "ros-std-srvs>=5.3,<6",
        ],
        # What dff_replay --html writes its page with.
        "report": ["Jinja2>=3,<4", "plotly>=5,<8"],
        # What benchmarks/accuracy.py draws with; make setup leaves it out.
        "plots": ["matplotlib>=3.5,<4"],
        "test": ["pytest>=7,<9"],
        "lint": ["mypy>=1.8", "ruff>=0.6", "types-PyYAML"],
    },
    entry_points={
        "console_scripts": [
            "dff_node = dff_ros.node.dff_node:main",
            "dff_source = dff_ros.node.source_node:main",
            "dff_demo = dff_ros.node.demo:main",
            "dff_replay = dff_ros.evaluation.dff_replay:main",
            "dff_train = dff_train.cli:main",
            "dff_tune = dff_ros.tuning.dff_tune:main",
        ],
    },
    zip_safe=False,
)
