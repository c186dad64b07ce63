"""The per-frame trace: one JSON object a line for every frame of a replay, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.recording.frames import StampedFrame

KINDS = ("key", "propagated", "dropped")


class TraceError(ValueError):
    """A trace that cannot be read; one line that says which and why."""


@dataclass(frozen=True)
class TracedFrame:
    """One line of a trace; None is what was not measured. Times are milliseconds, lengths source pixels."""

    index: int | None = None
    """Of the source's frames, from 0."""
    stamp: int | None = None
    """Nanoseconds; 0 is unknown."""
    kind: str = "propagated"
    """``key``, ``propagated`` or ``dropped``; a dropped frame has nothing but index and stamp."""
    reason: str | None = None
    """Why it was made a key frame, at once or aside; empty where it was not."""
    key_age_frames: int | None = None
    key_age_ms: float | None = None
    motion_px: float | None = None
    disagreement: float | None = None
    step_ms: float | None = None
    """The whole step. A key feature that is made aside is in it, as ``feature_ms``, where the replay computes it then and there."""
    feature_ms: float | None = None
    flow_ms: float | None = None
    refine_ms: float | None = None
    head_ms: float | None = None
    latency_ms: float | None = None
    """From the frame's arrival to its result."""
    made_key: bool = False
    """Whether the frame was made a key frame, at once or aside."""
    agreement: float | None = None
    """The share of pixels that per-frame gives the same class."""


def traced(answered: AnsweredFrame) -> TracedFrame:
    """The line of one answered frame."""
    result = answered.result
    return TracedFrame(
        index=answered.item.index,
        stamp=answered.item.stamp,
        kind=result.kind,
        reason=result.reason,
        key_age_frames=result.key_age_frames,
        key_age_ms=result.key_age_ms if result.is_key or result.key_age_ms else None,
        motion_px=result.motion_px,
        disagreement=result.disagreement,
        step_ms=result.step_ms,
        feature_ms=result.feature_ms or None,  # no part that runs takes exactly 0
        flow_ms=result.flow_ms or None,
        refine_ms=result.refine_ms or None,
        head_ms=result.head_ms or None,
        latency_ms=answered.latency_ms,
        made_key=result.made_key,
        agreement=agreement(result, answered.per_frame),
    )


def agreement(result: FrameResult, per_frame: FrameResult | None) -> float | None:
    """The share of pixels whose class equals per-frame's; None without two label maps."""
    if per_frame is None or per_frame.label_map is None or result.label_map is None:
        return None
    return float(np.mean(result.label_map.labels == per_frame.label_map.labels))


class TraceFile(Observer):
    """Writes the trace while the replay runs, as a context manager; what was written stays, whatever ends the run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> TraceFile:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, answered: AnsweredFrame) -> None:
        """Append an answered frame."""
        self._write(traced(answered))

    def dropped(self, item: StampedFrame) -> None:
        """Append a dropped one."""
        self._write(TracedFrame(index=item.index, stamp=item.stamp, kind="dropped"))

    def _write(self, frame: TracedFrame) -> None:
        assert self._file is not None, "a trace is written inside of its with block"
        self._file.write(json.dumps(asdict(frame), allow_nan=False, ensure_ascii=False) + "\n")


def read_trace(path: Path) -> Iterator[TracedFrame]:
    """The frames of a trace, line by line; keys that are absent are None, those of no use here are left out.

    Raises TraceError for a file that cannot be read or a line that is none.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parsed(line, f"{path}, line {number}")
    except OSError as error:
        raise TraceError(f"trace {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"trace {path} is no text") from error


def _parsed(line: str, place: str) -> TracedFrame:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{place}: is not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("kind") not in KINDS:
        raise TraceError(f"{place}: should be an object with kind {', '.join(KINDS)}, got {line.strip()[:80]}")
    known = {item.name: values[item.name] for item in fields(TracedFrame) if item.name in values}
    for name, value in known.items():
        if name.endswith("_ms") and value is not None and not _is_duration(value):
            raise TraceError(f"{place}: {name} should be milliseconds, 0 or more, or null, got {value!r}")
    return TracedFrame(**known)


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
