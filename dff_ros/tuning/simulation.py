"""A schedule played against the clock on what was measured: which frames are answered, by which key, and how late.

Frames arrive by their stamps. Like the node, the engine takes the newest frame when it is free, and those it had no time for are
dropped. The key frame that begins a recording, or a segment of one, comes before the clock starts and is not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dff_ros.engine.frame_pair import FramePair, Renewal, Schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import longest_pause
from dff_ros.engine.turns import KeyProgress
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, pair_on


@dataclass(frozen=True)
class MeasuredSteps:
    """Milliseconds of steps of each kind; they are drawn in order, and again from the beginning when they run out."""

    key: tuple[float, ...]
    """A frame that waited for its own feature."""
    propagated: tuple[float, ...]
    beside: tuple[float, ...] = ()
    """A propagated frame while a key frame is computed aside."""
    aside: tuple[float, ...] = ()
    """The feature of a key frame aside."""
    takes_turns: bool = True
    """Whether a key frame aside is computed between steps, as on a CPU."""

    def as_json(self) -> dict[str, list[float]]:
        """The times of each kind."""
        return {kind: list(getattr(self, kind)) for kind in ("key", "propagated", "beside", "aside")}


@dataclass(frozen=True)
class Played:
    """What happened. All arrays are (answered frames,), the key frames that begin recordings left out."""

    frames: NDArray[np.intp]
    distances: NDArray[np.intp]
    """Frames of the recording since the key that answered."""
    made_key: NDArray[np.bool_]
    latency_ms: NDArray[np.float64]
    """From a frame's arrival to its answer."""
    dropped: int


@dataclass
class _Ordered:
    """A key frame in the making."""

    frame: int
    took: float
    progress: KeyProgress
    asked: FramePair
    age: int = 0


@dataclass
class _Log:
    frames: list[int] = field(default_factory=list)
    distances: list[int] = field(default_factory=list)
    made_key: list[bool] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    dropped: int = 0


class Simulation:
    """One candidate on one table. Times of the clock are milliseconds by the stamps."""

    def __init__(self, table: AgreementTable, times: MeasuredSteps, schedule: Schedule, settings: EngineSettings) -> None:
        self._table, self._schedule, self._settings = table, schedule, settings
        self._arrivals: list[float] = ((table.stamps - table.stamps[0]) / 1e6).tolist()
        self._key, self._propagated = _drawn(times.key), _drawn(times.propagated)
        self._beside, self._took = _drawn(times.beside or times.propagated), _drawn(times.aside or times.key)
        self._least_share = settings.key_share if times.takes_turns else None
        self._aside = settings.key_frames == "aside" and settings.schedule.strip() != "per-frame"
        self._log = _Log()

    def play(self) -> Played:
        """Run through all recordings of the table."""
        for first, after in itertools.pairwise([*self._table.firsts.tolist(), len(self._table)]):
            self._begin(first)
            self._play(first + 1, after)
        log = self._log
        arrays = np.array(log.frames, np.intp), np.array(log.distances, np.intp), np.array(log.made_key, bool)
        return Played(*arrays, np.array(log.latency_ms, np.float64), log.dropped)

    def _begin(self, frame: int) -> None:
        """With a key frame, and with nothing known of the scene."""
        if frame:
            self._schedule.reset()
        self._start_over(frame)
        self._spent: float | None = None

    def _start_over(self, frame: int) -> None:
        self._key_frame = self._last = frame
        self._age = 0
        self._renewal: Renewal | None = None
        self._ordered: _Ordered | None = None

    def _play(self, frame: int, after: int) -> None:
        free = -np.inf
        while frame < after:
            start = max(free, self._arrivals[frame])
            newest = frame
            while newest + 1 < after and self._arrivals[newest + 1] <= start:
                newest += 1
            self._log.dropped += newest - frame
            spent, made_key = self._step(newest, start)
            free = start + spent
            if self._ordered is not None:
                self._ordered.progress.step_ends(free)
            self._log.frames.append(newest)
            self._log.distances.append(newest - self._key_frame)
            self._log.made_key.append(made_key)
            self._log.latency_ms.append(free - self._arrivals[newest])
            self._last, self._spent = newest, spent
            frame = newest + 1

    def _step(self, frame: int, now: float) -> tuple[float, bool]:
        """Milliseconds of the step, and whether the frame was made a key frame. As ``FeatureFlowStream`` does it."""
        interval_ns = int(self._table.stamps[frame] - self._table.stamps[self._last])
        if 0 < self._settings.max_gap * 1e9 < longest_pause(self._table.stamps[self._last : frame + 1].tolist()):
            self._schedule.reset()
            self._start_over(frame)
            return next(self._key), True
        self._take_over(now)
        self._age += 1
        distance = frame - self._key_frame
        pair = pair_on(
            self._table, frame, distance, age=self._age, renewal=self._renewal, interval_ns=interval_ns, spent_ms=self._spent
        )
        decision = self._schedule.is_key_frame(pair)
        wanted = bool(decision) or self._too_old(pair)
        if decision.hard or (wanted and not self._aside):
            self._renewal = None if decision.hard else self._renewed(pair, frame, distance)
            self._key_frame, self._age, self._ordered = frame, 0, None
            return next(self._key), True
        if self._ordered is not None:
            self._ordered.age += 1
            return next(self._beside), False
        if wanted:
            took = next(self._took)
            progress = KeyProgress(took, ordered=now, least_share=self._least_share)
            self._ordered = _Ordered(frame, took, progress, pair)
            return next(self._beside), True
        return next(self._propagated), False

    def _too_old(self, pair: FramePair) -> bool:
        limit = self._settings.max_key_age * 1e9
        return bool(limit and pair.age_ns is not None and pair.age_ns > limit)

    def _take_over(self, now: float) -> None:
        """Go on with the key frame aside where it is ready."""
        ordered = self._ordered
        if ordered is None:
            return
        ordered.progress.step_begins(now)
        if not ordered.progress.ready:
            return
        self._renewal = self._renewed(ordered.asked, ordered.frame, ordered.frame - self._key_frame)
        self._key_frame, self._age, self._ordered = ordered.frame, ordered.age, None
        self._spent = (self._spent or 0.0) + ordered.took

    def _renewed(self, pair: FramePair, frame: int, distance: int) -> Renewal | None:
        seen = float(self._table.surprises[frame, min(distance, self._table.oldest)])
        return Renewal(pair.signals, seen) if pair.signals_measured and not np.isnan(seen) else None


def _drawn(times: Sequence[float]) -> Iterator[float]:
    if not times:
        raise ValueError("step times should be measured before they are drawn")
    return itertools.cycle(times)
