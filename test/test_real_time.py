"""Replay in real time: tiny cases worked by hand, on a simulated clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dff_ros.core.results import LabelMap
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.arrivals import FOREVER, Arrival, Mailbox, arrival_times
from dff_ros.evaluation.ground_truth.truth import FrameTruth, Truth
from dff_ros.evaluation.latencies import KeyLatency, Latencies, read_latencies
from dff_ros.evaluation.measures.streaming import Live, Streaming
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.options import parse_arguments
from dff_ros.evaluation.outputs.trace import TracedFrame, read_trace
from dff_ros.evaluation.real_time import real_time
from dff_ros.evaluation.replay import main
from dff_ros.evaluation.run import Replay
from dff_ros.recording.frames import StampedFrame

NOTHING = FrameTruth(None, {})
MS = 1_000_000


def frame(index: int, stamp_ms: float) -> StampedFrame:
    rng = np.random.default_rng(index)
    return StampedFrame(index, round(stamp_ms * MS), rng.integers(0, 256, (48, 64, 3), np.uint8), "", "")


def result(step_ms: float, label: int = 0, *, feature_ms: float = 0.0, is_key: bool = True) -> FrameResult:
    return FrameResult(
        stamp=1, is_key=is_key, reason="", key_age_frames=0, key_age_ms=0.0, key_ms=0.0, motion_px=None, disagreement=None,
        detections=None, label_map=LabelMap(np.full((1, 4), label, np.uint8)), step_ms=step_ms, feature_ms=feature_ms, flow_ms=0.0,
        refine_ms=0.0, head_ms=0.0,
    )  # fmt: skip


def arrive(mailbox: Mailbox, times_ms: list[float]) -> dict[str, list[Any]]:
    """Let frames come at these times and list what happens."""
    told: dict[str, list[Any]] = {"answered": [], "latency": [], "dropped": [], "known": []}

    def go_on(now_ns: int) -> None:
        answer = mailbox.until(now_ns)
        if answer is not None:
            told["answered"].append(answer.arrival.item.index)
            told["latency"].append(answer.latency_ms)

    for index, time in enumerate(times_ms):
        arrival = Arrival(frame(index, time), round(time * MS), NOTHING)
        go_on(arrival.at_ns)
        known = mailbox.known(arrival.at_ns)
        told["known"].append(None if known is None else known.arrival.item.index)
        dropped = mailbox.put(arrival)
        if dropped is not None:
            told["dropped"].append(dropped.item.index)
    go_on(FOREVER)
    return told


def test_a_busy_engine_takes_the_newest_frame() -> None:
    """Steps of 250 ms, frames each 100: 0 is answered at 250, when 2 is the newest; 2 at 500, just as 5 comes and replaces 4."""
    told = arrive(Mailbox(lambda arrival, begins_ns: result(250.0)), [0, 100, 200, 300, 400, 500])
    assert told == {
        "answered": [0, 2, 5],
        "latency": [250.0, 300.0, 250.0],
        "dropped": [1, 3, 4],
        "known": [None, None, None, 0, 0, 2],
    }


def test_an_engine_that_keeps_up_drops_nothing() -> None:
    begun: list[int] = []

    def step(arrival: Arrival, begins_ns: int) -> FrameResult:
        begun.append(begins_ns // MS)
        return result([150.0, 30.0, 100.0, 20.0][arrival.item.index])

    told = arrive(Mailbox(step), [0, 100, 200, 300])
    assert told == {"answered": [0, 1, 2, 3], "latency": [150.0, 80.0, 100.0, 20.0], "dropped": [], "known": [None, None, 1, 2]}
    assert begun == [0, 150, 200, 300]


def test_a_key_aside_does_not_keep_its_frame_waiting() -> None:
    told = arrive(Mailbox(lambda arrival, begins_ns: result(170.0, feature_ms=150.0, is_key=False)), [0, 100])
    assert told["latency"] == [20.0, 20.0]


def test_of_two_frames_at_one_time_the_second_is_taken() -> None:
    told = arrive(Mailbox(lambda arrival, begins_ns: result(10.0)), [0, 0, 50])
    assert (told["answered"], told["dropped"]) == ([1, 2], [0])


def test_streaming_accuracy_is_of_the_newest_answer_known(model: LoadedModel) -> None:
    """Answers say 0 everywhere but that to frame 2, which says 1; per-frame says 1 from frame 2 on. Known are: -, 0, 0, 2, 3 of 0..4."""
    steps = [10.0, 150.0, 20.0, 20.0, 20.0]
    live = Live(Mailbox(lambda arrival, begins_ns: result(steps[arrival.item.index], int(arrival.item.index == 2))), streaming_of(model))
    for index in range(5):
        at_ns = index * 100 * MS
        live.until(at_ns)
        own = result(1.0, int(index >= 2))
        truth = FrameTruth(np.full((1, 4), 0, np.uint8), {})
        live.arrives(Arrival(frame(index, at_ns / MS), at_ns, truth, own))
    live.until(FOREVER)
    assert live.streaming.lateness_ms == [100.0, 200.0, 100.0, 100.0]
    assert live.streaming.against.agreement == pytest.approx(2 / 4)  # frames 1 and 3
    assert live.streaming.segmentation.iou(average_ages=False)["sky"] == pytest.approx(3 / 4)
    assert (live.arrived, live.dropped, live.latency_ms) == (5, 0, [10.0, 150.0, 70.0, 20.0, 20.0])


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))


def streaming_of(model: LoadedModel) -> Streaming:
    return Streaming(model.card, EngineSettings())


class Watching(Observer):
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.answered: list[AnsweredFrame] = []

    def add(self, answered: AnsweredFrame) -> None:
        self.order.append(answered.item.index)
        self.answered.append(answered)

    def dropped(self, item: StampedFrame) -> None:
        self.order.append(-item.index)


def played(model: LoadedModel, times_ms: list[float], *, baseline: bool = False, **changes: Any) -> tuple[Replay, Watching]:
    watching, latencies = Watching(), Latencies((KeyLatency(150.0, 140.0),), (20.0,))
    settings = EngineSettings(max_key_age=0.0, **changes)
    frames = [frame(index, 1000 + time) for index, time in enumerate(times_ms)]
    return real_time(frames, model, settings, Truth(None, [], []), baseline=baseline, latencies=latencies, observers=[watching]), watching


TEN_HERTZ = [100.0 * index for index in range(11)]


def test_key_frames_that_block_make_the_next_frame_late(model: LoadedModel) -> None:
    replay, watching = played(model, TEN_HERTZ, schedule="fixed:4")
    assert [answered.result.key_age_frames for answered in watching.answered] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert [answered.latency_ms for answered in watching.answered] == [150, 70, 20, 20, 150, 70, 20, 20, 150, 70, 20]
    assert replay.live is not None and (replay.live.key_ms, replay.live.dropped) == ([150.0] * 3, 0)


def test_key_frames_aside_are_ready_when_their_time_has_passed(model: LoadedModel) -> None:
    """The key ordered at frame 4, 400 ms, takes 140 ms, with 80 between two steps: frame 5 has the old one, frame 6 the new one."""
    replay, watching = played(model, TEN_HERTZ, schedule="fixed:4", key_frames="aside")
    assert [answered.result.key_age_frames for answered in watching.answered] == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2]
    assert [answered.latency_ms for answered in watching.answered] == [150, 70] + [20] * 9
    assert [answered.item.index for answered in watching.answered if answered.result.made_key] == [0, 4, 8]
    assert replay.run.key_ms == [150.0] * 3, "as if they had blocked"


def test_late_frames_are_dropped_and_per_frame_drops_its_own(model: LoadedModel) -> None:
    """At 20 Hz a key frame of 150 ms has two frames dropped; per-frame answers each third, and the last."""
    replay, watching = played(model, [50.0 * index for index in range(9)], baseline=True, schedule="fixed:10")
    assert watching.order == [0, -1, -2, 3, 4, 5, 6, 7, 8]
    assert [answered.latency_ms for answered in watching.answered] == [150] + [20] * 6
    assert replay.live is not None and replay.per_frame_live is not None
    assert (replay.live.dropped, replay.per_frame_live.dropped, replay.per_frame_live.arrived) == (2, 5, 9)
    assert replay.per_frame_live.latency_ms == [150.0, 150.0, 150.0, 200.0]  # of 0, 3, 6 and 8, which waits from 400 to 450 ms
    assert all(answered.per_frame is not None and answered.per_frame.is_key for answered in watching.answered)
    assert len(replay.live.streaming.lateness_ms) == 6  # the first answer is there at 150 ms, as frame 3 comes
    assert replay.live.streaming.against.agreement is not None


def test_a_step_that_takes_longer_than_a_gap_is_none(model: LoadedModel) -> None:
    _, watching = played(model, [50.0 * index for index in range(9)], schedule="fixed:10", max_gap=0.12)
    assert watching.order == [0, -1, -2, 3, 4, 5, 6, 7, 8]
    assert [answered.result.is_key for answered in watching.answered] == [True] + [False] * 6


@pytest.mark.parametrize(("stamps", "message"), [([0, 1], "frame 0 has none"), ([5, 3], "frame 1 is 2 ms before the last")])
def test_frames_without_stamps_in_order_do_not_arrive(stamps: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(arrival_times(frame(index, stamp) for index, stamp in enumerate(stamps)))


def replayed(tmp_path: Path, bundle: Path, *options: str) -> bytes:
    """The JSON of one run over a folder of 12 frames at 15 Hz."""
    output, folder = tmp_path / "o.json", tmp_path / "frames"
    folder.mkdir(exist_ok=True)
    for index in range(12):
        cv2.imwrite(str(folder / f"{index}.png"), frame(index, 0).frame)
    fixed = ["--frames", str(folder), "--rate", "15", "--model", str(bundle), "--device", "cpu", "--real-time"]
    assert main([*fixed, *options, "--json", str(output), "--trace", str(tmp_path / "t.jsonl")]) == 0
    return output.read_bytes()


@pytest.mark.parametrize("mode", ["blocking", "aside"])
def test_with_latencies_two_runs_are_the_same_run(tmp_path: Path, tiny_bundle: Path, mode: str) -> None:
    options = ("--schedule", "fixed:3", "--key-frames", mode, "--baseline", "--latencies", "key=150,propagated=20")
    first = replayed(tmp_path, tiny_bundle, *options), (tmp_path / "t.jsonl").read_bytes()
    assert (replayed(tmp_path, tiny_bundle, *options), (tmp_path / "t.jsonl").read_bytes()) == first
    report = json.loads(first[0])
    assert (report["mode"], report["key_delay"], report["provenance"]["repeatable"]) == ("real-time", None, True)
    frames = list(read_trace(tmp_path / "t.jsonl"))
    dropped = [line for line in frames if line.kind == "dropped"]
    assert {line.step_ms for line in frames if line.kind == "propagated" and not line.made_key} == {20.0}
    assert len(frames) == 12 and report["drops"] == {"count": len(dropped), "rate": pytest.approx(len(dropped) / 12)}
    assert (len(dropped) > 1) == (mode == "blocking")
    assert report["baseline"]["drops"]["count"] > len(dropped)
    assert 0 < report["streaming"]["agreement"] <= 1 and report["streaming"]["lateness_ms"]["p50"] > 60


def test_measured_times_are_replayed_by_the_trace(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = json.loads(replayed(tmp_path, tiny_bundle, "--schedule", "fixed:3", "--key-frames", "aside"))
    assert measured["provenance"]["repeatable"] is False
    printed = capsys.readouterr().out
    assert "real time    latency p50" in printed and "% dropped" in printed
    trace = (tmp_path / "t.jsonl").rename(tmp_path / "measured.jsonl")
    again = json.loads(replayed(tmp_path, tiny_bundle, "--schedule", "fixed:3", "--key-frames", "aside", "--latencies", str(trace)))
    assert (again["drops"], again["key_rate"]) == (measured["drops"], measured["key_rate"])
    for kind in ("all", "key", "propagated"):
        assert again["latency_ms"][kind] == pytest.approx(measured["latency_ms"][kind])


def test_a_dropped_frame_shows_the_picture_before(tmp_path: Path, tiny_bundle: Path) -> None:
    video = tmp_path / "o.mp4"
    replayed(tmp_path, tiny_bundle, "--schedule", "fixed:3", "--latencies", "key=300,propagated=20", "--video-out", str(video))
    assert int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)) == 12


# ---- latencies


def test_latencies_are_read_from_any_trace(tmp_path: Path) -> None:
    lines = [
        TracedFrame(kind="key", step_ms=100.0, feature_ms=90.0),
        TracedFrame(kind="dropped"),
        TracedFrame(kind="propagated", step_ms=20.0, feature_ms=None),
        TracedFrame(kind="propagated", step_ms=118.0, feature_ms=95.0, flow_ms=10.0, refine_ms=3.0, made_key=True),
        TracedFrame(kind="key", step_ms=70.0),
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(vars(line)) for line in lines))
    keys = (KeyLatency(100.0, 90.0), KeyLatency(105.0, 95.0), KeyLatency(70.0, 70.0))
    assert read_latencies(str(path)) == Latencies(keys, (20.0, 23.0))
    assert read_latencies("key=120,propagated=20.5") == Latencies((KeyLatency(120.0, 120.0),), (20.5,))


@pytest.mark.parametrize("text", ["key=120", "none.jsonl", "key=1.2.3,propagated=4", "key=-1,propagated=2"])
def test_other_latencies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--latencies should be a trace written by --trace or key=MS,propagated=MS, got"):
        read_latencies(text)


def test_a_trace_without_a_kind_that_is_needed_is_refused(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"kind": "key", "step_ms": 30}\n')
    options = ["--drive", "2", "--model", str(tiny_bundle), "--json", str(tmp_path / "o.json"), "--latencies", str(trace)]
    assert main([*options, "--schedule", "fixed:2"]) == 2
    assert "--latencies should have a propagated frame, got none" in capsys.readouterr().err
    assert main([*options, "--schedule", "per-frame"]) == 0
    trace.write_text('{"kind": "dropped"}\n')
    assert main([*options, "--schedule", "per-frame"]) == 2
    assert "--latencies should have frames with step_ms, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--real-time", "--every-offset"], "has no place in --real-time"),
        (["--real-time", "--key-delay", "2"], "in --real-time a key frame is ready when its time has passed"),
        (["--real-time", "--keys-from", "bag"], "--keys-from brings what was dropped live"),
        (["--real-time", "--without", "propagation"], "--without propagation takes no time"),
        (["--latencies", "key=1,propagated=1", "--every-offset"], "--latencies belongs to a schedule"),
        (["--key-frames", "aside", "--every-offset"], "--key-frames belongs to a schedule"),
        (["--key-frames", "blocking", "--key-delay", "2"], "--key-delay makes key frames aside"),
        (["--trace", "t.jsonl", "--every-offset"], "--trace shows one run"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["--drive", "3", "--json", "o.json", *options])
    assert message in capsys.readouterr().err
