"""Results as messages, and messages read back."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from dff_ros.core.results import Detections
from dff_ros.engine.stream import FrameResult
from dff_ros.image_encoding import decode_compressed, encode_jpeg
from dff_ros.message_fields import boxes_of
from dff_ros.node.messages import (
    ImageMessage,
    compressed_message,
    detections_message,
    frame_info_message,
    label_info_message,
    stamp_of,
)

HEADER = Header(stamp=Time(sec=1_700_000_000, nanosec=123_456_789), frame_id="camera")


def test_a_stamp_is_nanoseconds() -> None:
    assert stamp_of(HEADER) == 1_700_000_000_123_456_789
    assert stamp_of(Header()) == 0


def test_a_box_is_its_centre_and_size_and_comes_back_as_edges() -> None:
    boxes = np.array([[10.0, 20.0, 30.5, 60.0], [0.0, 0.0, 1.0, 2.0]], np.float32)
    message = detections_message(HEADER, Detections(boxes, np.array([0.75, 0.5], np.float32), np.array([1, 0])), ["person", "car"])
    first = message.detections[0]
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.25, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y, first.bbox.center.theta) == (20.5, 40.0, 0.0)
    assert [(item.results[0].hypothesis.class_id, item.results[0].hypothesis.score) for item in message.detections] == [
        ("car", 0.75),
        ("person", 0.5),
    ]
    np.testing.assert_array_equal(boxes_of(message), boxes)


def test_no_detections_are_an_empty_array_with_the_header() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    message = detections_message(HEADER, nothing, ["person"])
    assert message.header == HEADER
    assert not message.detections
    assert boxes_of(message).shape == (0, 4)


def test_an_image_message_is_filled_in_place_and_follows_size_and_strides() -> None:
    message = ImageMessage("rgb8")
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    first = message.fill(HEADER, pixels[..., ::-1])
    assert (first.height, first.width, first.step, first.encoding, first.header) == (2, 3, 9, "rgb8", HEADER)
    assert bytes(first.data) == np.ascontiguousarray(pixels[..., ::-1]).tobytes()
    data = first.data
    again = message.fill(HEADER, pixels)
    assert isinstance(data, array) and again.data is data  # no allocation, no copy by the setter
    assert bytes(again.data) == pixels.tobytes()
    larger = message.fill(HEADER, np.zeros((4, 5, 3), np.uint8))
    assert (larger.height, larger.width, larger.step, len(larger.data)) == (4, 5, 15, 60)


def test_a_mask_has_one_byte_for_each_pixel() -> None:
    message = ImageMessage("mono8").fill(HEADER, np.full((2, 3), 255, np.uint8))
    assert (message.step, bytes(message.data)) == (3, b"\xff" * 6)


def test_a_jpeg_keeps_red_and_blue_apart() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    message = compressed_message(HEADER, encode_jpeg(red))
    assert decode_compressed(message.data, message.format)[8, 8].tolist() == pytest.approx([250, 0, 0], abs=4)


def test_label_info_has_every_class_and_the_unlabelled_id() -> None:
    message = label_info_message(HEADER, ["road", "car"], 0.5)
    assert [(item.class_id, item.class_name) for item in message.class_map] == [(0, "road"), (1, "car"), (255, "UNLABELED")]
    assert message.threshold == 0.5


def test_frame_info_leaves_empty_what_was_not_computed() -> None:
    result = FrameResult(
        stamp=1, is_key=True, reason="interval", key_age_frames=0, key_age_ms=0.0, key_ms=1.0, motion_px=None, disagreement=None,
        detections=None, label_map=None, step_ms=2.0, feature_ms=1.0, flow_ms=0.5, refine_ms=0.0, head_ms=0.5,
    )  # fmt: skip
    message = frame_info_message(HEADER, "dff", result, {"latency_ms": 3.14159})
    (status,) = message.status
    assert (status.name, status.level, status.message) == ("dff", DiagnosticStatus.OK, "key")
    values = {item.key: item.value for item in status.values}
    assert values == {
        "kind": "key", "key_age_frames": "0", "key_age_ms": "0.000", "key_ms": "1.000", "reason": "interval", "motion_px": "",
        "disagreement": "", "latency_ms": "3.142",
    }  # fmt: skip
