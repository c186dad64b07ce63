"""Fill the virtual environment that runs this script with what dff_ros needs; a second run changes nothing.

Versions are pinned in constraints.txt. Under a sourced ROS 2 its own packages are kept and only the rest is installed;
elsewhere rclpy comes from wheels and vision_msgs is built from the definitions in tools/vision_msgs.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from build_message_package import BuildError, require_compiler
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"
MESSAGES = ROOT / "tools" / "vision_msgs"
CPU_WHEELS_OF_TORCH = "https://download.pytorch.org/whl/cpu"


class SetUpError(RuntimeError):
    """The set-up cannot go on; the message is one clear line."""


def sourced_ros() -> str | None:
    """The name of the sourced ROS 2 distribution, or None where there is none."""
    return os.environ.get("ROS_DISTRO") or None


def check_machine(ros: str | None) -> None:
    """Refuse what would fail later, before the downloads."""
    if ros:
        for module, package in (("vision_msgs.msg", f"ros-{ros}-vision-msgs"), ("cv2", "python3-opencv")):
            if not imports(module):
                raise SetUpError(f"{module} cannot be imported; on Debian and Ubuntu: sudo apt install {package}")
        return
    if sysconfig.get_platform() != "linux-x86_64":
        raise SetUpError(f"ROS 2 has wheels for linux-x86_64 only, this is {sysconfig.get_platform()}; source a ROS 2 installation")
    if not imports("vision_msgs.msg"):
        require_compiler()


def requirements(ros: str | None) -> list[Requirement]:
    """What setup.py asks for, its extras but the plots included; under ROS without what ROS brings.

    Read from the installed package, so that the ranges stand in one place.
    """
    importlib.invalidate_caches()
    found = [Requirement(line) for line in requires("dff_ros") or []]
    left_out = ("plots", "wheels") if ros else ("plots",)
    return [item for item in found if not (item.marker and any(item.marker.evaluate({"extra": extra}) for extra in left_out))]


def constraints(wanted: list[Requirement], ros: str | None) -> list[str]:
    """The pins of constraints.txt; under ROS what the system brings within setup.py's ranges stays as it is.

    numpy above all: the system's message packages and cv_bridge were compiled against its version.
    """
    pins = PINS.read_text().splitlines()
    held = {item.name: version for item in wanted if ros and (version := _system_version(item))}
    return [pin for pin in pins if pin.partition("==")[0] not in held] + [f"{name}=={version}" for name, version in held.items()]


def _system_version(requirement: Requirement) -> str | None:
    """The version found outside the virtual environment, where it fits the requirement."""
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return None
    from_system = Path(sys.prefix) not in Path(str(found.locate_file(""))).parents
    return found.version if from_system and requirement.specifier.contains(found.version, prereleases=True) else None


def install(ros: str | None) -> None:
    """Install dff_ros itself (editable), then what it requires."""
    pip("--constraint", str(PINS), "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    wanted = requirements(ros)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text("\n".join(constraints(wanted, ros)) + "\n")
        if not has_gpu():
            # Only torch is looked for in this index. Where it cannot be reached pip says so and takes what it finds elsewhere.
            index = ["--timeout", "15", "--retries", "1", "--extra-index-url", CPU_WHEELS_OF_TORCH]
            pip("--constraint", str(pins), "--no-deps", *index, "torch")
        pip("--constraint", str(pins), *(f"{item.name}{_extras(item)}{item.specifier}" for item in wanted))


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver; without one torch's CPU build is smaller by gigabytes."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def pip(*arguments: str) -> None:
    """Run ``pip install``; raises SetUpError where it fails."""
    if subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]).returncode:
        raise SetUpError("pip could not install the packages; its messages stand above")


def provide_messages() -> None:
    """Build vision_msgs unless an earlier run did, from the definitions as they stand."""
    if imports("vision_msgs.msg") and _is_current():
        return
    if subprocess.run([sys.executable, str(ROOT / "tools" / "build_message_package.py"), str(MESSAGES)]).returncode:
        raise SetUpError("vision_msgs could not be built; the reason stands above")


def _is_current() -> bool:
    built = Path(sys.prefix, "share", MESSAGES.name, "msg")
    return all((built / file.name).is_file() and (built / file.name).read_text() == file.read_text() for file in MESSAGES.glob("msg/*.msg"))


def imports(module: str) -> bool:
    """Whether a new process of this environment can import ``module``."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def check() -> None:
    """Import the large parts once and say what is there."""
    code = "import cv2, numpy, rclpy, torch, vision_msgs.msg; print(f'torch {torch.__version__}, rclpy in {rclpy.__path__[0]}')"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if outcome.returncode:
        raise SetUpError(f"the installed packages do not work together: {(outcome.stderr.strip() or 'no message').splitlines()[-1]}")
    print(f"ready: Python {platform.python_version()}, {outcome.stdout.strip()}")


def main() -> int:
    ros = sourced_ros()
    try:
        check_machine(ros)
        install(ros)
        if not ros:
            provide_messages()
        check()
    except (SetUpError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
