"""A live run's key decisions, made again: the same answers, and what becomes of records with holes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dff_ros.engine.key_worker import DelayedKeyWorker
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.recorded_keys import RecordedKeys, decisions
from dff_ros.evaluation.replay import main
from dff_ros.evaluation.run import lock_step
from dff_ros.recording.bags import BagWriter
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frame_info import FrameInfo, read_frame_info
from dff_ros.recording.frames import RecordingError, StampedFrame

NO_TRUTH = Truth(None, [], ())
FRAMES = 36

def info(index: int, age: int, *, key_index: int | None = None, reason: str = "") -> FrameInfo:
    """What is said of the frame ``index`` of a 10 Hz run."""
    key = index - age if key_index is None else key_index
    return FrameInfo((10 + index) * 100_000_000, age == 0, reason, age, (index - key) * 100.0, None)


def run_of_nine() -> list[FrameInfo]:
    """Key at frames 0 and 7; a key aside is ordered at frame 2 and in use from frame 4 on."""
    ages = [0, 1, 2, 3, 2, 3, 4, 0, 1]
    reasons = {0: "first frame", 2: "interval", 7: "reset"}
    return [info(index, age, reason=reasons.get(index, "")) for index, age in enumerate(ages)]


def known(infos: Sequence[FrameInfo]) -> str:
    return "".join("t" if each.takes_over else "+" if each.known else "-" for each in decisions(infos))


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ((), "++++t++++"),
        ((0,), "------++"),  # the record begins later than the run
        ((1,), "+-----++"),
        ((2,), "++----++"),  # the frame that ordered the key
        ((3,), "+++---++"),
        ((4,), "++++--++"),  # the frame at which it took over
        ((6,), "++++t+++"),  # nothing was decided at it, and a key frame follows: its neighbours are answered all the same
        ((7,), "++++t++-"),
    ],
)
def test_what_a_lost_message_leaves_unknown(lost: tuple[int, ...], expected: str) -> None:
    assert known([each for index, each in enumerate(run_of_nine()) if index not in lost]) == expected


def test_two_keys_in_flight_at_once_cannot_be() -> None:
    infos = run_of_nine()
    infos[3] = replace(infos[3], reason="interval")
    assert known(infos) == "+++----++"


class UnsteadyKeyWorker(DelayedKeyWorker):
    """Ready after one to four frames: as a machine with other work would be."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model, 1)
        self._random = random.Random(3)

    def finished(self, frames: int) -> bool:
        return frames > 4 or self._random.random() < 0.4


class Answers(Observer):
    """Keeps what was answered, by stamp."""

    def __init__(self) -> None:
        self.results: dict[int, FrameResult] = {}
        self.dropped_stamps: list[int] = []

    def add(self, answered: AnsweredFrame) -> None:
        self.results[answered.result.stamp] = answered.result

    def dropped(self, item: StampedFrame) -> None:
        self.dropped_stamps.append(item.stamp)


