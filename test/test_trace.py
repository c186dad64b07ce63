"""The per-frame trace: what a replay writes is what is read again, and what is no trace is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dff_ros.core.results import LabelMap
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.evaluation.outputs.trace import TracedFrame, TraceError, TraceFile, read_trace, traced
from dff_ros.evaluation.replay import main
from dff_ros.recording.frames import StampedFrame

KEYS = (
    "index", "stamp", "kind", "reason", "key_age_frames", "key_age_ms", "motion_px", "disagreement", "step_ms", "feature_ms", "flow_ms",
    "refine_ms", "head_ms", "latency_ms", "made_key", "agreement",
)  # fmt: skip


def frame(index: int) -> StampedFrame:
    return StampedFrame(index, 10**9 + index, np.zeros((2, 2, 3), np.uint8), "", "")


def labels(*values: int) -> LabelMap:
    return LabelMap(np.array([values], np.uint8))


def result(**changes: object) -> FrameResult:
    key = FrameResult(
        stamp=1, is_key=True, reason="interval", key_age_frames=0, key_age_ms=0.0, key_ms=9.0, motion_px=None, disagreement=None,
        detections=None, label_map=labels(1, 2, 3, 4), step_ms=11.0, feature_ms=9.0, flow_ms=0.0, refine_ms=0.0, head_ms=1.5,
    )  # fmt: skip
    return replace(key, **changes)  # type: ignore[arg-type]


def test_a_trace_tells_of_every_frame_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    answered = AnsweredFrame(frame(4), result(), result(label_map=labels(1, 2, 0, 4)), FrameTruth(None, {}), latency_ms=12.5)
    with TraceFile(path) as trace:
        trace.add(answered)
        trace.dropped(frame(5))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [tuple(line) for line in lines] == [KEYS, KEYS]
    values = (4, 10**9 + 4, "key", "interval", 0, 0.0, None, None, 11.0, 9.0, None, None, 1.5, 12.5, True, 0.75)
    assert tuple(lines[0].values()) == values
    assert {name for name, value in lines[1].items() if value is not None} == {"index", "stamp", "kind", "made_key"}
    assert list(read_trace(path)) == [traced(answered), TracedFrame(5, 10**9 + 5, "dropped")]


def test_a_key_age_by_unknown_stamps_is_not_zero() -> None:
    carried = result(is_key=False, reason="", key_age_frames=3, key_age_ms=0.0)
    line = traced(AnsweredFrame(frame(1), carried, None, FrameTruth(None, {})))
    assert (line.kind, line.key_age_frames, line.key_age_ms, line.made_key, line.agreement) == ("propagated", 3, None, False, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frame 1", "line 2: is not JSON"),
        ("[1]", r"line 2: should be an object with kind key, propagated, dropped, got \[1\]"),
        ('{"kind": "late"}', "line 2: should be an object with kind"),
        ('{"kind": "key", "step_ms": -1}', "line 2: step_ms should be milliseconds, 0 or more, or null, got -1"),
        ('{"kind": "key", "step_ms": NaN}', "line 2: step_ms should be milliseconds"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"kind": "key", "step_ms": 3, "of": "another version"}\n' + line + "\n")
    with pytest.raises(TraceError, match=message):
        list(read_trace(path))
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_trace(tmp_path / "none.jsonl"))


def test_a_replay_writes_its_trace(tmp_path: Path, tiny_bundle: Path) -> None:
    path = tmp_path / "new" / "trace.jsonl"
    arguments = ["--drive", "5", "--model", str(tiny_bundle), "--device", "cpu", "--schedule", "fixed:3", "--baseline"]
    assert main([*arguments, "--json", str(tmp_path / "o.json"), "--trace", str(path)]) == 0
    frames = list(read_trace(path))
    assert [line.kind for line in frames] == ["key", "propagated", "propagated", "key", "propagated"]
    assert [line.index for line in frames] == [0, 1, 2, 3, 4]
    assert [line.agreement == 1 for line in frames if line.kind == "key"] == [True, True]
    assert all(line.step_ms and line.step_ms > (line.head_ms or 0) > 0 and line.latency_ms is None for line in frames)
    assert [line.motion_px is None for line in frames] == [line.made_key for line in frames]
    overall = json.loads((tmp_path / "o.json").read_text())["agreement"]
    assert np.mean([line.agreement for line in frames]) == pytest.approx(overall)
