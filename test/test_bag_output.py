"""Bags that a replay writes: what the live node would have said, read back by rosbags, with the official types."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CAMVID_CLASSES
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from test_bags import STORAGES, Storage, stamp
from test_messages_build import TYPE_HASHES, is_our_build
from test_replay_bags import bag_of, pattern, replayed

from dff_ros.core.results import Detections
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.outputs.bag_output import detections_message
from dff_ros.evaluation.replay import main
from dff_ros.image_encoding import decode_compressed
from dff_ros.message_fields import boxes_of
from dff_ros.recording.bag_types import VISION_MSGS, new_typestore
from dff_ros.recording.bags import BagWriter, open_reader

TOPICS = {
    "/dff/detections": "vision_msgs/msg/Detection2DArray",
    "/dff/detections/label_info": "vision_msgs/msg/LabelInfo",
    "/dff/frame_info": "diagnostic_msgs/msg/DiagnosticArray",
    "/dff/overlay/compressed": "sensor_msgs/msg/CompressedImage",
    "/dff/segmentation": "sensor_msgs/msg/Image",
    "/dff/segmentation/label_info": "vision_msgs/msg/LabelInfo",
}


def messages(bag: Path) -> dict[str, list[tuple[int, Any]]]:
    """All messages by topic, with the time at which they were recorded; read by rosbags alone."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([bag]) as reader:
        for connection, received, data in reader.messages():
            found.setdefault(connection.topic, []).append((received, reader.deserialize(data, connection.msgtype)))
    return found


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def answers(bundle: Path, images: int) -> list[FrameResult]:
    """What the engine says about the pictures of the bag."""
    settings = EngineSettings(model=str(bundle), device="cpu", schedule="fixed:3", max_key_age=0.0)
    stream = FeatureFlowStream(load_model(settings), settings)
    return [stream.step(pattern(index), stamp(index)) for index in range(images)]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_replay_writes_what_the_node_would_have_said(tmp_path: Path, tiny_bundle: Path, storage: Storage) -> None:
    output = tmp_path / "answers"
    replayed(tmp_path, tiny_bundle, bag_of(tmp_path / "bag", storage, images=5), "--bag-out", str(output))
    assert open_reader(output).storage == storage
    found = messages(output)
    assert {name: topic.kind for name, topic in open_reader(output).topics.items()} == TOPICS
    expected = answers(tiny_bundle, 5)
    for name in ("/dff/detections", "/dff/frame_info", "/dff/overlay/compressed", "/dff/segmentation"):
        assert [(received, stamp_of(item), item.header.frame_id) for received, item in found[name]] == [
            (stamp(index), stamp(index), "frame_0") for index in range(5)
        ]
    for result, (_, said), (_, mask) in zip(expected, found["/dff/detections"], found["/dff/segmentation"], strict=True):
        shown = result.detections.above(EngineSettings().score_threshold)
        np.testing.assert_allclose(boxes_of(said), shown.boxes, rtol=0, atol=1e-3)
        assert [item.results[0].hypothesis.score for item in said.detections] == shown.scores.tolist()
        assert (mask.encoding, mask.step, mask.height, mask.width) == ("mono8", 128, 96, 128)
        assert np.array_equal(mask.data.reshape(96, 128), result.label_map.labels)
    for result, (_, info) in zip(expected, found["/dff/frame_info"], strict=True):
        values = {item.key: item.value for item in info.status[0].values}
        assert (info.status[0].name, info.status[0].message, values["kind"]) == ("dff", result.kind, result.kind)
        assert (values["reason"], values["key_age_frames"], values["latency_ms"]) == (result.reason, str(result.key_age_frames), "")
        assert float(values["step_ms"]) > 0
    (_, picture), *_ = found["/dff/overlay/compressed"]
    assert decode_compressed(picture.data, picture.format).shape == (96, 128, 3)


def test_label_info_is_latched_and_names_every_id(tmp_path: Path, tiny_bundle: Path) -> None:
    output = tmp_path / "answers"
    replayed(tmp_path, tiny_bundle, bag_of(tmp_path / "bag", images=2), "--bag-out", str(output))
    found = messages(output)
    ((_, segmentation),), ((_, detections),) = found["/dff/segmentation/label_info"], found["/dff/detections/label_info"]
    assert [(item.class_id, item.class_name) for item in segmentation.class_map] == [*enumerate(CAMVID_CLASSES), (255, "UNLABELED")]
    assert segmentation.threshold == 0 and detections.threshold == pytest.approx(EngineSettings().score_threshold)
    with AnyReader([output]) as reader:
        offered = {item.topic: [qos.durability for qos in item.ext.offered_qos_profiles] for item in reader.connections}
        latched = {topic for topic, kinds in offered.items() if QosDurability.TRANSIENT_LOCAL in kinds}
    assert latched == {"/dff/segmentation/label_info", "/dff/detections/label_info"}


