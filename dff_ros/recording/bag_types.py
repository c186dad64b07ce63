"""Message types of bags: the bag's own definitions where it has them, else those of ROS 2 Jazzy and vision_msgs 4.1.1."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dff_ros.recording.bag_contents import Topic
from dff_ros.recording.decompression import ZSTD_MAGIC, inflate_message

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
IMAGES = (IMAGE, COMPRESSED_IMAGE)
DETECTIONS, LABEL_INFO = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/LabelInfo"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"

VISION_MSGS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\nstring id"
    ),
    DETECTIONS: "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold",
}
"""The types that no store of rosbags holds, by the text of their .msg files; a test holds their hashes against the built messages."""

_FIXED = frozenset({IMAGE, COMPRESSED_IMAGE})
"""Types that never changed, so that a bag's own definition, perhaps damaged, is not needed."""


def new_typestore() -> Typestore:
    """The types of ROS 2 Jazzy and of ``VISION_MSGS``."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in VISION_MSGS.items():
        store.register(get_types_from_msg(definition, name))
    return store


@cache
def _known_types() -> Typestore:
    return new_typestore()


class Deserializer:
    """Messages from CDR, each type by the definition in the bag."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._stores = {topic.kind: _store_for(topic) for topic in topics}

    def __call__(self, data: bytes, kind: str) -> Any:
        """A message of ``kind``, which may be compressed by itself; raises one of ``UNREADABLE`` or SerdeError for damaged data."""
        if data[:4] == ZSTD_MAGIC:  # CDR begins with a zero
            data = inflate_message(data)
        return self._stores[kind].deserialize_cdr(data, kind)


def _store_for(topic: Topic) -> Typestore:
    if topic.definition and topic.kind not in _FIXED:
        store = get_typestore(Stores.EMPTY)
        try:
            store.register(get_types_from_msg(topic.definition, topic.kind))
        except (TypesysError, ValueError):
            return _known_types()
        return store
    return _known_types()
