"""What the node adds to the engine, and whether large images arrive.

    python benchmarks/node_overhead.py [--model street]

Node overhead is the time from the subscription's callback to the published answer, less the engine's step and the wait in the mailbox;
detections and masks are subscribed to, the overlay is not. Images are best effort, keep last 1, 30 a second, from another process, with
config/fastdds_large_images.xml on both sides. Aims: 2 ms at 640x480, 4 ms at 1280x720, every image delivered.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from dataclasses import dataclass

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from dff_ros.engine.host import keep_freed_memory
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.listen import spin_until
from dff_ros.node.messages import ImageMessage
from dff_ros.node.process import use_large_image_profile

SIZES = ((640, 480), (1280, 720), (1920, 1080))
IMAGES = 90
RATE = 30.0
START_SECONDS = 120.0


@dataclass
class Measured:
    """One image size."""

    delivered: int
    answered: int
    overhead_ms: list[float]
    step_ms: list[float]


class Camera(Node):
    """Publishes images and notes what the node tells about them."""

    def __init__(self) -> None:
        super().__init__("benchmark_camera")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.publisher = self.create_publisher(Image, "/image", best_effort)
        self.infos: list[dict[str, str]] = []
        self.status: dict[str, str] = {}
        self.create_subscription(DiagnosticArray, "/dff/frame_info", self._on_info, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(Detection2DArray, "/dff/detections", lambda message: None, 5)
        self.create_subscription(Image, "/dff/segmentation", lambda message: None, 1)

    def _on_info(self, message: DiagnosticArray) -> None:
        self.infos.append({item.key: item.value for item in message.status[0].values})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.status.update((item.key, item.value) for status in message.status for item in status.values)

    def ready(self) -> bool:
        """The node is there and both sides know each other."""
        return bool(self.publisher.get_subscription_count()) and "received" in self.status

    def settled(self) -> bool:
        """Everything the node received is answered or dropped."""
        names = ("dropped", "processed", "failed", "bad")
        return bool(self.status) and int(self.status["received"]) == sum(int(self.status[name]) for name in names)


def measure(model: str, width: int, height: int) -> Measured:
    """Play images of one size to a fresh node."""
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
    rclpy.init(args=[])
    camera = Camera()
    child = ChildProcess("dff_node", parameters={"model": model, "report_cost": True})
    try:
        if not spin_until(camera, camera.ready, START_SECONDS):
            raise SystemExit(f"the node did not start:\n{child.output}")
        play(camera, width, height)
        camera.status.clear()  # what counts was said after the last image
        spin_until(camera, camera.settled, 20.0)
        received = int(camera.status["received"])
    finally:
        child.stop()
        camera.destroy_node()
        rclpy.try_shutdown()
    warm = camera.infos[5:]
    if not warm:
        raise SystemExit(f"{received} images of {width}x{height} arrived, {len(camera.infos)} were answered:\n{child.output}")
    overhead = [float(info["latency_ms"]) - float(info["wait_ms"]) - float(info["step_ms"]) for info in warm]
    return Measured(received, len(camera.infos), overhead, [float(info["step_ms"]) for info in warm])


def play(camera: Camera, width: int, height: int) -> None:
    """Publish the images by the clock."""
    executor = SingleThreadedExecutor()
    executor.add_node(camera)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    message = ImageMessage("bgr8")
    start = time.monotonic() + 0.5
    for index in range(IMAGES):
        due = start + index / RATE
        while (left := due - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
        stamp = 1_000_000_000 + round(index * 1e9 / RATE)
        header = Header(stamp=Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000), frame_id="camera")
        camera.publisher.publish(message.fill(header, np.roll(noise, 8 * index, axis=1)))
    executor.remove_node(camera)
    executor.shutdown(timeout_sec=0)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="Measure the node's overhead and the delivery of large images.")
    parser.add_argument("--model", default="street", help="bundle: a name under models/ or a folder")
    options = parser.parse_args()
    keep_freed_memory()
    use_large_image_profile()
    print("| image | delivered | answered | overhead median, p95 [ms] | step median [ms] |")
    print("|---|---|---|---|---|")
    for width, height in SIZES:
        result = measure(options.model, width, height)
        p95 = float(np.percentile(result.overhead_ms, 95))
        print(
            f"| {width}x{height} | {result.delivered} of {IMAGES} | {result.answered} | "
            f"{statistics.median(result.overhead_ms):.2f}, {p95:.2f} | {statistics.median(result.step_ms):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
