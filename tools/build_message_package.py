"""Build a package of ROS 2 messages into the virtual environment that runs this script.

    python tools/build_message_package.py tools/vision_msgs

vision_msgs has no wheel. The generators inside the rosidl wheels and a C++ compiler make it in a few seconds, without cmake.
The folder holds ``package.xml`` and ``msg/*.msg``, as in any ROS 2 message package.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PREFIX = Path(sys.prefix)
# rmw_fastrtps_cpp looks for both.
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
LIBRARIES_OF_A_DEPENDENCY = ("rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_c", *TYPE_SUPPORTS)
RUNTIME_LIBRARIES = (
    "rosidl_runtime_c",
    "rosidl_typesupport_c",
    *TYPE_SUPPORTS,
    "rosidl_typesupport_fastrtps_cpp",
    "rcutils",
    "rmw",
    "fastcdr",
)


class BuildError(RuntimeError):
    """The package cannot be built here; the message is one clear line."""


@dataclass(frozen=True)
class MessagePackage:
    """A folder of message definitions with its package.xml."""

    name: str
    folder: Path
    dependencies: tuple[str, ...]

    @property
    def definitions(self) -> list[Path]:
        return sorted((self.folder / "msg").glob("*.msg"))


@dataclass(frozen=True)
class Generated:
    """What the generators wrote: ``root`` is the include path, ``package`` the package's folder in it."""

    root: Path
    package: Path

    @property
    def messages(self) -> Path:
        return self.package / "msg"

    @property
    def dispatch(self) -> Path:
        return self.package / "dispatch"


def read_package(folder: Path) -> MessagePackage:
    """Read name and dependencies from ``folder/package.xml``."""
    root = ElementTree.parse(folder / "package.xml").getroot()
    package = MessagePackage(root.findtext("name", ""), folder, tuple(item.text or "" for item in root.findall("depend")))
    if not package.definitions:
        raise BuildError(f"{folder / 'msg'} holds no .msg file")
    return package


def require_compiler() -> None:
    """Raise BuildError naming the Debian packages that are missing."""
    missing = {}
    if not shutil.which("gcc") or not shutil.which("g++"):
        missing["a C++ compiler"] = "g++"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing["Python's headers"] = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    if missing:
        raise BuildError(f"{' and '.join(missing)} missing; on Debian and Ubuntu: sudo apt install {' '.join(missing.values())}")


def generate(package: MessagePackage, root: Path) -> Generated:
    """Write the message package's C, C++ and Python sources below ``root``."""
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    generated = Generated(root, root / package.name)
    output = generated.package
    interfaces = _write_idl(package, output)
    hashes = _write_type_hashes(package, output, interfaces)
    GenerateC("c").generate(package.name, interfaces, [], output, type_description_files=hashes)
    GenerateFastRTPSCTypesupport("fastrtps_c").generate(package.name, interfaces, [], output)
    GenerateIntrospectionCTypesupport("introspection_c").generate(package.name, interfaces, [], output)
    _write_dispatch(package, generated.dispatch, interfaces)
    python = GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"])
    python.generate(package.name, interfaces, [], output)
    return generated


def _write_idl(package: MessagePackage, output: Path) -> list[str]:
    """Translate .msg to .idl; returns the files as rosidl names them, ``folder:relative path``."""
    from rosidl_adapter.msg import convert_msg_to_idl

    with contextlib.redirect_stdout(io.StringIO()):  # it prints two lines for each file
        for definition in package.definitions:
            convert_msg_to_idl(package.folder, package.name, Path("msg", definition.name), output / "msg")
    return [f"{output}:msg/{definition.stem}.idl" for definition in package.definitions]


def _write_type_hashes(package: MessagePackage, output: Path, interfaces: list[str]) -> list[str]:
    """Write each message's type description and hash; returns the paths of the JSON files."""
    from rosidl_generator_type_description import generate_type_hash

    include_paths = [f"{package.name}:{output}", *(f"{name}:{PREFIX / 'share' / name}" for name in package.dependencies)]
    with _arguments("rosidl_generator_type_description", package, interfaces, output, include_paths=include_paths) as arguments:
        return [str(path) for path in generate_type_hash(arguments)]


def _write_dispatch(package: MessagePackage, output: Path, interfaces: list[str]) -> None:
    """Write the type support that picks one of TYPE_SUPPORTS at run time."""
    from rosidl_typesupport_c import generate_c

    with _arguments("rosidl_typesupport_c", package, interfaces, output) as arguments:
        generate_c(arguments, list(TYPE_SUPPORTS))


