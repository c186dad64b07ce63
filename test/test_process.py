"""The process around a node: settings before rclpy starts, and errors on one line."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from dff_ros.engine.host import keep_freed_memory, spin_briefly
from dff_ros.node.child_process import ros_arguments
from dff_ros.node.process import LARGE_IMAGE_PROFILE, PROFILE_VARIABLES, find_config, one_line, use_large_image_profile

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No profile chosen; what the code sets is undone."""
    for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.setenv(name, "")
    return monkeypatch


def test_the_profile_for_large_images_is_found_and_set_for_all_versions(environment: pytest.MonkeyPatch) -> None:
    assert use_large_image_profile() == ROOT / "config" / LARGE_IMAGE_PROFILE
    assert [os.environ[name] for name in PROFILE_VARIABLES] == [str(ROOT / "config" / LARGE_IMAGE_PROFILE)] * 2


@pytest.mark.parametrize("name", [*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"])
def test_a_choice_of_the_users_own_stays(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "mine")
    assert use_large_image_profile() is None
    assert [os.environ[other] for other in PROFILE_VARIABLES if other != name] == [""] * (2 if name not in PROFILE_VARIABLES else 1)


def test_an_installed_profile_is_found_by_the_prefix_path(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "share" / "dff_ros" / "config" / "only_here.xml"
    file.parent.mkdir(parents=True)
    file.write_text("<dds/>")
    environment.setenv("AMENT_PREFIX_PATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert find_config("only_here.xml") == file
    assert find_config("nowhere.xml") is None


def test_the_profile_has_a_segment_for_a_full_hd_image() -> None:
    tree = ElementTree.parse(ROOT / "config" / LARGE_IMAGE_PROFILE)
    sizes = [int(item.text or 0) for item in tree.iter() if item.tag.endswith("segment_size")]
    assert sizes and min(sizes) >= 2 * 1920 * 1080 * 3


def test_the_allocator_takes_the_settings() -> None:
    code = "from dff_ros.engine.host import keep_freed_memory; raise SystemExit(not keep_freed_memory())"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert callable(keep_freed_memory)


def test_an_error_is_told_on_one_line() -> None:
    assert one_line(ValueError("first\n   second")) == "first second"
    assert one_line(KeyError()) == "KeyError"


def test_values_that_look_like_something_else_stay_strings_on_the_command_line() -> None:
    arguments = ros_arguments({"video": "007", "loop": True, "rate": 5.0}, {"image": "/camera"})
    assert arguments == ["--ros-args", "-p", 'video:="007"', "-p", "loop:=true", "-p", "rate:=5.0", "-r", "image:=/camera"]


@pytest.mark.parametrize(("chosen", "expected"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_spin_briefly_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], expected: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    spin_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_preparing_the_host_imports_no_torch() -> None:
    code = "import sys, dff_ros.engine.host; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
