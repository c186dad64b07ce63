"""Results as ROS messages. Every header is the image's own: stamp and frame_id are copied bit for bit."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, Header
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

from dff_ros.core.results import Detections
from dff_ros.engine.stream import FrameResult
from dff_ros.image_encoding import JPEG_FORMAT
from dff_ros.message_fields import centre_and_size, frame_info_values, label_names


def stamp_of(header: Header) -> int:
    """A header's stamp in nanoseconds; 0 means unknown."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def detections_message(header: Header, detections: Detections, class_ids: Sequence[str]) -> Detection2DArray:
    """Boxes in source pixels; ``class_ids[label]`` is what a detection carries as its class."""
    message = Detection2DArray(header=header)
    for box, score, label in zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True):
        message.detections.append(_detection(header, box, score, class_ids[label]))
    return message


def _detection(header: Header, box: Sequence[float], score: float, class_id: str) -> Detection2D:
    detection = Detection2D(header=header)
    centre = detection.bbox.center.position
    centre.x, centre.y, detection.bbox.size_x, detection.bbox.size_y = centre_and_size(box)
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = class_id
    result.hypothesis.score = score
    detection.results.append(result)
    return detection


class ImageMessage:
    """One ``sensor_msgs/Image`` that is filled anew for every frame.

    Its data is an ``array`` written in place: assigning bytes or lists to ``data`` makes rclpy check every single byte.
    """

    def __init__(self, encoding: str) -> None:
        self._message = Image(encoding=encoding, is_bigendian=0)

    def fill(self, header: Header, pixels: NDArray[np.uint8]) -> Image:
        """The message for ``pixels``, (H, W) or (H, W, C) of any strides; valid until the next call."""
        message = self._message
        if len(message.data) != pixels.size:
            message.data = array("B", bytes(pixels.size))
        np.frombuffer(message.data, np.uint8).reshape(pixels.shape)[...] = pixels
        message.header = header
        message.height, message.width = pixels.shape[:2]
        message.step = pixels.size // pixels.shape[0]
        return message


def compressed_message(header: Header, jpeg: bytes) -> CompressedImage:
    """A colour JPEG."""
    message = CompressedImage(header=header, format=JPEG_FORMAT)
    message.data = array("B", jpeg)
    return message


def label_info_message(header: Header, names: Sequence[str], threshold: float) -> LabelInfo:
    """The classes of one task, with the id that vision_msgs reserves for pixels of none."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in label_names(names)]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)


def frame_info_message(header: Header, name: str, result: FrameResult, times: Mapping[str, float]) -> DiagnosticArray:
    """How one frame was answered, and ``times`` in milliseconds."""
    values = key_values(frame_info_values(result, times))
    status = DiagnosticStatus(level=DiagnosticStatus.OK, name=name, message=result.kind, values=values)
    return DiagnosticArray(header=header, status=[status])


def key_values(values: Mapping[str, str]) -> list[KeyValue]:
    """A mapping as diagnostic_msgs spells it."""
    return [KeyValue(key=key, value=value) for key, value in values.items()]


def number_message(value: float) -> Float64:
    """A bare number, for plotting tools."""
    return Float64(data=float(value))