def _arguments(
    generator: str, package: MessagePackage, interfaces: list[str], output: Path, **extra: object
) -> contextlib.AbstractContextManager[str]:
    """The arguments file of one of rosidl's older generators."""
    from ament_index_python import get_package_share_directory
    from rosidl_cli.command.helpers import generator_arguments_file, legacy_generator_arguments

    common = legacy_generator_arguments(
        package_name=package.name,
        interface_files=interfaces,
        include_paths=[],
        templates_path=Path(get_package_share_directory(generator), "resource"),
        output_path=output,
    )
    file: contextlib.AbstractContextManager[str] = generator_arguments_file(**common, **extra)
    return file


def compile_extension(package: MessagePackage, generated: Generated, work: Path) -> Path:
    """Compile and link everything generated into one Python extension; returns its path."""
    sources = [_unity(work / "dispatch.cpp", sorted(generated.dispatch.rglob("*.cpp")))]
    supports = [path for path in sorted(generated.package.rglob("*.cpp")) if generated.dispatch not in path.parents]
    sources += [_unity(work / "support.cpp", supports), *sorted(generated.package.rglob("*.c"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _compile(job[1], work / f"{job[0]}.o", generated.root), enumerate(sources)))
    return _link(package, objects, work)


def _unity(path: Path, sources: Sequence[Path]) -> Path:
    """One C++ file that includes all the others: their shared headers are then read once."""
    path.write_text("".join(f'#include "{source}"\n' for source in sources))
    return path


def _compile(source: Path, target: Path, generated_root: Path) -> Path:
    import numpy as np

    compiler = ["g++", "-std=c++17"] if source.suffix == ".cpp" else ["gcc", "-std=gnu11"]
    folders = [
        generated_root,
        sysconfig.get_paths()["include"],
        np.get_include(),
        PREFIX / "include",
        *sorted((PREFIX / "include").iterdir()),
    ]
    includes = [argument for folder in folders for argument in ("-I", str(folder))]
    _run([*compiler, "-O1", "-fPIC", "-w", *includes, "-c", str(source), "-o", str(target)])
    return target


def _link(package: MessagePackage, objects: Sequence[Path], work: Path) -> Path:
    extension = work / f"{package.name}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    libraries = [f"{name}__{kind}" for name in package.dependencies for kind in LIBRARIES_OF_A_DEPENDENCY] + list(RUNTIME_LIBRARIES)
    search = [f"-L{PREFIX / 'lib'}", "-Wl,-rpath,$ORIGIN/../../..", "-Wl,--allow-shlib-undefined"]
    _run(["g++", "-shared", "-o", str(extension), *map(str, objects), *search, *(f"-l{name}" for name in libraries)])
    return extension


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        raise BuildError(f"{' '.join(command[:2])} ... failed:\n{outcome.stderr[-2000:]}")


def install(package: MessagePackage, generated: Generated, extension: Path) -> None:
    """Put the package where Python, rmw and the ament index look for it, replacing an earlier one."""
    target = Path(sysconfig.get_paths()["purelib"]) / package.name
    shutil.rmtree(target, ignore_errors=True)
    (target / "msg").mkdir(parents=True)
    (target / "__init__.py").touch()
    _copy(generated.messages.glob("*.py"), target / "msg")
    library = Path(shutil.copy(extension, target))
    for support in TYPE_SUPPORTS:  # the dispatching type support opens these by name: both names lead to the one object
        link = PREFIX / "lib" / f"lib{package.name}__{support}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(library, link.parent))
    share = PREFIX / "share" / package.name
    _copy([package.folder / "package.xml"], share)
    _copy([*package.definitions, *generated.messages.glob("*.idl"), *generated.messages.glob("*.json")], share / "msg")
    _register(package)


def _copy(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def _register(package: MessagePackage) -> None:
    """Name the package in the ament index."""
    entries = {
        "packages": "",
        "package_run_dependencies": ";".join(package.dependencies),
        "rosidl_interfaces": "\n".join(f"msg/{definition.name}" for definition in package.definitions),
    }
    for kind, text in entries.items():
        folder = PREFIX / "share/ament_index/resource_index" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / package.name).write_text(text)


def build(folder: Path) -> str:
    """Build and install the message package in ``folder``; returns its name. Raises BuildError."""
    require_compiler()
    package = read_package(folder.resolve())
    os.environ.setdefault("AMENT_PREFIX_PATH", str(PREFIX))
    with tempfile.TemporaryDirectory(prefix=f"{package.name}-") as work:
        generated = generate(package, Path(work, "generated"))
        install(package, generated, compile_extension(package, generated, Path(work)))
    return package.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder with package.xml and msg/*.msg")
    try:
        name = build(parser.parse_args().folder)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"built {name} into {PREFIX}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
