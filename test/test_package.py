"""The package as colcon, pip and ros2 run see it."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import dff_ros

ROOT = Path(__file__).resolve().parent.parent
EXECUTABLES = {"dff_node", "dff_source", "dff_demo", "dff_replay", "dff_train", "dff_tune"}


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def setup_arguments() -> dict[str, ast.expr]:
    """The keyword arguments that setup.py gives to setup()."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "setup"]
    return {item.arg: item.value for item in call.keywords if item.arg}


def scripts() -> dict[str, str]:
    """Executable -> "module:function", as setup.py declares them."""
    declared: dict[str, list[str]] = ast.literal_eval(setup_arguments()["entry_points"])
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in declared["console_scripts"])  # type: ignore[misc]


def test_package_xml_describes_an_ament_python_package(manifest: ElementTree.Element) -> None:
    assert manifest.tag == "package"
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "dff_ros"
    assert manifest.findtext("license") == "Apache-2.0"
    assert manifest.findtext("export/build_type") == "ament_python"


def test_package_xml_names_what_the_node_imports(manifest: ElementTree.Element) -> None:
    declared = {item.text for item in manifest.findall("exec_depend")}
    files = [*(ROOT / "dff_ros" / "node").glob("*.py"), *(ROOT / "launch").glob("*.py")]
    statements = [item for file in files for item in ast.walk(ast.parse(file.read_text()))]
    modules = {item.module for item in statements if isinstance(item, ast.ImportFrom) and item.module}
    modules |= {name.name for item in statements if isinstance(item, ast.Import) for name in item.names}
    elsewhere = {"dff_ros", "numpy", "tqdm", *sys.stdlib_module_names}  # numpy and tqdm have rosdep keys of other names
    imported = {name.partition(".")[0] for name in modules} - elsewhere
    assert {"rclpy", "cv_bridge", "vision_msgs"} <= imported <= declared


def test_the_version_is_the_same_everywhere(manifest: ElementTree.Element) -> None:
    (version,) = re.findall(r'^VERSION = "(.+)"$', (ROOT / "setup.py").read_text(), re.MULTILINE)
    changes = (ROOT / "CHANGELOG.rst").read_text()
    assert manifest.findtext("version") == version == dff_ros.__version__
    assert re.search(rf"^{re.escape(version)} \(.+\)$", changes, re.MULTILINE), f"CHANGELOG.rst has no section {version}"


def test_the_marker_of_the_ament_index_is_there() -> None:
    assert (ROOT / "resource" / "dff_ros").is_file()


def test_all_executables_are_declared() -> None:
    assert set(scripts()) == EXECUTABLES


@pytest.mark.parametrize("name", sorted(EXECUTABLES))
def test_an_executable_leads_to_a_function(name: str) -> None:
    module, _, function = scripts()[name].partition(":")
    if module.startswith("dff_ros.node"):
        pytest.importorskip("rclpy")
    assert callable(getattr(importlib.import_module(module), function))


def test_pip_installed_the_executables() -> None:
    installed = {item.name for item in entry_points(group="console_scripts") if item.value.startswith(("dff_ros.", "dff_train."))}
    assert installed == EXECUTABLES


def test_every_requirement_of_setup_py_is_pinned() -> None:
    groups: dict[str, list[str]] = ast.literal_eval(setup_arguments()["extras_require"])
    wanted = [*ast.literal_eval(setup_arguments()["install_requires"]), *(line for lines in groups.values() for line in lines)]
    names = {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in wanted}
    pins = (ROOT / "constraints.txt").read_text()
    assert not {name for name in names if not re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE)}


def test_colcon_builds_a_package_whose_executables_ros2_run_finds(tmp_path: Path) -> None:
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed")
    source = tmp_path / "src"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "out", "runs", "build", "install", "log", "*.egg-info", "__pycache__")
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        outcome = subprocess.run([colcon, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    assert run("list").split() == ["dff_ros", "src", "(ros.ament_python)"]
    run("build")
    prefix = tmp_path / "install" / "dff_ros"
    assert {file.name for file in (prefix / "lib" / "dff_ros").iterdir()} == EXECUTABLES
    assert (prefix / "share/ament_index/resource_index/packages/dff_ros").is_file()
    for folder in ("launch", "config", "models"):
        wanted = {file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        share = prefix / "share" / "dff_ros"
        assert wanted == {file.relative_to(share) for file in (share / folder).rglob("*") if file.is_file()}
