"""Candidates run by the clock: which frames are answered and how late, with a clock and an engine that are made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_tuning import step

from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FrameResult
from dff_ros.recording.frames import StampedFrame
from dff_ros.tuning import verification
from dff_ros.tuning.verification import clocked, held

INTERVAL_NS = 66_000_000


class Clock:
    """Time that passes when somebody waits or computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Engine:
    """Takes the time it is told, step by step."""

    def __init__(self, clock: Clock, milliseconds: Iterator[float]) -> None:
        self._clock, self._milliseconds = clock, milliseconds
        self.closed = False

    def step(self, frame: np.ndarray, stamp: int, dropped: Sequence[int] = ()) -> FrameResult:
        self._clock.now += next(self._milliseconds) / 1e3
        return replace(step("propagated", 1, 0.0), stamp=stamp)

    def close(self) -> None:
        self.closed = True


def frames(count: int, *, side: int = 4, first: int = 0) -> list[StampedFrame]:
    picture = np.zeros((side, side, 3), np.uint8)
    return [StampedFrame(index, 1_000_000_000 + index * INTERVAL_NS, picture, "", "camera") for index in range(first, first + count)]


def test_frames_arrive_by_their_stamps_and_the_newest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    engine = Engine(clock, iter([500.0, 20.0, 150.0, 20.0, 100.0, 10.0, 30.0]))  # the first before the clock starts
    monkeypatch.setattr(verification, "time", clock)
    monkeypatch.setattr(verification, "FeatureFlowStream", lambda model, settings: engine)
    answers = clocked(None, EngineSettings(), frames(8))  # type: ignore[arg-type]
    # Counted from frame 1: frame 2 (66) is done at 216, so 3 (132) is dropped for 4 (198), done at 236; 5 (264) at 364, 6 (330) at 374.
    assert [answer.item.index for answer in answers] == [1, 2, 4, 5, 6, 7]
    assert [answer.latency_ms for answer in answers] == pytest.approx([20.0, 150.0, 38.0, 100.0, 44.0, 30.0])
    assert engine.closed


def test_the_engine_is_closed_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Clock(), iter([1.0]))
    monkeypatch.setattr(verification, "FeatureFlowStream", lambda model, settings: engine)
    with pytest.raises(StopIteration):
        clocked(None, EngineSettings(), frames(3))  # type: ignore[arg-type]
    assert engine.closed


def test_segments_are_played_in_pieces_that_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = [(index in (0, 5), item) for index, item in enumerate(frames(9))]
    assert [[item.index for item in piece] for piece in held(marked)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    monkeypatch.setattr(verification, "HELD_BYTES", 3 * 4 * 4 * 3)
    assert [[item.index for item in piece] for piece in held(marked)] == [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_another_size_or_a_step_back_in_time_begins_a_piece() -> None:
    mixed = [(False, item) for item in (*frames(2), *frames(2, side=6, first=2), *frames(2))]
    assert [[item.index for item in piece] for piece in held(mixed)] == [[0, 1], [2, 3], [0, 1]]
