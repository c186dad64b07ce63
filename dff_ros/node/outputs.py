"""The topics of ``dff_node``: who listens decides what is computed, drawn and encoded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from dff_ros.core.bundle import Card
from dff_ros.core.results import Task
from dff_ros.image_encoding import encode_jpeg
from dff_ros.message_fields import caption
from dff_ros.node.messages import (
    ImageMessage,
    compressed_message,
    detections_message,
    frame_info_message,
    label_info_message,
    number_message,
)
from dff_ros.node.pipeline import Answer
from dff_ros.overlay import colour_map, draw_results

RELIABLE = QoSProfile(depth=5)
NEWEST_IMAGE = QoSProfile(depth=1)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """Publishers of one node, and the messages they reuse. Plain publishers: lifecycle ones drop silently while inactive."""

    def __init__(self, node: Node, card: Card) -> None:
        self._node = node
        self._card = card
        self._detections = self._publisher(Detection2DArray, "~/detections", RELIABLE)
        self._segmentation = self._publisher(Image, "~/segmentation", NEWEST_IMAGE)
        self._colour = self._publisher(Image, "~/segmentation_color", NEWEST_IMAGE)
        self._overlay = self._publisher(Image, "~/overlay", NEWEST_IMAGE)
        # Beside the resolved name, so that a remap of the overlay moves both.
        self._overlay_jpeg = self._publisher(CompressedImage, node.resolve_topic_name("~/overlay") + "/compressed", NEWEST_IMAGE)
        self._frame_info = self._publisher(DiagnosticArray, "~/frame_info", RELIABLE)
        self._label_info = {
            Task.SEGMENTATION: self._publisher(LabelInfo, "~/segmentation/label_info", LATCHED),
            Task.DETECTION: self._publisher(LabelInfo, "~/detections/label_info", LATCHED),
        }
        self._numbers = {
            name: self._publisher(Float64, f"~/debug/{name}", RELIABLE)
            for name in ("processing_time_ms", "pipeline_latency_ms", "cyclic_time_ms")
        }
        self._messages = {name: ImageMessage(encoding) for name, encoding in (("mask", "mono8"), ("colour", "rgb8"), ("overlay", "rgb8"))}
        self._previous = 0.0

    def _publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        return self._node.create_publisher(kind, topic, qos)

    def destroy(self) -> None:
        """Destroy all publishers."""
        own = [self._detections, self._segmentation, self._colour, self._overlay, self._overlay_jpeg, self._frame_info]
        for publisher in (*own, *self._label_info.values(), *self._numbers.values()):
            self._node.destroy_publisher(publisher)

    @property
    def wanted_tasks(self) -> frozenset[Task]:
        """The heads that somebody listens to."""
        overlay = _heard(self._overlay) or _heard(self._overlay_jpeg)
        wanted = {
            Task.SEGMENTATION: overlay or _heard(self._segmentation) or _heard(self._colour),
            Task.DETECTION: overlay or _heard(self._detections),
        }
        return frozenset(task for task, heard in wanted.items() if heard)

    def publish_label_info(self, threshold: float) -> None:
        """Say which ids stand for which classes; kept for subscribers that come later."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        if self._card.segmentation_classes:
            message = label_info_message(header, self._card.segmentation_classes, 0.0)  # each pixel has its best class
            self._label_info[Task.SEGMENTATION].publish(message)
        if self._card.detection_classes:
            self._label_info[Task.DETECTION].publish(label_info_message(header, self._card.detection_classes, threshold))

    def publish_results(self, answer: Answer, *, threshold: float, class_id_format: str) -> None:
        """Detections and class ids: what others wait for, so it goes out first."""
        header, result = answer.message.header, answer.result
        if result.detections is not None and _heard(self._detections):
            names = self._card.detection_classes
            class_ids = names if class_id_format == "name" else [str(index) for index in range(len(names))]
            self._detections.publish(detections_message(header, result.detections.above(threshold), class_ids))
        if result.label_map is not None and _heard(self._segmentation):
            self._segmentation.publish(self._messages["mask"].fill(header, result.label_map.labels))

    def publish_frame_info(self, answer: Answer, times: Mapping[str, float]) -> None:
        """How the frame was answered."""
        self._frame_info.publish(frame_info_message(answer.message.header, self._node.get_name(), answer.result, times))

    def publish_pictures(self, answer: Answer, *, threshold: float, jpeg_quality: int) -> None:
        """What is drawn for people, where somebody looks."""
        header, label_map = answer.message.header, answer.result.label_map
        if label_map is not None and _heard(self._colour):
            self._colour.publish(self._messages["colour"].fill(header, colour_map(label_map.labels, self._card.palette)))
        raw, jpeg = _heard(self._overlay), _heard(self._overlay_jpeg)
        if raw or jpeg:
            picture = overlay_picture(answer, self._card, threshold)
            if raw:
                self._overlay.publish(self._messages["overlay"].fill(header, picture))
            if jpeg:
                self._overlay_jpeg.publish(compressed_message(header, encode_jpeg(picture, jpeg_quality)))

    def publish_numbers(self, *, step_ms: float, pipeline_ms: float | None) -> None:
        """The same times as bare numbers, for plotting; ``pipeline_ms`` is the age of the answer by the image's stamp."""
        now = time.monotonic()
        cyclic_ms = (now - self._previous) * 1e3 if self._previous else None
        self._previous = now
        values = {"processing_time_ms": step_ms, "pipeline_latency_ms": pipeline_ms, "cyclic_time_ms": cyclic_ms}
        for name, value in values.items():
            if value is not None and _heard(self._numbers[name]):
                self._numbers[name].publish(number_message(value))


def overlay_picture(answer: Answer, card: Card, threshold: float) -> Any:
    """The frame with its boxes, mask and the age of its key frame, (H, W, 3) uint8."""
    result = answer.result
    detections = None if result.detections is None else result.detections.above(threshold)
    return draw_results(
        answer.frame,
        detections,
        result.label_map,
        class_names=card.detection_classes,
        palette=card.palette,
        caption=caption(result.kind, result.key_age_frames, result.key_age_ms),
    )


def _heard(publisher: Publisher) -> bool:
    return bool(publisher.get_subscription_count())
