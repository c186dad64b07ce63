"""The running node as its users see it: what comes in, what goes out, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CAMVID_CLASSES, tiny_card
from diagnostic_msgs.msg import DiagnosticArray
from node_process import BEST_EFFORT, RELIABLE, SECOND, Peer, image_message, peer, picture, running
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo

from dff_ros.image_encoding import ENCODINGS, decode_compressed
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.messages import stamp_of

__all__ = ["peer"]

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Session:
    """The node under test, its camera, and everything it publishes."""

    def __init__(self, peer: Peer, child: ChildProcess) -> None:
        self.peer, self.child = peer, child
        self.camera = peer.create_publisher(Image, "/image", RELIABLE)
        self.detections = peer.collect(Detection2DArray, "/dff/detections")
        self.masks = peer.collect(Image, "/dff/segmentation")
        self.colours = peer.collect(Image, "/dff/segmentation_color")
        self.overlays = peer.collect(Image, "/dff/overlay", BEST_EFFORT)
        self.jpegs = peer.collect(CompressedImage, "/dff/overlay/compressed")
        self.infos = peer.collect(DiagnosticArray, "/dff/frame_info")
        self.numbers = [
            peer.collect(Float64, f"/dff/debug/{name}") for name in ("processing_time_ms", "pipeline_latency_ms", "cyclic_time_ms")
        ]
        self.diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
        peer.until(lambda: self.camera.get_subscription_count() == 1, "the node's subscription")
        peer.until(lambda: self.diagnostics, "diagnostics")  # subscribed to last: everything else is matched too
        peer.knock(self.camera, lambda stamp: image_message(picture(), "rgb8", stamp), self.infos)

    def show(self, message: Image) -> dict[str, str]:
        """Publish an image and wait for its answer; the values of its frame info."""
        count = len(self.infos)
        self.camera.publish(message)
        self.peer.until(lambda: len(self.infos) > count, f"an answer to {message.encoding} {message.width}x{message.height}")
        return self.values(self.infos[-1])

    def show_next(self, **changes: Any) -> dict[str, str]:
        """A usual image at the next stamp, with some changes."""
        frame_id = changes.pop("frame_id", "camera")
        pixels = changes.pop("pixels", picture())
        return self.show(image_message(pixels, changes.pop("encoding", "rgb8"), self.peer.next_stamp(), frame_id))

    @staticmethod
    def values(message: DiagnosticArray) -> dict[str, str]:
        return {item.key: item.value for item in message.status[0].values}

    def status(self, subject: str) -> Any:
        """The newest status about ``input`` or ``engine``."""
        found = [status for message in self.diagnostics for status in message.status if status.name == f"dff: {subject}"]
        return found[-1] if found else None

    def await_status(self, subject: str, text: str) -> None:
        self.diagnostics.clear()
        self.peer.until(lambda: self.status(subject) is not None and text in self.status(subject).message, f"a status with {text!r}")

    def counter(self, name: str) -> int:
        """A counter from diagnostics newer than this call."""
        self.diagnostics.clear()
        self.peer.until(lambda: self.status("input") is not None, "diagnostics")
        return int({item.key: item.value for item in self.status("input").values}[name])

    def set(self, name: str, value: object) -> Any:
        kinds = {
            bool: ("bool_value", ParameterType.PARAMETER_BOOL),
            float: ("double_value", ParameterType.PARAMETER_DOUBLE),
            str: ("string_value", ParameterType.PARAMETER_STRING),
        }
        field, kind = kinds[type(value)]
        request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))])
        return self.peer.call(SetParameters, "/dff/set_parameters", request).results[0]


@pytest.fixture(scope="module")
def session(peer: Peer, tiny_bundle: Path) -> Iterator[Session]:
    parameters = {"model": str(tiny_bundle), "schedule": "fixed:5", "score_threshold": 0.05, "report_cost": False, "threads": 1}
    with running("dff_node", parameters) as child:
        yield Session(peer, child)


@pytest.fixture(autouse=True)
def fresh_key(session: Session) -> None:
    """Each test starts with no key frame, whatever the one before left."""
    assert session.peer.call(Trigger, "/dff/reset", Trigger.Request()).success


def test_every_output_carries_the_images_header_bit_for_bit(session: Session) -> None:
    image = image_message(picture(), "rgb8", 1_700_000_000_123_456_789, "front_camera_optical_frame")
    outputs = (session.detections, session.masks, session.colours, session.overlays, session.jpegs, session.infos)
    session.show(image)
    session.peer.until(lambda: all(messages and messages[-1].header == image.header for messages in outputs), "its header on every topic")
    assert session.detections[-1].detections, "a random head finds something at this threshold"
    assert all(item.header == image.header for item in session.detections[-1].detections)


def test_detections_are_boxes_in_source_pixels_with_class_names(session: Session) -> None:
    session.show_next(pixels=picture(240, 400))
    for item in session.detections[-1].detections:
        x, y = item.bbox.center.position.x, item.bbox.center.position.y
        assert 0 <= x - item.bbox.size_x / 2 < x + item.bbox.size_x / 2 <= 400
        assert 0 <= y - item.bbox.size_y / 2 < y + item.bbox.size_y / 2 <= 240
        assert len(item.results) == 1
        assert item.results[0].hypothesis.class_id in ("person", "car", "bicyclist")
        assert 0.05 <= item.results[0].hypothesis.score <= 1


def test_class_ids_can_be_numbers(session: Session) -> None:
    assert session.set("class_id_format", "index").successful
    session.show_next()
    assert {item.results[0].hypothesis.class_id for item in session.detections[-1].detections} <= {"0", "1", "2"}
    assert session.set("class_id_format", "name").successful


def test_only_detections_above_the_threshold_are_published_and_an_empty_array_too(session: Session) -> None:
    assert session.set("score_threshold", 1.0).successful
    session.show_next()
    assert session.detections[-1].header == session.infos[-1].header
    assert not session.detections[-1].detections
    assert session.set("score_threshold", 0.05).successful


def test_the_mask_is_a_mono8_image_of_source_size_and_the_colour_image_its_palette(session: Session) -> None:
    session.show_next(pixels=picture(130, 170))
    session.peer.until(lambda: session.colours and session.colours[-1].header == session.infos[-1].header, "the colours")
    mask, colour = session.masks[-1], session.colours[-1]
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", 130, 170, 170)
    assert (colour.encoding, colour.height, colour.width, colour.step) == ("rgb8", 130, 170, 510)
    labels = np.frombuffer(mask.data, np.uint8).reshape(130, 170)
    assert labels.max() < len(CAMVID_CLASSES)
    palette = np.array(tiny_card().palette, np.uint8)
    np.testing.assert_array_equal(np.frombuffer(colour.data, np.uint8).reshape(130, 170, 3), palette[labels])


def test_the_overlay_is_the_picture_drawn_over_raw_and_as_jpeg(session: Session) -> None:
    session.overlays.clear()
    session.jpegs.clear()
    session.show_next()
    session.peer.until(lambda: session.overlays and session.jpegs, "the overlay in both forms")
    raw = np.frombuffer(session.overlays[-1].data, np.uint8).reshape(120, 160, 3)
    jpeg = decode_compressed(session.jpegs[-1].data, session.jpegs[-1].format)
    assert session.jpegs[-1].format == "rgb8; jpeg compressed bgr8"
    assert np.abs(raw.astype(int) - jpeg).mean() < 20  # red and blue in their places
    assert (raw != picture()).any()


def test_frame_info_tells_key_from_propagated_and_how_old_the_key_is(session: Session) -> None:
    infos = [session.show_next() for _ in range(6)]
    assert [info["kind"] for info in infos] == ["key", "propagated", "propagated", "propagated", "propagated", "key"]
    assert [info["reason"] for info in infos] == ["reset", "", "", "", "", "interval"]
    assert [int(info["key_age_frames"]) for info in infos] == [0, 1, 2, 3, 4, 0]
    assert [float(info["key_age_ms"]) for info in infos] == [0, 40, 80, 120, 160, 0]
    about_the_frame = {"kind", "key_age_frames", "key_age_ms", "key_ms", "reason", "motion_px", "disagreement"}
    assert infos[0].keys() == about_the_frame | {"latency_ms", "wait_ms", "step_ms"}
    assert len({info["key_ms"] for info in infos[:5]}) == 1 and float(infos[0]["key_ms"]) > 0
    for info in infos:
        assert float(info["latency_ms"]) >= float(info["wait_ms"]) + float(info["step_ms"])
    assert infos[0]["motion_px"] == ""
    assert float(infos[1]["motion_px"]) >= 0


def test_times_are_published_as_bare_numbers_too(session: Session) -> None:
    for messages in session.numbers:
        messages.clear()
    session.show_next()
    session.show_next()
    session.peer.until(lambda: all(session.numbers), "all three numbers")
    assert all(message.data > 0 for messages in session.numbers for message in messages)


def test_label_info_reaches_late_subscribers_and_names_every_id(session: Session) -> None:
    masks = session.peer.collect(LabelInfo, "/dff/segmentation/label_info", LATCHED)
    boxes = session.peer.collect(LabelInfo, "/dff/detections/label_info", LATCHED)
    session.peer.until(lambda: masks and boxes, "label info")
    assert [(item.class_id, item.class_name) for item in masks[0].class_map] == [*enumerate(CAMVID_CLASSES), (255, "UNLABELED")]
    names = [(item.class_id, item.class_name) for item in boxes[0].class_map]
    assert names == [(0, "person"), (1, "car"), (2, "bicyclist"), (255, "UNLABELED")]
    assert boxes[0].threshold == pytest.approx(0.05)
    count = len(boxes)
    assert session.set("score_threshold", 0.25).successful
    session.peer.until(lambda: len(boxes) > count, "label info with the new threshold")
    assert boxes[-1].threshold == pytest.approx(0.25)
    assert session.set("score_threshold", 0.05).successful


def test_topics_have_the_types_and_reliability_of_the_contract(session: Session) -> None:
    expected = {
        "detections": "vision_msgs/msg/Detection2DArray",
        "segmentation": "sensor_msgs/msg/Image",
        "segmentation_color": "sensor_msgs/msg/Image",
        "overlay": "sensor_msgs/msg/Image",
        "overlay/compressed": "sensor_msgs/msg/CompressedImage",
        "frame_info": "diagnostic_msgs/msg/DiagnosticArray",
        "segmentation/label_info": "vision_msgs/msg/LabelInfo",
        "detections/label_info": "vision_msgs/msg/LabelInfo",
        "debug/processing_time_ms": "std_msgs/msg/Float64",
    }
    for topic, kind in expected.items():
        (publisher,) = session.peer.get_publishers_info_by_topic(f"/dff/{topic}")
        assert publisher.topic_type == kind
        assert publisher.qos_profile.reliability.name == "RELIABLE"
        latched = topic.endswith("label_info")
        assert publisher.qos_profile.durability.name == ("TRANSIENT_LOCAL" if latched else "VOLATILE")
    (subscription,) = session.peer.get_subscriptions_info_by_topic("/image")
    assert subscription.qos_profile.reliability.name == "BEST_EFFORT"


def test_an_image_with_the_same_stamp_is_skipped(session: Session) -> None:
    duplicates = session.counter("duplicate")
    image = image_message(picture(), "rgb8", session.peer.next_stamp())
    session.show(image)
    session.camera.publish(image)
    session.peer.idle(0.3)
    session.show_next()
    stamps = [stamp_of(message.header) for message in session.infos[-2:]]
    assert stamps[0] < stamps[1]
    assert session.counter("duplicate") == duplicates + 1


def test_stamp_zero_means_unknown_and_is_never_skipped(session: Session) -> None:
    for _ in range(3):
        session.show(image_message(picture(), "rgb8", 0))
    assert session.child.output.count("images carry stamp 0") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frame_id": "other"}, "frame_id changed"),
        ({"encoding": "bgr8"}, "encoding changed"),
        ({"pixels": picture(96, 128)}, "size changed"),
    ],
)
def test_a_change_of_the_source_makes_a_key_frame(session: Session, change: dict[str, Any], reason: str) -> None:
    session.show_next()
    assert session.show_next()["kind"] == "propagated"
    info = session.show_next(**change)
    assert (info["kind"], info["reason"]) == ("key", reason)


def test_time_that_goes_back_or_jumps_makes_a_key_frame(session: Session) -> None:
    session.show_next()
    start = session.peer.next_stamp()
    assert session.show(image_message(picture(), "rgb8", start + 5 * SECOND))["reason"] == "gap"
    assert session.show(image_message(picture(), "rgb8", start))["reason"] == "time went back"


def test_enabling_again_makes_a_key_frame_and_nothing_comes_while_disabled(session: Session) -> None:
    session.show_next()
    assert session.peer.call(SetBool, "/dff/enable", SetBool.Request(data=False)).message == "disabled"
    count = len(session.infos)
    session.camera.publish(image_message(picture(), "rgb8", session.peer.next_stamp()))
    session.peer.idle(0.5)
    assert len(session.infos) == count
    session.await_status("input", "disabled")
    assert session.peer.call(SetBool, "/dff/enable", SetBool.Request(data=True)).message == "enabled"
    info = session.show_next()
    assert (info["kind"], info["reason"]) == ("key", "enabled")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_the_contract_is_answered(session: Session, encoding: str) -> None:
    height, width = 48, 64
    bytes_per_pixel = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}.get(encoding, 1)
    if encoding.endswith("16") or encoding in ("uyvy", "yuyv", "yuv422", "yuv422_yuy2"):
        bytes_per_pixel = 2
    rows = {"nv12": height * 3 // 2, "nv21": height * 3 // 2, "nv24": height * 3}.get(encoding, height)
    image = image_message(np.full((rows, width * bytes_per_pixel), 77, np.uint8), encoding, session.peer.next_stamp())
    image.height, image.width = height, width
    session.show(image)
    assert (session.masks[-1].height, session.masks[-1].width) == (height, width)


def bad_images(stamp: int) -> dict[str, Image]:
    images = {name: image_message(picture(), "rgb8", stamp) for name in ("unknown encoding", "short data", "zero size", "small step")}
    images["unknown encoding"].encoding = "holo9"
    images["short data"].data = images["short data"].data[:1000]
    images["zero size"].width = images["zero size"].height = 0
    images["small step"].step = 10
    return images


@pytest.mark.parametrize("name", list(bad_images(0)))
def test_an_unreadable_image_is_counted_and_the_next_one_answered(session: Session, name: str) -> None:
    bad = session.counter("bad")
    session.camera.publish(bad_images(session.peer.next_stamp())[name])
    session.peer.idle(0.2)
    session.show_next()
    assert session.counter("bad") == bad + 1
    assert "image skipped: encoding should be one of" in session.child.output  # the first of them; the log is throttled


def test_images_that_are_too_old_are_dropped_and_the_hint_names_use_sim_time(session: Session) -> None:
    stale = session.counter("stale")
    assert session.set("max_image_age", 0.5).successful
    for _ in range(3):
        session.camera.publish(image_message(picture(), "rgb8", session.peer.next_stamp()))
        session.peer.idle(0.1)
    session.peer.until(lambda: session.status("input") and "use_sim_time" in session.status("input").message, "the hint")
    assert session.set("max_image_age", 0.0).successful
    session.show_next()
    assert session.counter("stale") == stale + 3


def test_diagnostics_tell_rates_counts_percentiles_and_memory(session: Session) -> None:
    for _ in range(5):
        session.show_next()
    session.diagnostics.clear()
    session.peer.until(lambda: session.status("engine") is not None, "diagnostics")
    values = {item.key: item.value for subject in ("input", "engine") for item in session.status(subject).values}
    names = ["received", "dropped", "processed", "duplicate", "stale", "bad", "failed"]
    counts = {name: int(values[name]) for name in names}
    assert counts["received"] == sum(counts[name] for name in names[1:])
    assert float(values["input_rate_hz"]) > 0
    assert 0 < float(values["key_rate"]) <= 1
    assert float(values["latency_ms_p50"]) <= float(values["latency_ms_p95"]) <= float(values["latency_ms_p99"])
    assert float(values["memory_mib"]) > 50
    assert (values["model"], values["device"], values["schedule"], values["refine"]) == ("tiny", "cpu", "fixed:5", "off")


def test_diagnostics_say_when_no_image_comes_and_why(session: Session) -> None:
    session.await_status("input", "no image for")
    assert "fastdds_large_images.xml" in session.status("input").message  # a publisher is there, and silent


def test_parameters_are_described_ranged_and_read_only_where_they_cannot_change(session: Session) -> None:
    request = DescribeParameters.Request(names=["score_threshold", "model", "schedule", "threads", "image_transport"])
    threshold, model, schedule, threads, transport = session.peer.call(
        DescribeParameters, "/dff/describe_parameters", request
    ).descriptors
    assert all(item.description for item in (threshold, model, schedule, threads, transport))
    assert (threshold.floating_point_range[0].from_value, threshold.floating_point_range[0].to_value) == (0.05, 1.0)
    assert (threads.integer_range[0].from_value, threads.integer_range[0].to_value) == (0, 256)
    assert [item.read_only for item in (threshold, model, schedule, threads, transport)] == [False, True, False, True, True]
    assert "raw | compressed" in transport.description


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("schedule", "sometimes", "schedule should be per-frame, fixed:N"),
        ("schedule", "fixed:0", "key frame interval should be at least 1"),
        ("score_threshold", 2.0, "range"),
        ("class_id_format", "number", "class_id_format should be one of name, index"),
        ("model", "other", "read-only"),
    ],
)
def test_a_bad_parameter_is_refused_with_the_reason(session: Session, name: str, value: object, reason: str) -> None:
    result = session.set(name, value)
    assert not result.successful
    assert reason in result.reason


def test_a_new_schedule_holds_from_the_next_frame(session: Session) -> None:
    session.show_next()
    assert session.set("schedule", "per-frame").successful
    assert {session.show_next()["kind"] for _ in range(3)} == {"key"}
    assert session.set("schedule", "fixed:5").successful


def test_heads_can_be_switched_off(session: Session) -> None:
    assert session.set("segmentation", False).successful
    count = len(session.masks)
    session.show_next()
    assert session.detections[-1].header == session.infos[-1].header
    assert len(session.masks) == count
    assert session.set("segmentation", True).successful


def test_a_flood_of_images_is_dropped_by_count_and_latency_stays_bounded(session: Session) -> None:
    received = session.counter("received")
    image = image_message(picture(480, 640), "rgb8", 0)
    for _ in range(100):
        image.header = image_message(picture(16, 16), "rgb8", session.peer.next_stamp()).header
        session.camera.publish(image)
    session.peer.idle(0.5)
    final = session.show_next()
    assert float(final["wait_ms"]) < 1000
    assert session.counter("received") - received <= 101
    assert session.counter("dropped") > 0
