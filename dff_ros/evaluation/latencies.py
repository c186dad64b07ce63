"""Step times of another run in the place of the clock's: a replay that uses them is the same on every machine."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dff_ros.engine.step_times import StepTimes, Timing
from dff_ros.evaluation.outputs.trace import TracedFrame, read_trace

T = TypeVar("T")

GRAMMAR = "a trace written by --trace or key=MS,propagated=MS"


@dataclass(frozen=True)
class KeyLatency:
    """One key frame: milliseconds of the whole step where it blocks, and of its feature alone, which is what it takes aside."""

    step_ms: float
    feature_ms: float


@dataclass(frozen=True)
class Latencies:
    """What steps took in another run, in its order; drawn one after the other, and from the beginning again when they run out."""

    keys: tuple[KeyLatency, ...]
    propagated_ms: tuple[float, ...]


class TracedTiming(Timing):
    """Draws what the steps of one stream take. What they really take is ignored, and parts are told apart only where a key comes in."""

    def __init__(self, latencies: Latencies) -> None:
        self._keys, self._propagated = itertools.cycle(latencies.keys), itertools.cycle(latencies.propagated_ms)
        self._key = KeyLatency(0.0, 0.0)

    def key_feature(self, measured_ms: float) -> float:
        """The next key frame's; raises ValueError where the trace has none."""
        self._key = _drawn(self._keys, "key")
        return self._key.feature_ms

    def step(self, measured: StepTimes, *, is_key: bool) -> dict[str, float]:
        """The key frame that was drawn last, or the next propagated one; raises ValueError where the trace has none."""
        if is_key:
            return {"step": self._key.step_ms, "feature": self._key.feature_ms}
        propagated = _drawn(self._propagated, "propagated")
        if "feature" not in measured.parts:
            return {"step": propagated}
        key = self._key  # made aside, computed within this step: a blocking one would have done without the propagation
        return {"step": propagated + key.feature_ms, "feature": key.feature_ms, "flow": propagated - (key.step_ms - key.feature_ms)}


def timing_of(latencies: Latencies | None) -> Timing:
    """For one stream: what the clock says, or what another run's steps took."""
    return Timing() if latencies is None else TracedTiming(latencies)


def _drawn(drawn: Iterator[T], kind: str) -> T:
    for value in drawn:
        return value
    raise ValueError(f"--latencies should have a {kind} frame, got none")


def read_latencies(text: str) -> Latencies:
    """A file, or ``key=MS,propagated=MS``; raises ValueError for anything else, in one line."""
    shorthand = re.fullmatch(r"key=([0-9.]+),propagated=([0-9.]+)", text)
    if shorthand is not None:
        key, propagated = map(_milliseconds, shorthand.groups())
        return Latencies((KeyLatency(key, key),), (propagated,))
    if not Path(text).is_file():
        raise ValueError(f"--latencies should be {GRAMMAR}, got {text!r}")
    latencies = latencies_of(list(read_trace(Path(text))))
    if not (latencies.keys or latencies.propagated_ms):
        raise ValueError(f"--latencies should have frames with step_ms, got none in {text}")
    return latencies


def _milliseconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--latencies should be {GRAMMAR}, got {text!r} ms") from error


def latencies_of(frames: Sequence[TracedFrame]) -> Latencies:
    """Those of a trace's frames that were timed.

    A key feature made aside comes on top of its frame's propagation, which a key frame that blocks does without.
    """
    keys, propagated = [], []
    for frame in frames:
        if frame.step_ms is None or frame.kind == "dropped":
            continue
        if frame.kind == "key":
            keys.append(KeyLatency(frame.step_ms, frame.step_ms if frame.feature_ms is None else frame.feature_ms))
            continue
        feature_ms = (frame.feature_ms or 0.0) if frame.made_key else 0.0
        if feature_ms:
            keys.append(KeyLatency(frame.step_ms - (frame.flow_ms or 0.0) - (frame.refine_ms or 0.0), feature_ms))
        propagated.append(max(frame.step_ms - feature_ms, 0.0))
    return Latencies(tuple(keys), tuple(propagated))
