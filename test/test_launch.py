"""The launch file: its arguments, and what it would start. The second half needs a ROS 2 with launch."""

from __future__ import annotations

import ast
import os
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "launch" / "dff.launch.py"
CONTRACT = {
    *("image", "image_transport", "name", "namespace", "params_file", "model", "device", "use_sim_time", "autostart"),
    *("use_rviz", "rviz_config", "log_level", "bag", "video"),
}


def literal(name: str) -> Any:
    """A constant of the launch file, read without running it."""
    for statement in ast.parse(FILE.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{FILE.name} has no {name}")


def test_it_compiles_and_describes_itself() -> None:
    tree = ast.parse(FILE.read_text())
    compile(tree, str(FILE), "exec")
    assert "generate_launch_description" in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}


def test_it_has_the_arguments_of_the_contract_each_with_a_description() -> None:
    arguments = literal("ARGUMENTS")
    assert arguments.keys() == CONTRACT
    assert all(description for _, description in arguments.values())


def test_it_sets_the_variables_that_the_node_sets() -> None:
    from dff_ros.node.process import LARGE_IMAGE_PROFILE, PROFILE_VARIABLES

    assert literal("PROFILE_VARIABLES") == PROFILE_VARIABLES
    assert LARGE_IMAGE_PROFILE in FILE.read_text()
    assert (ROOT / "config" / LARGE_IMAGE_PROFILE).is_file()


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The launch file's names, its package share being the checkout."""
    for module in ("launch.actions", "launch_ros.actions"):  # the folder launch/ itself would pass for a package
        pytest.importorskip(module, reason="needs a ROS 2 installation with launch")
    for name in [*literal("PROFILE_VARIABLES"), "FASTDDS_BUILTIN_TRANSPORTS"]:
        monkeypatch.setitem(os.environ, name, "")  # so that what a launch sets is undone
        monkeypatch.delenv(name)
    names = runpy.run_path(str(FILE))
    names["share"].__globals__["get_package_share_directory"] = lambda package: str(ROOT)
    return names


def started(launch_file: dict[str, Any], **arguments: str) -> tuple[list[str], dict[str, str]]:
    """The executables that would be started, and their environment."""
    from launch import LaunchContext
    from launch_ros.actions import Node

    context = LaunchContext()
    defaults = {name: default for name, (default, _) in literal("ARGUMENTS").items()}
    context.launch_configurations.update({**defaults, **arguments})
    actions = launch_file["start"](context)
    for action in actions:
        if not isinstance(action, Node):
            action.visit(context)
    return [action.node_executable for action in actions if isinstance(action, Node)], dict(context.environment)


def test_by_default_only_the_node_is_started_with_the_profile_for_large_images(launch_file: dict[str, Any]) -> None:
    executables, environment = started(launch_file)
    assert executables == ["dff_node"]
    for name in literal("PROFILE_VARIABLES"):
        assert environment[name] == str(ROOT / "config" / "fastdds_large_images.xml")


def test_a_profile_of_the_users_own_stays(launch_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "mine.xml")
    _, environment = started(launch_file)
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == "mine.xml"
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in environment


@pytest.mark.parametrize("kind", ["video", "bag"])
def test_a_recording_starts_the_source_and_use_rviz_starts_rviz(launch_file: dict[str, Any], kind: str) -> None:
    executables, _ = started(launch_file, use_rviz="true", namespace="robot", name="eye", image="/camera", **{kind: "drive"})
    assert executables == ["dff_node", "dff_source", "rviz2"]


def test_a_flag_that_is_neither_true_nor_false_is_refused(launch_file: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="expected true or false, got 'maybe'"):
        started(launch_file, use_rviz="maybe")
