"""Ground truth from topics of the bag: matched by stamp, read in step with the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CAMVID_CLASSES
from test_bags import stamp
from test_replay_bags import pattern, replayed

from dff_ros.evaluation.ground_truth.matched_messages import TOLERANCE
from dff_ros.evaluation.ground_truth.topic_truth import TopicDetections, TopicLabels
from dff_ros.evaluation.ground_truth.truth import TruthError
from dff_ros.evaluation.replay import main
from dff_ros.recording.bags import BagWriter, open_reader
from dff_ros.recording.frames import StampedFrame

CLASSES = ("person", "car", "bicyclist")
MILLISECOND = 1_000_000
Thing = tuple[str, tuple[float, float, float, float], str]
"""Class, centre x, centre y, width, height, and id."""


def frame(index: int, at: int | None = None) -> StampedFrame:
    return StampedFrame(index, stamp(index) if at is None else at, np.zeros((96, 128, 3), np.uint8), "", "camera")


def write_detections(writer: BagWriter, at: int, things: Sequence[Thing], *, theta: float = 0.0, topic: str = "/truth") -> None:
    types = writer.types

    def of(package: str, name: str, **fields: Any) -> Any:
        return types[f"{package}/msg/{name}"](**fields)

    pose = of(
        "geometry_msgs", "PoseWithCovariance", covariance=np.zeros(36),
        pose=of("geometry_msgs", "Pose", position=of("geometry_msgs", "Point", x=0.0, y=0.0, z=0.0),
                orientation=of("geometry_msgs", "Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)),
    )  # fmt: skip
    found = []
    for name, (x, y, width, height), identity in things:
        centre = of("vision_msgs", "Pose2D", position=of("vision_msgs", "Point2D", x=x, y=y), theta=theta)
        said = [of("vision_msgs", "ObjectHypothesis", class_id=what, score=score) for what, score in (("nothing", 0.1), (name, 0.9))]
        results = [of("vision_msgs", "ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose) for hypothesis in said]
        bbox = of("vision_msgs", "BoundingBox2D", center=centre, size_x=width, size_y=height)
        found.append(of("vision_msgs", "Detection2D", header=writer.header(at, ""), results=results, bbox=bbox, id=identity))
    message = of("vision_msgs", "Detection2DArray", header=writer.header(at, ""), detections=found)
    writer.write(topic, "vision_msgs/msg/Detection2DArray", message, at)


def truth_bag(path: Path, said: dict[int, Sequence[Thing]], **options: Any) -> Path:
    """A bag with detections at these stamps, in this order."""
    with BagWriter(path, storage="mcap") as writer:
        for at, things in said.items():
            write_detections(writer, at, things, **options)
    return path


BOX = (20.0, 40.0, 10.0, 30.0)
EDGES = [15.0, 25.0, 25.0, 55.0]


def test_detections_belong_to_the_frame_of_their_stamp_by_class_name_or_index(tmp_path: Path) -> None:
    said = {stamp(0): [("person", BOX, "")], stamp(1): [], stamp(3): [("1", BOX, ""), ("Person", BOX, "")]}
    truth = TopicDetections(open_reader(truth_bag(tmp_path / "bag", said)), "/truth", CLASSES)
    people, cars, cyclists = truth.sources
    for _ in range(2):  # a replay that begins again finds the same
        assert people.boxes_of(frame(0)).boxes.tolist() == [EDGES]
        assert people.boxes_of(frame(0)).boxes.tolist() == [EDGES]
        assert len(cars.boxes_of(frame(0)).boxes) == len(people.boxes_of(frame(1)).boxes) == 0
        assert people.boxes_of(frame(2)) is None
        assert cars.boxes_of(frame(3)).boxes.tolist() == people.boxes_of(frame(3)).boxes.tolist() == [EDGES]
        assert len(cyclists.boxes_of(frame(3)).boxes) == 0
        assert truth.notes == []


def test_the_nearest_is_taken_where_none_has_the_frames_stamp_and_that_is_said(tmp_path: Path) -> None:
    wide = (20.0, 40.0, 99.0, 30.0)
    said = {stamp(0) - 3 * MILLISECOND: [("car", wide, "")], stamp(0) + 2 * MILLISECOND: [("car", BOX, "")], stamp(1) + TOLERANCE + 1: []}
    truth = TopicDetections(open_reader(truth_bag(tmp_path / "bag", said)), "/truth", CLASSES, ["car"])
    (cars,) = truth.sources
    assert cars.boxes_of(frame(0)).boxes.tolist() == [EDGES]
    assert cars.boxes_of(frame(1)) is None
    assert truth.notes == ["/truth: 1 frames have truth of another stamp, up to 10 ms away"]


def test_truth_out_of_order_finds_its_frames(tmp_path: Path) -> None:
    said = {stamp(index): [("car", (float(20 + index), 40.0, 10.0, 30.0), "")] for index in (0, 3, 1, 2, 5, 4)}
    (cars,) = TopicDetections(open_reader(truth_bag(tmp_path / "bag", said)), "/truth", CLASSES, ["car"]).sources
    assert [cars.boxes_of(frame(index)).boxes[0, 0] for index in range(6)] == [15.0 + index for index in range(6)]


def test_rounds_of_a_looped_recording_are_kept_apart(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for number in range(2):
            for index in range(0, 60, 10):
                at = stamp(index)
                header = writer.header(at, "")
                empty = writer.types["vision_msgs/msg/Detection2DArray"](header=header, detections=[])
                if (number, index) != (0, 20):
                    writer.write("/truth", "vision_msgs/msg/Detection2DArray", empty, stamp(100 * number + index))
    (cars,) = TopicDetections(open_reader(tmp_path / "bag"), "/truth", CLASSES, ["car"]).sources
    found = [cars.boxes_of(frame(place, stamp(10 * (place % 6)))) is not None for place in range(12)]
    assert found == [True, True, False, *[True] * 9]


def test_ids_tell_objects_apart_where_each_has_one(tmp_path: Path) -> None:
    said: dict[int, Sequence[Thing]] = {
        stamp(0): [("car", BOX, "a"), ("car", BOX, "b")], stamp(1): [("car", BOX, "b"), ("person", BOX, "a")], stamp(2): [("car", BOX, "")],
    }  # fmt: skip
    people, cars, _ = TopicDetections(open_reader(truth_bag(tmp_path / "ids", {stamp(0): said[stamp(0)]})), "/truth", CLASSES).sources
    assert cars.identified and people.identified
    truth = TopicDetections(open_reader(truth_bag(tmp_path / "some", said)), "/truth", CLASSES)
    assert not any(source.identified for source in truth.sources)
    del said[stamp(2)]
    people, cars, _ = TopicDetections(open_reader(truth_bag(tmp_path / "all", said)), "/truth", CLASSES).sources
    assert cars.boxes_of(frame(0)).ids.tolist() == [0, 1]
    assert cars.boxes_of(frame(1)).ids.tolist() == [1]
    assert people.boxes_of(frame(1)).ids.tolist() == [0]


def test_a_turned_box_is_taken_with_all_its_corners(tmp_path: Path) -> None:
    bag = truth_bag(tmp_path / "bag", {stamp(0): [("car", BOX, "")]}, theta=np.pi / 2)
    (cars,) = TopicDetections(open_reader(bag), "/truth", CLASSES, ["car"]).sources
    np.testing.assert_allclose(cars.boxes_of(frame(0)).boxes, [[5.0, 35.0, 35.0, 45.0]])


def test_unknown_classes_are_left_out_and_named(tmp_path: Path) -> None:
    said = {stamp(0): [("car", BOX, "")], stamp(1): [("dog", BOX, ""), ("7", BOX, ""), ("dog", BOX, "")]}
    truth = TopicDetections(open_reader(truth_bag(tmp_path / "bag", said)), "/truth", CLASSES)
    assert [len(truth.sources[1].boxes_of(frame(index)).boxes) for index in range(2)] == [1, 0]
    left_out = "/truth: detections of unknown classes are left out (1 of '7', 2 of 'dog')"
    assert truth.notes == [f"{left_out}: the model's detection classes are person, car, bicyclist"]


def test_what_cannot_be_truth_is_refused(tmp_path: Path) -> None:
    bag = open_reader(truth_bag(tmp_path / "bag", {stamp(0): [("dog", BOX, "")]}))
    with pytest.raises(TruthError, match="/truth has detections of 'dog': the model's detection classes are person, car, bicyclist"):
        TopicDetections(bag, "/truth", CLASSES)
    with pytest.raises(TruthError, match="/truth cannot be truth of 'horse': the model's"):
        TopicDetections(bag, "/truth", CLASSES, ["horse"])
    with pytest.raises(TruthError, match=r"with vision_msgs/msg/Detection2DArray, got '/boxes' for bag .* with /truth \(vision_msgs"):
        TopicDetections(bag, "/boxes", CLASSES)
    with pytest.raises(TruthError, match="truth should be a topic with sensor_msgs/msg/Image, got '/truth'"):
        TopicLabels(bag, "/truth", CAMVID_CLASSES, ())


def labels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 11, (96, 128), np.uint8)


def test_label_images_belong_to_frames_by_stamp(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for index in (0, 2):
            padded = np.hstack([labels(index), np.full((96, 12), 200, np.uint8)])
            fields = {"height": 96, "width": 128, "encoding": "mono8", "is_bigendian": 0, "step": 140}
            writer.write_fields("/labels", stamp(index), data=padded.reshape(-1), **fields)
    truth = TopicLabels(open_reader(tmp_path / "bag"), "/labels", CAMVID_CLASSES, (3,))
    assert np.array_equal(truth.labels_of(frame(0)), np.where(labels(0) == 3, 255, labels(0)))
    assert truth.labels_of(frame(1)) is None
    assert np.array_equal(truth.labels_of(frame(2)), np.where(labels(2) == 3, 255, labels(2)))


@pytest.mark.parametrize(
    ("image", "encoding", "reason"),
    [
        (np.zeros((96, 128, 3), np.uint8), "rgb8", "label images on /labels should be mono8, got rgb8"),
        (np.zeros((10, 12), np.uint8), "mono8", "a label image on /labels is 12x10, its frame 0 128x96"),
        (np.full((96, 128), 77, np.uint8), "mono8", "the label image of frame 0 on /labels has label 77; the model's classes are 0..10"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, image: np.ndarray, encoding: str, reason: str) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/labels", image, stamp(0), encoding=encoding)
    with pytest.raises(TruthError, match=reason):
        TopicLabels(open_reader(tmp_path / "bag"), "/labels", CAMVID_CLASSES, ()).labels_of(frame(0))


def scene(path: Path, topics: Sequence[str] = ("/camera",)) -> Path:
    """Cameras with detections and label images of their own, the latter for every second frame."""
    with BagWriter(path) as writer:
        for index in range(6):
            for place, topic in enumerate(topics):
                at = stamp(index) + 20 * MILLISECOND * place
                writer.write_image(topic, pattern(index + 9 * place), at)
                write_detections(writer, at, [("car", BOX, "1")], topic=f"{topic}/truth")
                if not index % 2:
                    writer.write_image(f"{topic}/labels", labels(index), at, encoding="mono8")
    return path


def test_a_replay_is_scored_against_topics(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = scene(tmp_path / "bag")
    report = replayed(tmp_path, tiny_bundle, bag, "--label-topic", "/camera/labels", "--detection-topic", "/camera/truth:car")
    assert report["input"]["topic"] == "/camera"
    assert report["segmentation"]["miou"] is not None and report["detection"]["map50"] is not None
    assert "truth" not in capsys.readouterr().err


def test_each_camera_has_truth_of_its_own(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = scene(tmp_path / "bag", ["/left", "/right"])
    topics = ["--topic", "/left", "--topic", "/right", "--detection-topic", "/left/truth:car", "--detection-topic", "/right/truth:car"]
    several = replayed(tmp_path, tiny_bundle, bag, *topics)["cameras"]
    assert all(several[topic]["detection"]["map50"] is not None for topic in ("/left", "/right"))
    alone = replayed(tmp_path, tiny_bundle, bag, "--topic", "/right", "--detection-topic", "/right/truth:car")
    assert several["/right"]["detection"] == alone["detection"]
    capsys.readouterr()
    output = ["--model", str(tiny_bundle), "--json", str(tmp_path / "out.json")]
    assert main(["--bag", str(bag), *output, *topics[:-2]]) == 2
    assert "--detection-topic should be given once for each of 2 cameras, got 1" in capsys.readouterr().err


def test_truth_that_belongs_to_no_frame_is_said(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(3):
            writer.write_image("/image", pattern(index), stamp(index))
            write_detections(writer, stamp(index + 100), [("car", BOX, "")])
    report = replayed(tmp_path, tiny_bundle, tmp_path / "bag", "--detection-topic", "/truth")
    assert report["detection"]["map50"] is None
    assert "nothing was scored with /truth: nothing there belongs to a frame by its stamp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--drive", "2", "--label-topic", "/labels"], "--label-topic belongs to --bag"),
        (["--bag", "b", "--labels", "folder", "--label-topic", "/labels"], "--labels and --label-topic are truth for the same pixels"),
        (["--bag", "b", "--detection-topic", "/truth:"], "should be TOPIC or TOPIC:CLASS,CLASS, got '/truth:'"),
    ],
)
def test_a_bad_command_line_is_refused(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*options, "--json", "out.json"])
    assert caught.value.code == 2 and reason in capsys.readouterr().err
