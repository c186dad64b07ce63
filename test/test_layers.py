"""The import rule of the project: which layer may import what. Read from the source, so that no import can hide."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = {
    *("builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "rcl_interfaces"),
    *("sensor_msgs", "std_msgs", "std_srvs", "vision_msgs"),
}
# Each layer and, beside itself and the standard library, what it may import; a name covers all that lies below it.
LAYERS: dict[str, set[str]] = {
    "dff_ros/__init__.py": set(),
    "dff_ros/image_encoding.py": {"numpy", "cv2"},
    "dff_ros/overlay.py": {"numpy", "cv2"},
    "dff_ros/message_fields.py": {"dff_ros.core.results", "dff_ros.engine.stream", "numpy"},
    "dff_ros/core": {"torch", "numpy", "safetensors", "yaml", "cv2", "triton", "onnxruntime"},
    "dff_ros/engine": {"dff_ros.core", "torch", "numpy", "cv2"},
    "dff_ros/recording": {"dff_ros.image_encoding", "numpy", "cv2", "yaml", "rosbags", "lz4", "backports", "zstandard"},
    "dff_ros/evaluation": {
        *("dff_ros.engine", "dff_ros.core", "dff_ros.recording", "dff_ros.overlay", "dff_ros.message_fields", "dff_ros.image_encoding"),
        "dff_ros.report",
        *("torch", "numpy", "cv2", "yaml", "pycocotools", "tqdm", "plotly", "jinja2"),
    },
    "dff_ros/tuning": {
        *("dff_ros.evaluation", "dff_ros.engine", "dff_ros.core", "dff_ros.recording", "dff_ros.report"),
        *("torch", "numpy", "yaml", "tqdm"),
    },
    "dff_ros/report": {"dff_ros.overlay", "numpy", "cv2", "plotly", "jinja2", "markupsafe"},
    "dff_ros/node": {
        *("dff_ros.engine", "dff_ros.core.results", "dff_ros.core.bundle", "dff_ros.recording"),
        *("dff_ros.image_encoding", "dff_ros.overlay", "dff_ros.message_fields", "numpy", "rclpy", "cv_bridge", "tqdm", *MESSAGES),
    },
    "dff_train": {
        *("dff_ros.core", "dff_ros.engine.preprocess", "dff_ros.recording"),
        *("torch", "numpy", "cv2", "yaml", "safetensors", "pycocotools", "tqdm"),
    },
}
HEAVY = ("cv2", "numpy", "rclpy", "rosbags", "torch")


def imported_names(source: str, package: str) -> Iterator[str]:
    """Every module a source names in an import: in functions, under TYPE_CHECKING, relative ones, and import_module("...") too.

    ``from a import b`` yields ``a.b``, as b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"}:
            assert isinstance(node.args[0], ast.Constant), f"an import whose name is computed: {ast.unparse(node)}"
            yield str(node.args[0].value)


def files_of(layer: str) -> list[Path]:
    """The layer's modules; a missing layer, or one that holds nothing but __init__.py, has none."""
    path = ROOT / layer
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.py"))
    return files if any(file.name != "__init__.py" for file in files) else []


def layer_of(file: Path) -> str:
    return next(layer for layer in LAYERS if ROOT / layer in (file, *file.parents))


def names_in(file: Path) -> set[str]:
    package = ".".join(file.relative_to(ROOT).parent.parts)
    return set(imported_names(file.read_text(), package))


def covers(allowed: str, name: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


def forbidden(layer: str, names: set[str]) -> list[str]:
    """Which of the imported names the layer may not import."""
    own = layer.removesuffix(".py").replace("/", ".")
    allowed = {own, *LAYERS[layer], *sys.stdlib_module_names}
    return sorted(name for name in names if not any(covers(item, name) for item in allowed) and name != "dff_ros.__version__")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_holds_code(layer: str) -> None:
    assert files_of(layer), f"{layer} is missing or holds nothing but __init__.py"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_it_may(layer: str) -> None:
    found = {str(file.relative_to(ROOT)): forbidden(layer, names_in(file)) for file in files_of(layer)}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize("package", ["dff_ros", "dff_train"])
def test_every_module_belongs_to_a_layer(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert layer_of(file)


@pytest.mark.parametrize("folder", ["dff_ros", "launch", "benchmarks"])
def test_nothing_imports_the_training_code(folder: str) -> None:
    importers = [file for file in (ROOT / folder).rglob("*.py") if any(covers("dff_train", name) for name in names_in(file))]
    assert not importers


def test_core_uses_opencv_for_dis_flow_alone() -> None:
    users = [file for file in files_of("dff_ros/core") if any(covers("cv2", name) for name in names_in(file))]
    assert len(users) <= 1, f"cv2 in {[file.name for file in users]}"
    assert all("DISOpticalFlow" in file.read_text() for file in users)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, dff_ros; print([name for name in {HEAVY} if name in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import rclpy.node", {"rclpy.node"}),
        ("from dff_ros import node", {"dff_ros.node"}),
        ("def f():\n    from rclpy import spin", {"rclpy.spin"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rclpy", {"typing.TYPE_CHECKING", "rclpy"}),
        ("from ..node import messages", {"dff_ros.node.messages"}),
        ("from . import stream", {"dff_ros.engine.stream"}),
        ("import importlib\nimportlib.import_module('rclpy')", {"importlib", "rclpy"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert set(imported_names(source, "dff_ros.engine")) == expected


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("dff_ros/core", "rclpy"),
        ("dff_ros/core", "dff_ros.engine.stream"),
        ("dff_ros/engine", "dff_ros.recording"),
        ("dff_ros/evaluation", "dff_ros.node.messages"),
        ("dff_ros/report", "dff_ros.evaluation.measures.metrics"),
        ("dff_ros/report", "torch"),
        ("dff_ros/node", "dff_ros.evaluation.measures.metrics"),
        ("dff_ros/node", "dff_ros.core.model"),
        ("dff_ros/node", "torch"),
        ("dff_train", "dff_ros.engine.stream"),
        ("dff_ros/overlay.py", "dff_ros.core.results"),
    ],
)
def test_the_rule_refuses(layer: str, name: str) -> None:
    assert forbidden(layer, {name}) == [name]
