"""The node's executables started as processes of their own, for the demo, the benchmarks and the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping

_KEPT_LINES = 2000


def ros_arguments(parameters: Mapping[str, object], remappings: Mapping[str, str]) -> list[str]:
    """Parameters and remappings as a ROS command line has them."""
    # JSON is YAML: a path that reads like a number or has a colon in it stays a string.
    given = [item for name, value in parameters.items() for item in ("-p", f"{name}:={json.dumps(value)}")]
    moved = [item for name, target in remappings.items() for item in ("-r", f"{name}:={target}")]
    return ["--ros-args", *given, *moved]


class ChildProcess:
    """``dff_node`` or ``dff_source`` running; what it prints goes line by line to ``lines`` and to ``show``."""

    def __init__(
        self,
        module: str,
        *,
        parameters: Mapping[str, object] | None = None,
        remappings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        command = [sys.executable, "-m", f"dff_ros.node.{module}", *ros_arguments(parameters or {}, remappings or {})]
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._show = show
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"{module}_output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "\n".join(self.lines.copy())

    def signal(self, number: int = signal.SIGINT) -> None:
        """Send a signal; nothing where the process has ended."""
        if self.exit_code is None:
            self._process.send_signal(number)

    def wait(self, timeout: float) -> int | None:
        """The exit code, waiting for the end; None where it still runs after ``timeout`` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(timeout=5.0)
        return code

    def stop(self, timeout: float = 10.0) -> int | None:
        """End it as Ctrl-C does, by force where that does not help; returns the exit code."""
        self.signal(signal.SIGINT)
        code = self.wait(timeout)
        if code is None:
            self._process.kill()
            code = self.wait(timeout)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None  # a pipe was asked for
        with self._process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if self._show is not None:
                    self._show(line.rstrip("\n"))