def test_the_messages_are_recorded_when_the_images_were(tmp_path: Path, tiny_bundle: Path) -> None:
    later = 5_000_000_000
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(3):
            writer.write_image("/image", pattern(index), stamp(index), at=stamp(index) + later)
    output = tmp_path / "answers"
    replayed(tmp_path, tiny_bundle, tmp_path / "bag", "--bag-out", str(output))
    assert [(received, stamp_of(item)) for received, item in messages(output)["/dff/detections"]] == [
        (stamp(index) + later, stamp(index)) for index in range(3)
    ]


def test_two_cameras_have_topics_of_their_own(tmp_path: Path, tiny_bundle: Path) -> None:
    bag = bag_of(tmp_path / "bag", topics=("/left/image_raw", "/right/image_raw"), images=3)
    output = tmp_path / "answers"
    replayed(tmp_path, tiny_bundle, bag, "--topic", "all", "--bag-out", str(output))
    found = messages(output)
    assert set(found) == {topic.replace("/dff", f"/dff/{camera}") for topic in TOPICS for camera in ("left", "right")}
    assert [stamp_of(item) for _, item in found["/dff/right/detections"]] == [stamp(index) + 1 for index in range(3)]
    assert {item.header.frame_id for _, item in found["/dff/right/segmentation"]} == {"frame_1"}


def test_frames_without_a_bag_are_written_as_mcap(tmp_path: Path, tiny_bundle: Path) -> None:
    output = tmp_path / "answers"
    arguments = ["--drive", "2", "--model", str(tiny_bundle), "--device", "cpu", "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--bag-out", str(output)]) == 0
    assert (output / "answers.mcap").is_file() and len(messages(output)["/dff/detections"]) == 2


def test_nothing_is_written_over(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = bag_of(tmp_path / "bag", images=2)
    before = {item.name: item.read_bytes() for item in bag.iterdir()}
    arguments = ["--bag", str(bag), "--model", str(tiny_bundle), "--device", "cpu", "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--bag-out", str(bag)]) == 2
    assert "bag should be a new folder" in capsys.readouterr().err
    assert {item.name: item.read_bytes() for item in bag.iterdir()} == before


def test_a_box_is_its_centre_and_size() -> None:
    boxes = np.array([[10.0, 20.0, 30.5, 60.0]], np.float32)
    types = new_typestore().types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id="front")
    message = detections_message(types, header, Detections(boxes, np.array([0.75], np.float32), np.array([1])), ["person", "car"])
    (item,) = message.detections
    assert (item.bbox.center.position.x, item.bbox.center.position.y, item.bbox.size_x, item.bbox.size_y) == (20.25, 40.0, 20.5, 40.0)
    assert (item.results[0].hypothesis.class_id, item.results[0].hypothesis.score, item.header) == ("car", 0.75, header)


@pytest.mark.parametrize("name", VISION_MSGS)
def test_the_written_types_are_the_official_ones(name: str) -> None:
    assert new_typestore().hash_rihs01(name) == TYPE_HASHES[name.rpartition("/")[2]]


@pytest.mark.skipif(not is_our_build(), reason="a ROS installation brings its own vision_msgs")
@pytest.mark.parametrize("name", VISION_MSGS)
def test_the_written_types_are_those_that_are_built(name: str) -> None:
    built = json.loads(Path(sys.prefix, "share", "vision_msgs", "msg", f"{name.rpartition('/')[2]}.json").read_text())
    assert new_typestore().hash_rihs01(name) == {item["type_name"]: item["hash_string"] for item in built["type_hashes"]}[name]


@pytest.mark.parametrize("storage", STORAGES)
def test_hashes_and_definitions_are_in_the_bag(tmp_path: Path, tiny_bundle: Path, storage: Storage) -> None:
    output = tmp_path / "answers"
    replayed(tmp_path, tiny_bundle, bag_of(tmp_path / "bag", storage, images=1), "--bag-out", str(output))
    with AnyReader([output]) as reader:
        kinds = {item.msgtype: item for item in reader.connections}
        for kind, connection in kinds.items():
            assert connection.digest == new_typestore().hash_rihs01(kind)
            assert "MSG: std_msgs/Header" in connection.msgdef.data
    metadata = (output / "metadata.yaml").read_text()
    assert TYPE_HASHES["Detection2DArray"] in metadata and "version: 8\n" in metadata  # the newest that Humble plays
