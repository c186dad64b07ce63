"""Live against offline: a bag played to the real node and replayed with the key decisions recorded from it gives the same answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from node_process import RELIABLE, Peer, image_message, peer, running
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.recorded_keys import RecordedKeys, decisions
from dff_ros.evaluation.run import lock_step
from dff_ros.message_fields import boxes_of
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.messages import stamp_of
from dff_ros.recording.bags import BagWriter, open_bag
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frame_info import DIAGNOSTIC_ARRAY, FrameInfo, read_frame_info
from dff_ros.recording.frames import StampedFrame

__all__ = ["peer"]

FRAMES = 20
THRESHOLD = 0.05
THREADS = 1
"""As in all tests; how many there are shows in the last bits of a feature."""


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated drive of two seconds."""
    folder = tmp_path_factory.mktemp("live") / "drive"
    with BagWriter(folder) as writer:
        for item in GeneratedDrive(0, FRAMES, rate=10.0, width=160, height=120):
            writer.write_image("/camera/image_raw", item.frame, item.stamp)
    return folder


@pytest.fixture(scope="module")
def model(refined_bundle: Path) -> LoadedModel:
    """The one that the node runs too: every frame, key and age has an answer of its own."""
    return load_model(EngineSettings(model=str(refined_bundle), threads=THREADS))


@dataclass
class Live:
    """What a run of the node said, as the messages came."""

    infos: list[DiagnosticArray]
    detections: list[Detection2DArray]
    masks: list[Image]

    def record(self, folder: Path) -> list[FrameInfo]:
        """Write frame_info into a bag as ``ros2 bag record`` would, and read it."""
        types = get_typestore(Stores.ROS2_JAZZY)
        with BagWriter(folder) as writer:
            for message in self.infos:
                writer.write("/dff/frame_info", DIAGNOSTIC_ARRAY, types.deserialize_cdr(serialize_message(message), DIAGNOSTIC_ARRAY),
                             stamp_of(message.header))  # fmt: skip
        return read_frame_info(folder)


class Robot:
    """A running node, and the test's own camera and listeners beside it."""

    def __init__(self, peer: Peer, child: ChildProcess, recording: Sequence[StampedFrame]) -> None:
        self._peer, self.child, self._recording = peer, child, recording
        self._publisher = peer.create_publisher(Image, "/image", RELIABLE)
        self._live = Live(
            peer.collect(DiagnosticArray, "/dff/frame_info"),
            peer.collect(Detection2DArray, "/dff/detections"),
            peer.collect(Image, "/dff/segmentation"),
        )

    def run(self, *, schedule: str, key_frames: str, rate: float | None) -> Live:
        """Play the recording at ``rate`` Hz, or each frame when the one before is answered. Its stamps go back, so the node begins anew."""
        chosen = {"schedule": schedule, "key_frames": key_frames}
        texts = {name: ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value) for name, value in chosen.items()}
        request = SetParameters.Request(parameters=[Parameter(name=name, value=text) for name, text in texts.items()])
        assert all(result.successful for result in self._peer.call(SetParameters, "/dff/set_parameters", request).results)
        for messages in (self._live.infos, self._live.detections, self._live.masks):
            messages.clear()
        self._show(self._recording[0])
        for item in self._recording[1:-1]:
            if rate is None:
                self._show(item)
            else:
                self._publisher.publish(image_message(item.frame, "rgb8", item.stamp))
                self._peer.idle(1 / rate)
        self._show(self._recording[-1])
        return Live(*(list(messages) for messages in (self._live.infos, self._live.detections, self._live.masks)))

    def _show(self, item: StampedFrame) -> None:
        """Until it is answered: a new subscription misses what comes too early."""
        lists = (self._live.infos, self._live.detections, self._live.masks)

        def answered() -> bool:
            return all(messages and stamp_of(messages[-1].header) == item.stamp for messages in lists)

        while not answered():
            self._publisher.publish(image_message(item.frame, "rgb8", item.stamp))
            deadline = time.monotonic() + 1.0
            self._peer.until(lambda limit=deadline: answered() or time.monotonic() > limit, "an answer")


@pytest.fixture(scope="module")
def robot(peer: Peer, bag: Path, refined_bundle: Path) -> Iterator[Robot]:
    parameters = {"model": str(refined_bundle), "report_cost": False, "threads": THREADS, "score_threshold": THRESHOLD}
    with running("dff_node", parameters) as child:
        yield Robot(peer, child, list(open_bag(bag)))


