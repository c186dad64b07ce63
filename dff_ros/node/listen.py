"""A third party's view of a running node: subscribes to the camera and to what the node publishes, and counts.

    python -m dff_ros.node.listen --node /dff --image /camera/image_raw --seconds 10
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from dff_ros.core.results import ALL_TASKS, UNLABELLED, Task
from dff_ros.message_fields import boxes_of
from dff_ros.node.counters import percentiles
from dff_ros.node.messages import stamp_of


@dataclass(frozen=True)
class HeardDetections:
    """One Detection2DArray: boxes (N, 4) as x1 y1 x2 y2, classes and scores."""

    boxes: NDArray[np.float64]
    classes: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass
class Heard:
    """Everything that came in, by stamp in nanoseconds."""

    images: dict[int, float] = field(default_factory=dict)
    """When each image came, ``time.monotonic`` seconds."""
    answers: dict[int, float] = field(default_factory=dict)
    """When detections and mask, whatever of them is listened to, had come."""
    detections: dict[int, HeardDetections] = field(default_factory=dict)
    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Class ids, (H, W)."""
    frame_info: dict[int, dict[str, str]] = field(default_factory=dict)
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last values of each status, by what stands after the colon of its name (``input``, ``engine``)."""
    diagnosed_at: float = 0.0
    """When those came, ``time.monotonic`` seconds."""
    class_names: dict[int, str] = field(default_factory=dict)
    """Names of the class ids of the masks."""
    listens_to: frozenset[Task] = ALL_TASKS

    @property
    def answered(self) -> set[int]:
        """Stamps of the frames for which everything listened to has come."""
        stamps = set(self.frame_info)
        if Task.DETECTION in self.listens_to:
            stamps &= self.detections.keys()
        if Task.SEGMENTATION in self.listens_to:
            stamps &= self.masks.keys()
        return stamps

    @property
    def latencies_ms(self) -> list[float]:
        """From receiving the image to having detections and mask, by this process' clock."""
        shared = self.images.keys() & self.answers.keys()
        return [(self.answers[stamp] - self.images[stamp]) * 1e3 for stamp in sorted(shared)]

    @property
    def key_rate(self) -> float | None:
        """Frames made key frames, at once or aside, among those told about; None where there were none."""
        made_keys = [info["kind"] == "key" or info["reason"] != "" for info in self.frame_info.values()]
        return sum(made_keys) / len(made_keys) if made_keys else None

    @property
    def detections_per_frame(self) -> float | None:
        """Mean number of detections; None where none were heard of."""
        counts = [len(item.classes) for item in self.detections.values()]
        return sum(counts) / len(counts) if counts else None

    @property
    def classes_detected(self) -> Counter[str]:
        """How many detections there were of each class."""
        return Counter(name for item in self.detections.values() for name in item.classes)

    @property
    def classes_segmented(self) -> dict[str, float]:
        """Share of all pixels that each class holds, largest first; unlabelled pixels count as none."""
        counts = sum((np.bincount(mask.reshape(-1), minlength=256) for mask in self.masks.values()), np.zeros(256, np.int64))
        shares = {self.class_names.get(k, str(k)): counts[k] / counts.sum() for k in np.argsort(-counts) if counts[k] and k != UNLABELLED}
        return {name: float(share) for name, share in shares.items()}

    def count(self, name: str) -> int:
        """A counter of the node's own, from its diagnostics; 0 before the first ones."""
        return int(self.diagnostics.get("input", {}).get(name, 0))


