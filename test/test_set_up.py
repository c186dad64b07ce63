"""The set-up: what it installs under a sourced ROS 2 and without one, and how it refuses."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

set_up = pytest.importorskip("set_up")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def system_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the environment whose packages Python sees first, as a ROS installation's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def add_package(folder: Path, name: str, version: str) -> None:
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def set_up_script(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of set_up.sh in ``folder``, where it finds no environment yet."""
    (folder / "tools").mkdir()
    script = shutil.copy(ROOT / "tools" / "set_up.sh", folder / "tools")
    return subprocess.run(["bash", script], env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True)


def test_without_ros_everything_is_wanted_at_the_pinned_versions() -> None:
    wanted = set_up.requirements(None)
    assert {"torch", "numpy", "ros-rclpy", "opencv-python-headless", "pytest"} <= {item.name for item in wanted}
    assert "matplotlib" not in {item.name for item in wanted}
    assert set_up.constraints(wanted, None) == (ROOT / "constraints.txt").read_text().splitlines()


def test_under_ros_what_ros_brings_is_not_installed() -> None:
    names = {item.name for item in set_up.requirements("jazzy")}
    assert "torch" in names
    assert not {name for name in names if name.startswith(("ros-", "opencv"))}


def test_under_ros_a_system_package_that_fits_is_kept(system_packages: Path) -> None:
    add_package(system_packages, "numpy", "1.21.5")
    pins = set_up.constraints(set_up.requirements("humble"), "humble")
    assert [pin for pin in pins if pin.startswith("numpy==")] == ["numpy==1.21.5"]


def test_under_ros_a_system_package_that_is_too_old_is_replaced(system_packages: Path) -> None:
    add_package(system_packages, "torch", "1.8.1")
    pins = set_up.constraints(set_up.requirements("humble"), "humble")
    pinned = [pin for pin in set_up.PINS.read_text().splitlines() if pin.startswith("torch==")]
    assert pinned
    assert [pin for pin in pins if pin.startswith("torch==")] == pinned


def test_ros_without_vision_msgs_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "imports", lambda module: module != "vision_msgs.msg")
    with pytest.raises(set_up.SetUpError, match="sudo apt install ros-jazzy-vision-msgs"):
        set_up.check_machine("jazzy")


def test_a_processor_without_wheels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up.sysconfig, "get_platform", lambda: "linux-aarch64")
    with pytest.raises(set_up.SetUpError, match="linux-x86_64 only, this is linux-aarch64"):
        set_up.check_machine(None)


def test_a_failing_check_names_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(set_up.SetUpError, match="libGL is missing"):
        set_up.check()


def test_a_python_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    old = write_script(tmp_path / "old", 'if [ "$1" = --version ]; then echo Python 3.8.10; else exit 1; fi')
    outcome = set_up_script(tmp_path, PYTHON=str(old))
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: Python 3.10 to 3.13 is needed, found Python 3.8.10; ")
    assert len(outcome.stderr.splitlines()) == 1


def test_a_missing_venv_module_is_named(tmp_path: Path) -> None:
    command = f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"'
    outcome = set_up_script(tmp_path, PYTHON=str(write_script(tmp_path / "bare", command)))
    assert outcome.returncode == 1
    assert f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in outcome.stderr


def test_a_sourced_ros_whose_rclpy_no_python_imports_is_named(tmp_path: Path) -> None:
    command = f'case "$2" in *rclpy*) exit 1;; esac; exec "{sys.executable}" "$@"'
    outcome = set_up_script(tmp_path, PYTHON=str(write_script(tmp_path / "bare", command)), ROS_DISTRO="jazzy")
    assert outcome.returncode == 1
    assert "sudo apt install ros-jazzy-rclpy" in outcome.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_passes_a_path_with_spaces(tmp_path: Path) -> None:
    show = write_script(tmp_path / "show", 'for argument in "$@"; do echo "<$argument>"; done')
    command = ["make", "--silent", "demo", f"VENV_PYTHON={show}", "READY=", "VIDEO=my street.mp4", "OUT=my results", "RATE=12.5"]
    environment = {name: value for name, value in os.environ.items() if name not in ("BAG", "FRAMES", "MAKEFLAGS", "ARGS")}
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    expected = ["-m", "dff_ros.node.demo", "--video", "my street.mp4", "--rate", "12.5", "--out", "my results"]
    assert outcome.stdout.split("\n")[:-1] == [f"<{argument}>" for argument in expected]
