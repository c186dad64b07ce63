"""Fill the virtual environment that runs this script with what dff_ros needs; a second run changes nothing.

Versions are pinned in constraints.txt. Under a sourced ROS 2 its own packages are kept and only the rest is installed;
elsewhere rclpy comes from wheels and vision_msgs is built from the definitions in tools/vision_msgs.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path

from build_message_package import BuildError, require_compiler

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = ROOT / "tools" / "vision_msgs"
CPU_WHEELS_OF_TORCH = "https://download.pytorch.org/whl/cpu"
ALWAYS_PINNED = ("setuptools",)  # the build needs a newer one than old systems bring


class SetUpError(RuntimeError):
    """The set-up cannot go on; the message is one clear line."""


def sourced_ros() -> str | None:
    """The name of the sourced ROS 2 distribution, or None where there is none."""
    return os.environ.get("ROS_DISTRO") or None


def constraints(ros: str | None) -> str:
    """The pins of constraints.txt; under ROS a package that the system brings is held at the system's version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "\n".join(_kept_by_system(line) if ros else line for line in lines) + "\n"


def _kept_by_system(line: str) -> str:
    name = _name(line)
    if not name or name in ALWAYS_PINNED:
        return line
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return line
    from_system = Path(sys.prefix) not in Path(str(found.locate_file(""))).parents
    return f"{name}=={found.version}" if from_system else line


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return match.group() if match else ""


def requirements(ros: str | None) -> list[str]:
    """What setup.py asks for, extras included: read from the installed package, so that it stands in one place."""
    importlib.invalidate_caches()
    found = requires("dff_ros") or []
    if ros:
        found = [item for item in found if 'extra == "wheels"' not in item and not _is_systems_opencv(item)]
    return [item.partition(";")[0].strip() for item in found]


def _is_systems_opencv(requirement: str) -> bool:
    """Debian's python3-opencv brings cv2 without telling pip; another one beside it would need another numpy."""
    return requirement.startswith("opencv-python") and find_spec("cv2") is not None


def install(ros: str | None) -> None:
    """Install dff_ros itself (editable) and what it requires."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text(constraints(ros))
        _pip(pins, *ALWAYS_PINNED)
        _pip(pins, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        if not has_gpu():
            # Only torch is looked for in the extra index. Where that cannot be reached pip says so and takes what it finds elsewhere.
            _pip(pins, "--no-deps", "--timeout", "15", "--retries", "1", "--extra-index-url", CPU_WHEELS_OF_TORCH, "torch")
        _pip(pins, *requirements(ros))


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver; without one torch's CPU build is smaller by gigabytes."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _pip(pins: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(pins), *arguments]
    if subprocess.run(command).returncode:
        raise SetUpError("pip could not install the packages; its messages stand above")


def provide_messages(ros: str | None) -> None:
    """Build vision_msgs unless ROS or an earlier run brought it."""
    if ros:
        if not _imports("vision_msgs.msg"):
            raise SetUpError(f"vision_msgs is missing; on Debian and Ubuntu: sudo apt install ros-{ros}-vision-msgs")
    elif not (_imports("vision_msgs.msg") and _is_current()) and _build_messages():
        raise SetUpError("vision_msgs could not be built; the reason stands above")


def _build_messages() -> int:
    return subprocess.run([sys.executable, str(ROOT / "tools" / "build_message_package.py"), str(MESSAGES)]).returncode


def _is_current() -> bool:
    """Whether the built vision_msgs was made from the definitions as they stand."""
    built = Path(sys.prefix, "share", MESSAGES.name, "msg")
    return all((built / file.name).is_file() and (built / file.name).read_text() == file.read_text() for file in MESSAGES.glob("msg/*.msg"))


def _imports(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def check() -> None:
    """Import the large parts once and say what is there."""
    code = "import cv2, numpy, rclpy, torch, vision_msgs.msg as m; print('torch', torch.__version__ + ', rclpy from', rclpy.__path__[0])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if outcome.returncode:
        raise SetUpError(f"the installed packages do not work together: {outcome.stderr.strip().splitlines()[-1]}")
    print(f"ready: Python {platform.python_version()}, {outcome.stdout.strip()}")


def main() -> int:
    ros = sourced_ros()
    try:
        if not ros and sysconfig.get_platform() != "linux-x86_64":
            raise SetUpError(
                f"wheels of ROS 2 exist for linux-x86_64 only, this is {sysconfig.get_platform()}; source a ROS 2 installation first"
            )
        if not ros and not _imports("vision_msgs.msg"):
            require_compiler()  # rather now than after the downloads
        install(ros)
        provide_messages(ros)
        check()
    except (SetUpError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