class Listener(Node):
    """Fills a ``Heard`` with what one camera and one node publish."""

    def __init__(
        self, *, node: str = "/dff", image: str = "/image", compressed: bool = False, tasks: frozenset[Task] = ALL_TASKS
    ) -> None:
        super().__init__("dff_listener")
        self.heard = Heard(listens_to=tasks)
        self._target = node.lstrip("/")
        reliable = QoSProfile(depth=50)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        newest = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        kind, topic = (CompressedImage, f"{image}/compressed") if compressed else (Image, image)
        self.create_subscription(kind, topic, self._on_image, newest)
        self.create_subscription(DiagnosticArray, f"{node}/frame_info", self._on_frame_info, reliable)
        self.create_subscription(LabelInfo, f"{node}/segmentation/label_info", self._on_label_info, latched)
        if Task.DETECTION in tasks:
            self.create_subscription(Detection2DArray, f"{node}/detections", self._on_detections, reliable)
        if Task.SEGMENTATION in tasks:
            self.create_subscription(Image, f"{node}/segmentation", self._on_mask, reliable)
        # The last one: discovery keeps the order, so whoever hears the first diagnostics hears all that comes after them.
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable)

    def _note_answer(self, stamp: int) -> None:
        heard = self.heard
        has_detections = stamp in heard.detections or Task.DETECTION not in heard.listens_to
        has_mask = stamp in heard.masks or Task.SEGMENTATION not in heard.listens_to
        if has_detections and has_mask:
            heard.answers[stamp] = time.monotonic()

    def _on_image(self, message: Image | CompressedImage) -> None:
        self.heard.images[stamp_of(message.header)] = time.monotonic()

    def _on_detections(self, message: Detection2DArray) -> None:
        results = [item.results[0].hypothesis for item in message.detections]
        stamp = stamp_of(message.header)
        self.heard.detections[stamp] = HeardDetections(
            boxes_of(message), tuple(item.class_id for item in results), tuple(item.score for item in results)
        )
        self._note_answer(stamp)

    def _on_mask(self, message: Image) -> None:
        pixels: NDArray[np.uint8] = np.frombuffer(message.data, np.uint8)
        stamp = stamp_of(message.header)
        self.heard.masks[stamp] = pixels.reshape(message.height, message.step)[:, : message.width].copy()
        self._note_answer(stamp)

    def _on_frame_info(self, message: DiagnosticArray) -> None:
        self.heard.frame_info[stamp_of(message.header)] = {item.key: item.value for item in message.status[0].values}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            source, _, subject = status.name.partition(": ")
            if source == self._target:
                self.heard.diagnosed_at = time.monotonic()
                self.heard.diagnostics[subject] = {"message": status.message, **{item.key: item.value for item in status.values}}

    def _on_label_info(self, message: LabelInfo) -> None:
        self.heard.class_names = {item.class_id: item.class_name for item in message.class_map}


def spin_until(node: Node, condition: Callable[[], bool], timeout: float) -> bool:
    """Serve ``node`` until ``condition`` holds; False where ``timeout`` seconds were not enough."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + timeout
    try:
        while not condition():
            if time.monotonic() > deadline or not rclpy.ok():
                return False
            executor.spin_once(timeout_sec=0.05)
        return True
    finally:
        executor.remove_node(node)
        executor.shutdown(timeout_sec=0)


def describe(heard: Heard) -> list[str]:
    """What was heard, in a few lines."""
    shares = percentiles(heard.latencies_ms)
    latency = f"latency p50 {shares['p50']:.1f} ms, p95 {shares['p95']:.1f} ms" if shares else "latency unknown"
    key_rate = "unknown" if heard.key_rate is None else f"{heard.key_rate:.3f}"
    per_frame = "unknown" if heard.detections_per_frame is None else f"{heard.detections_per_frame:.2f}"
    detected = ", ".join(f"{name} {count}" for name, count in heard.classes_detected.most_common()) or "none"
    segmented = ", ".join(f"{name} {share:.1%}" for name, share in heard.classes_segmented.items()) or "none"
    return [
        f"images {len(heard.images)}, detections {len(heard.detections)}, masks {len(heard.masks)}, frame infos {len(heard.frame_info)}",
        f"{latency} (from receiving an image to having its answer, seen from outside)",
        f"key rate {key_rate}",
        f"detections per frame {per_frame}",
        f"classes detected: {detected}",
        f"classes segmented: {segmented}",
    ]


def main(args: Sequence[str] | None = None) -> int:
    """Listen for a while and print what was heard; 1 where that was nothing."""
    parser = argparse.ArgumentParser(description="Listen to a running dff_node and print what it publishes.")
    parser.add_argument("--node", default="/dff", help="full name of the node")
    parser.add_argument("--image", default="/image", help="the camera's topic")
    parser.add_argument("--compressed", action="store_true", help="the camera publishes IMAGE/compressed")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(args)
    rclpy.init(args=[])
    listener = Listener(node=options.node, image=options.image, compressed=options.compressed)
    try:
        spin_until(listener, lambda: False, options.seconds)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        listener.destroy_node()
        rclpy.try_shutdown()
    print("\n".join(describe(listener.heard)))
    return 0 if listener.heard.frame_info else 1


if __name__ == "__main__":
    sys.exit(main())
