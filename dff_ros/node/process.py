"""A node's process: allocator and transport settings before rclpy starts, and a clean end.

Ctrl-C and SIGTERM end a process in under two seconds with exit code 0, once or twice pressed, also while the worker computes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from dff_ros.engine.host import keep_freed_memory
from dff_ros.node.signals import StopSignals

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Read by Fast DDS: the first up to Jazzy, the second from Kilted on."""
LARGE_IMAGE_PROFILE = "fastdds_large_images.xml"

_JOIN_SECONDS = 0.8


class RunningNode(Protocol):
    """What ``run_process`` needs of a node, besides being an rclpy node."""

    def start(self) -> bool:
        """Begin to work; False ends the process with exit code 1, the reason logged."""

    @property
    def finished(self) -> bool:
        """True when the node has nothing left to do and the process shall end."""

    @property
    def exit_code(self) -> int:
        """What the process shall end with."""

    def stop(self, timeout: float) -> bool:
        """Ask all threads to end and wait ``timeout`` seconds; False when one is still busy."""

    def destroy_node(self) -> None:
        """Destroy publishers, subscriptions, services and the node (rclpy's)."""


def find_config(name: str) -> Path | None:
    """A file of ``config/``: beside the package in a checkout, else in the share folder of an installation."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    roots = [Path(__file__).resolve().parents[2], *(p / "share" / "dff_ros" for p in (*prefixes, Path(sys.prefix)))]
    return next((root / "config" / name for root in roots if (root / "config" / name).is_file()), None)


def use_large_image_profile() -> Path | None:
    """Let Fast DDS carry images larger than its 512 KiB default segment; before ``rclpy.init``.

    A profile or transport that the user chose stays. Returns the profile in use, None where there is none of ours.
    """
    if any(os.environ.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        return None
    profile = find_config(LARGE_IMAGE_PROFILE)
    if profile is not None:
        os.environ.update(dict.fromkeys(PROFILE_VARIABLES, str(profile)))
    return profile


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def run_process(create: Callable[[], RunningNode], signals: StopSignals, args: Sequence[str] | None = None) -> int:
    """Run the node that ``create`` makes until a signal comes or it has finished; returns the exit code.

    ``args`` are the command line without the program's name, None for the process's own.
    """
    keep_freed_memory()
    use_large_image_profile()
    signals.expect_cleanup()
    try:
        # Our handlers stay: rclpy's raise KeyboardInterrupt wherever the main thread happens to be.
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        node = create()
    except (ParameterException, RuntimeError, ValueError) as error:
        unknown = "unknown ROS arguments " if type(error).__name__ == "UnknownROSArgsError" else ""  # which only lists them
        print(f"{Path(sys.argv[0]).name}: {unknown}{one_line(error)}", file=sys.stderr)
        return 0 if signals.stopped else 1
    started = node.start()
    if started:
        _spin(node, signals)
    code = 0 if signals.stopped else node.exit_code if started else 1
    _end(node, code)
    return code


def _spin(node: RunningNode, signals: StopSignals) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # Waiting is cut in pieces: a Python signal handler runs only when the main thread is back from rcl_wait.
        while not (signals.stopped or node.finished) and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    except RuntimeError:  # Kilted now and then leaks an RCLError out of spin at shutdown
        if not signals.stopped:
            raise
    finally:
        executor.shutdown(timeout_sec=0)


def _end(node: RunningNode, code: int) -> None:
    idle = node.stop(_JOIN_SECONDS)
    node.destroy_node()  # also while a worker computes: its later publish fails, and shared memory is given back
    rclpy.try_shutdown()
    if not idle:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the interpreter would wait for, or tear down under, a thread that is inside torch
