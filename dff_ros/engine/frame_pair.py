"""What a schedule sees and what it answers: the current frame beside its key frame, and a decision with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from dff_ros.core.propagate import FlowFields
from dff_ros.core.signals import Signals


@dataclass(frozen=True)
class Decision:
    """Whether a frame becomes a key frame, and why; true when it does."""

    is_key_frame: bool
    reason: str
    disagreement: float | None = None
    """How far the propagated answer is expected to be off, where the schedule estimates it."""
    hard: bool = False
    """The old key frame is of no use any more (a scene cut): the frame cannot wait for its own feature."""

    def __bool__(self) -> bool:
        return self.is_key_frame


KEEP = Decision(False, "")


@dataclass(frozen=True)
class Renewal:
    """What a key frame showed of the one it replaced: what was told of the frame beforehand, and what its own feature then said."""

    signals: Signals
    surprise: float
    """Share of cells whose class was another than the propagated one (see :func:`dff_ros.core.signals.surprise`)."""


class FramePair:
    """The current frame beside its key frame. Flow and signals are computed once, when the schedule or the propagation first asks."""

    def __init__(
        self,
        *,
        age: int,
        age_ns: int | None,
        pixels_per_cell: float,
        compute_fields: Callable[[], FlowFields],
        compute_signals: Callable[[FlowFields], Signals] | None = None,
        renewal: Renewal | None = None,
        interval_ns: int | None = None,
        spent_ms: float | None = None,
        turn_rate: float | None = None,
    ) -> None:
        self.age = age
        """Processed frames since the key frame, at least 1."""
        self.age_ns = age_ns
        """Nanoseconds since the key frame by the stamps; None where a stamp is unknown."""
        self.renewal = renewal
        """What this pair's key frame showed of the one before; None where it followed none, or nobody measured it."""
        self.interval_ns = interval_ns
        """Nanoseconds since the frame before, by the stamps; None where one is unknown."""
        self.spent_ms = spent_ms
        """Milliseconds of computing spent on the frame before; None where there was none. A key aside counts with the last frame it did not
        answer, all at once."""
        self.turn_rate = turn_rate
        """Radians per second that the camera turns by another sensor; None without one."""
        self._pixels_per_cell = pixels_per_cell
        self._compute_fields = compute_fields
        self._compute_signals = compute_signals

    @cached_property
    def fields(self) -> FlowFields:
        """Flow and scale from the current frame back to the key frame."""
        return self._compute_fields()

    @property
    def flow_computed(self) -> bool:
        """Whether somebody has asked for the flow yet."""
        return "fields" in self.__dict__

    @cached_property
    def signals(self) -> Signals:
        """What can be told of the frame before it is answered."""
        if self._compute_signals is None:
            raise ValueError("this pair cannot measure its signals: it was given no images")
        return self._compute_signals(self.fields)

    @property
    def signals_measured(self) -> bool:
        """Whether somebody has asked for the signals yet."""
        return "signals" in self.__dict__

    @cached_property
    def motion_px(self) -> float:
        """Mean length of the flow, in source pixels."""
        return float(self.fields.flow.norm(dim=1).mean()) * self._pixels_per_cell


class Schedule(Protocol):
    """Decides for one video; it may remember, so each video has its own."""

    def is_key_frame(self, pair: FramePair) -> Decision:
        """Whether the current frame should become the key frame.

        Asked of every frame but those that are key frames for another reason. While a key frame is computed aside only a hard
        decision counts; that the age falls, or stays, tells that it took over.
        """
        ...

    def reset(self) -> None:
        """The key frame was dropped, and what was learnt of the scene is no use any more: forget both."""
        ...
