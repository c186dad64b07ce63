"""Real processes over real DDS for the tests: the node and the source as children, the test as their peer."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dff_ros.node.child_process import ChildProcess
from dff_ros.node.process import use_large_image_profile

PATIENCE = 60.0
"""Seconds after which a test gives up on something that should happen: the machine may be busy."""

RELIABLE = QoSProfile(depth=50)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
SECOND = 1_000_000_000

_running: list[ChildProcess] = []


class Peer(Node):
    """A node in the test's own process that publishes, subscribes, calls services, and waits for conditions."""

    def __init__(self) -> None:
        super().__init__("test_peer")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._stamps = itertools.count(100)

    def collect(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """A list that every message on ``topic`` is appended to; returns once a publisher is matched."""
        messages: list[Any] = []
        self.create_subscription(kind, topic, messages.append, qos)
        self.until(lambda: self.count_publishers(topic) > 0, f"a publisher on {topic}")
        return messages

    def until(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
        """Serve callbacks until ``condition`` holds; fails the test with ``what`` was waited for."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
            for child in _running:
                assert not child.exit_code, f"a child died while waiting for {what}: {child.output}"
            self._executor.spin_once(timeout_sec=0.02)

    def knock(
        self, publisher: Any, message: Callable[[int], Any], answers: list[Any], *, stamps: Iterator[int] | None = None
    ) -> Any:
        """Publish messages of new stamps until one is answered; returns the first answer.

        A publisher knows of a subscription before that one knows of it, so what is published first may be lost.
        """
        count = len(answers)
        while len(answers) == count:
            publisher.publish(message(next(stamps) if stamps else self.next_stamp()))
            deadline = time.monotonic() + 1.0
            self.until(lambda limit=deadline: len(answers) > count or time.monotonic() > limit, "an answer")
        return answers[count]

    def idle(self, seconds: float) -> None:
        """Serve callbacks for a while, to see that nothing happens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of a service; asked again where none comes, as a server that does not know its client yet answers into the void."""
        client = self.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        asked: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        while not any(future.done() for future in asked):
            assert time.monotonic() < deadline, f"{name} gave no answer"
            asked.append(client.call_async(request))
            limit = time.monotonic() + 3.0
            self.until(lambda end=limit: any(future.done() for future in asked) or time.monotonic() > end, f"an answer of {name}")
        answer = next(future.result() for future in asked if future.done())
        self.destroy_client(client)
        return answer

    def next_stamp(self) -> int:
        """A stamp later than all before: 40 ms on, in nanoseconds."""
        return next(self._stamps) * 40_000_000 + 7

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=0)
        self.destroy_node()


def header(stamp: int, frame_id: str = "camera") -> Header:
    return Header(stamp=Time(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id=frame_id)


def image_message(pixels: NDArray[np.uint8], encoding: str, stamp: int, frame_id: str = "camera") -> Image:
    """An image message of an array whose rows are the message's rows."""
    rows = np.ascontiguousarray(pixels)
    return Image(
        header=header(stamp, frame_id), height=rows.shape[0], width=rows.shape[1], encoding=encoding,
        step=rows.nbytes // rows.shape[0], data=array("B", rows.tobytes()),
    )  # fmt: skip


def picture(height: int = 120, width: int = 160, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth random RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


@contextlib.contextmanager
def running(module: str, parameters: Mapping[str, object], **arguments: Any) -> Iterator[ChildProcess]:
    """A child for the time of a block; it must end by Ctrl-C with exit code 0 and no traceback, unless it has ended before."""
    child = ChildProcess(module, parameters=parameters, environment={"OMP_NUM_THREADS": "1"}, **arguments)
    _running.append(child)
    try:
        yield child
    finally:
        _running.remove(child)
        code = child.stop(PATIENCE)
        if code == -9:
            clean_shared_memory()
    assert "Traceback" not in child.output, child.output
    assert code == 0, child.output


def clean_shared_memory() -> None:
    """Remove what killed processes leave behind."""
    tool = shutil.which("fastdds", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if tool:
        subprocess.run([tool, "shm", "clean"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """The test's node, on a domain of its own."""
    before = os.environ.get("ROS_DOMAIN_ID")
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    use_large_image_profile()
    rclpy.init(args=[])
    node = Peer()
    yield node
    node.close()
    rclpy.try_shutdown()
    os.environ.pop("ROS_DOMAIN_ID") if before is None else os.environ.update(ROS_DOMAIN_ID=before)