@pytest.fixture(scope="module")
def model(refined_bundle: Path) -> LoadedModel:
    """With a branch, and a head that answers many classes: every frame, key and age has an answer of its own."""
    return load_model(EngineSettings(model=str(refined_bundle), device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def drive() -> list[StampedFrame]:
    return [replace(item, frame=item.frame.copy()) for item in GeneratedDrive(0, FRAMES, rate=10.0, width=160, height=120)]


def live_run(model: LoadedModel, frames: Sequence[StampedFrame], settings: EngineSettings) -> list[FrameResult]:
    """As the node would: a third of the frames dropped, one reset, keys ready when they are."""
    stream = FeatureFlowStream(model, settings, key_worker=UnsteadyKeyWorker(model))
    chance, results = random.Random(1), []
    for item in frames:
        if chance.random() < 0.3:
            continue
        if len(results) == 11:
            stream.reset("enabled")
        results.append(stream.step(item.frame, item.stamp))
    return results


def infos_of(results: Sequence[FrameResult]) -> list[FrameInfo]:
    return [FrameInfo(r.stamp, r.is_key, r.reason, r.key_age_frames, round(r.key_age_ms, 3), r.disagreement) for r in results]


def replayed(model: LoadedModel, frames: Sequence[StampedFrame], infos: Sequence[FrameInfo]) -> Answers:
    answers, recorded = Answers(), RecordedKeys(infos)
    lock_step(frames, model, EngineSettings(schedule="per-frame"), NO_TRUTH, baseline=False, recorded=recorded, observers=[answers])
    return answers


def check_equal(live: FrameResult, offline: FrameResult) -> None:
    said = [(r.kind, r.key_age_frames, r.key_age_ms, r.made_key, r.disagreement) for r in (live, offline)]
    assert said[0] == said[1]
    assert live.label_map is not None and offline.label_map is not None and live.detections is not None and offline.detections is not None
    np.testing.assert_array_equal(live.label_map.labels, offline.label_map.labels)
    for part in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(live.detections, part), getattr(offline.detections, part))


@pytest.mark.parametrize("key_frames", ["blocking", "aside"])
@pytest.mark.parametrize("schedule", ["fixed:3", "random:0.3", "adaptive:rate=0.3"])
def test_a_replay_answers_as_the_live_run_did(model: LoadedModel, drive: list[StampedFrame], schedule: str, key_frames: str) -> None:
    live = live_run(model, drive, EngineSettings(schedule=schedule, key_frames=key_frames))
    offline = replayed(model, drive, infos_of(live))
    assert [r.stamp for r in live] == list(offline.results)
    assert sorted([*offline.results, *offline.dropped_stamps]) == [item.stamp for item in drive]
    for result in live:
        check_equal(result, offline.results[result.stamp])
    aside = sum(r.made_key and not r.is_key for r in live)
    assert (aside >= 2) == (key_frames == "aside") and sum(r.is_key for r in live) >= 2
    masks = [result.label_map.labels.tobytes() for result in live if result.label_map is not None]
    assert len(set(masks)) == len(masks)  # a wrong key would show


def test_the_frames_before_the_first_known_key_are_left_out(model: LoadedModel, drive: list[StampedFrame]) -> None:
    live = live_run(model, drive, EngineSettings(schedule="fixed:3", key_frames="blocking"))
    later = next(index for index, result in enumerate(live) if result.is_key and index)
    for infos, frames in ((infos_of(live)[1:], drive), (infos_of(live), [item for item in drive if item.stamp > live[0].stamp])):
        keys, answers = RecordedKeys(infos), Answers()
        lock_step(frames, model, EngineSettings(), NO_TRUTH, baseline=False, recorded=keys, observers=[answers])
        assert [r.stamp for r in live[later:]] == list(answers.results)
        for result in live[later:]:
            check_equal(result, answers.results[result.stamp])
        assert keys.unknown == later - 1 and f"{later - 1} left out" in keys.outcome()


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="each stamp once"):
        RecordedKeys([info(0, 0), info(0, 0)])
    with pytest.raises(ValueError, match=r"kind key to begin with, got 2 propagated ones: .*~/reset"):
        RecordedKeys([info(3, 2), info(4, 3)])
    missing = RecordedKeys(run_of_nine())
    assert missing.turn_to(info(0, 0).stamp) and not missing.turn_to(info(0, 0).stamp + 5)  # dropped live
    assert not missing.turn_to(info(0, 0).stamp)  # twice in the recording: the node skipped the second
    with pytest.raises(ValueError, match=f"got stamp {info(2, 0).stamp}, {info(1, 0).stamp} was next"):
        missing.turn_to(info(2, 0).stamp)
    other = RecordedKeys(run_of_nine())
    assert not other.turn_to(5)
    with pytest.raises(ValueError, match="none that can be answered again: frame_info goes from stamp 1000000000 to 1800000000"):
        other.outcome()


def write_infos(folder: Path, topics: dict[str, Sequence[FrameInfo]], **changes: str) -> Path:
    """A bag with frame_info as the node says it, and /diagnostics of the same type."""
    with BagWriter(folder) as writer:
        for topic, infos in {**topics, "/diagnostics": run_of_nine()[:1]}.items():
            for item in infos:
                values = {"kind": "key" if item.is_key else "propagated", "key_age_frames": str(item.key_age_frames)}
                values.update(key_age_ms=f"{item.key_age_ms:.3f}", reason=item.reason, disagreement="", **changes)
                write_diagnostics(writer, topic, item.stamp, values)
    return folder