class Answers(Observer):
    """Keeps what a replay answered, by stamp."""

    def __init__(self) -> None:
        self.results: dict[int, FrameResult] = {}

    def add(self, answered: AnsweredFrame) -> None:
        self.results[answered.result.stamp] = answered.result


def offline(bag: Path, model: LoadedModel, *, recorded: RecordedKeys | None = None, **values: object) -> dict[int, FrameResult]:
    answers = Answers()
    settings = EngineSettings().with_values({"threads": THREADS, **values})
    lock_step(open_bag(bag), model, settings, Truth(None, [], ()), baseline=False, recorded=recorded, observers=[answers])
    return answers.results


def check_equal(live: Live, results: dict[int, FrameResult], class_names: Sequence[str]) -> None:
    """Boxes, scores, classes and masks of all live frames are those of the replay, bit for bit."""
    masks = {stamp_of(message.header): np.frombuffer(message.data, np.uint8) for message in live.masks}
    assert len(masks) >= len(live.infos) / 2 and len(live.detections) >= len(live.infos) / 2  # a listener misses some on a busy machine
    for stamp, mask in masks.items():
        label_map = results[stamp].label_map
        assert label_map is not None
        np.testing.assert_array_equal(mask, label_map.labels.reshape(-1))
    for message in live.detections:
        detections = results[stamp_of(message.header)].detections
        assert detections is not None
        published = detections.above(THRESHOLD)
        assert [item.results[0].hypothesis.class_id for item in message.detections] == [class_names[label] for label in published.labels]
        np.testing.assert_array_equal([item.results[0].hypothesis.score for item in message.detections], published.scores)
        np.testing.assert_array_equal(boxes_of(message), published.boxes)
    assert len({mask.tobytes() for mask in masks.values()}) == len(masks)  # a wrong key would show
    assert sum(len(message.detections) for message in live.detections) >= len(live.detections)


@pytest.mark.parametrize(
    ("schedule", "key_frames", "rate"),
    [("fixed:3", "blocking", 60.0), ("fixed:3", "aside", None), ("fixed:250ms", "aside", 60.0), ("fixed:2", "aside", 300.0)],
)
def test_a_replay_of_the_recorded_keys_gives_the_live_answers(
    robot: Robot, bag: Path, model: LoadedModel, tmp_path: Path, schedule: str, key_frames: str, rate: float | None
) -> None:
    live = robot.run(schedule=schedule, key_frames=key_frames, rate=rate)
    infos = live.record(tmp_path / "run")
    keys = RecordedKeys(infos)
    results = offline(bag, model, recorded=keys)
    assert list(results) == [info.stamp for info in infos] and keys.unknown == 0
    check_equal(live, results, model.card.detection_classes)
    assert all(info.is_key == (key_frames == "blocking") for info in infos[1:] if info.reason)
    if rate is None:  # with drops on a busy machine there may be few frames
        assert sum(decided.takes_over for decided in decisions(infos)) >= 3


def test_a_schedule_that_counts_frames_needs_no_record_where_none_was_dropped(robot: Robot, bag: Path, model: LoadedModel) -> None:
    live = robot.run(schedule="fixed:4", key_frames="blocking", rate=None)
    assert len(live.infos) == FRAMES
    check_equal(live, offline(bag, model, schedule="fixed:4", key_frames="blocking"), model.card.detection_classes)


def test_an_adaptive_schedule_with_key_frames_aside_answers_every_frame(
    robot: Robot, bag: Path, model: LoadedModel, tmp_path: Path
) -> None:
    live = robot.run(schedule="adaptive:rate=0.3", key_frames="aside", rate=None)
    infos = live.record(tmp_path / "run")
    assert [info.stamp for info in infos] == [item.stamp for item in open_bag(bag)]
    assert all(decided.known for decided in decisions(infos))  # each age leads to a frame that was made a key frame
    assert sum(bool(info.reason) for info in infos) >= 3 and any(decided.takes_over for decided in decisions(infos))
    assert all(info.disagreement is not None for info in infos if not info.is_key)
    check_equal(live, offline(bag, model, recorded=RecordedKeys(infos)), model.card.detection_classes)
    assert "failed" not in robot.child.output, robot.child.output