def write_diagnostics(writer: BagWriter, topic: str, stamp: int, values: dict[str, str]) -> None:
    types = writer.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    pairs = [types["diagnostic_msgs/msg/KeyValue"](key=key, value=value) for key, value in values.items()]
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](level=0, name="dff", message="", hardware_id="", values=pairs)
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    message = types[kind](header=types["std_msgs/msg/Header"](stamp=time, frame_id=""), status=[status])
    writer.write(topic, kind, message, stamp or 1)


def test_frame_info_is_read_from_a_bag(tmp_path: Path) -> None:
    one = write_infos(tmp_path / "one", {"/dff/frame_info": run_of_nine()})
    assert read_frame_info(one) == run_of_nine()
    two = write_infos(tmp_path / "two", {"/left/dff/frame_info": run_of_nine(), "/right/dff/frame_info": run_of_nine()[:3]})
    assert len(read_frame_info(two, "/right/dff/frame_info")) == 3
    with pytest.raises(RecordingError, match="exactly one .* is called frame_info, got None .* with /left/dff/frame_info, /right/dff"):
        read_frame_info(two)
    with pytest.raises(RecordingError, match="got '/elsewhere' .* with /dff/frame_info, /diagnostics"):
        read_frame_info(one, "/elsewhere")
    with pytest.raises(RecordingError, match="got None .* with /diagnostics"):
        read_frame_info(write_infos(tmp_path / "none", {}))
    with pytest.raises(RecordingError, match="should carry its image's stamp, got 0"):
        read_frame_info(write_infos(tmp_path / "zero", {"/frame_info": [replace(info(0, 0), stamp=0)]}))
    with pytest.raises(RecordingError, match=r"frame_info 0 .* should say kind, reason.* got kind=sideways"):
        read_frame_info(write_infos(tmp_path / "bad", {"/frame_info": run_of_nine()}, kind="sideways"))


def test_the_command_replays_a_bag_with_the_keys_recorded_in_another(
    model: LoadedModel, drive: list[StampedFrame], refined_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = live_run(model, drive, EngineSettings(schedule="fixed:3", key_frames="aside"))
    with BagWriter(tmp_path / "camera", storage="mcap") as writer:
        for item in drive:
            writer.write_image("/camera/image_raw", item.frame, item.stamp)
    run = write_infos(tmp_path / "run", {"/dff/frame_info": infos_of(live)})
    inputs = ["--bag", str(tmp_path / "camera"), "--model", str(refined_bundle), "--device", "cpu"]
    outputs = ["--json", str(tmp_path / "out.json"), "--trace", str(tmp_path / "out.jsonl")]
    assert main([*inputs, *outputs, "--keys-from", str(run)]) == 0
    assert f"{len(live)} of {len(live)} frames that the live run answered\n" in capsys.readouterr().err
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["schedule"], report["frames"]) == ("recorded", len(live))
    assert report["key_rate"] == pytest.approx(sum(r.made_key for r in live) / len(live))
    traced = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["stamp"] for line in traced] == [item.stamp for item in drive]
    kinds = {r.stamp: (r.kind, r.key_age_frames) for r in live}
    assert [(line["kind"], line["key_age_frames"]) for line in traced] == [kinds.get(item.stamp, ("dropped", None)) for item in drive]


def test_the_command_refuses_what_does_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> None:
    bag = write_infos(tmp_path / "bag", {"/dff/frame_info": run_of_nine()})
    common = ["--drive", "3", "--model", str(tiny_bundle), "--json", str(tmp_path / "out.json")]
    for wrong in (["--schedule", "fixed:3"], ["--key-delay", "2"], ["--every-offset"]):
        with pytest.raises(SystemExit, match="2"):
            main([*common, "--keys-from", str(bag), *wrong])
        assert "--keys-from brings the key frames" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*common, "--keys-topic", "/dff/frame_info"])
    assert main([*common, "--keys-from", str(tmp_path / "nothing")]) == 2
    assert main([*common, "--keys-from", str(bag), "--without", "propagation"]) == 2
    assert "--without propagation" in capsys.readouterr().err
