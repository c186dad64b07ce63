"""Key frame scheduling: when the slow network is worth it (DFF, sec. 3.3).

A schedule sees a ``FramePair`` and answers with a decision and its reason; it never touches networks. The first frame, a new
size and a jump in time are not its business: the stream makes those key frames before asking.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from dff_ros.core.propagate import FlowFields
from dff_ros.engine.settings import EngineSettings

GRAMMAR = "per-frame, fixed:N, fixed:Nms, random:RATE, adaptive or adaptive:rate=RATE"


@dataclass(frozen=True)
class Decision:
    """Whether a frame becomes a key frame, and why; true when it does."""

    is_key_frame: bool
    reason: str

    def __bool__(self) -> bool:
        return self.is_key_frame


KEEP = Decision(False, "")


class FramePair:
    """The current frame beside its key frame. Flow is computed once, when the schedule or the propagation first asks."""

    def __init__(self, *, age: int, age_ns: int | None, pixels_per_cell: float, compute_fields: Callable[[], FlowFields]) -> None:
        self.age = age
        """Processed frames since the key frame, at least 1."""
        self.age_ns = age_ns
        """Nanoseconds since the key frame by the stamps; None where a stamp is unknown."""
        self._pixels_per_cell = pixels_per_cell
        self._compute_fields = compute_fields

    @cached_property
    def fields(self) -> FlowFields:
        """Flow and scale from the current frame back to the key frame."""
        return self._compute_fields()

    @property
    def flow_computed(self) -> bool:
        """Whether somebody has asked for the flow yet."""
        return "fields" in self.__dict__

    @cached_property
    def motion_px(self) -> float:
        """Mean length of the flow, in source pixels."""
        return float(self.fields.flow.norm(dim=1).mean()) * self._pixels_per_cell

    @cached_property
    def own_motion_px(self) -> float:
        """Mean length of the flow after removing its median (the camera's turn), in source pixels."""
        flow = self.fields.flow.flatten(2)
        moved = flow - flow.median(dim=2, keepdim=True).values
        return float(moved.norm(dim=1).mean()) * self._pixels_per_cell


class Schedule(Protocol):
    """Decides for one video; it may remember, so each video has its own."""

    def is_key_frame(self, pair: FramePair) -> Decision:
        """Whether the current frame should become the key frame."""
        ...

    def reset(self) -> None:
        """The key frame was replaced for another reason: forget what was summed up since the last one."""
        ...


class FixedSchedule:
    """Every ``key_frame_interval`` processed frames; 1 is the per-frame baseline (the paper's schedule)."""

    def __init__(self, key_frame_interval: int) -> None:
        if key_frame_interval < 1:
            raise ValueError(f"key frame interval should be at least 1, got {key_frame_interval}")
        self.key_frame_interval = key_frame_interval

    def is_key_frame(self, pair: FramePair) -> Decision:
        return Decision(True, "interval") if pair.age >= self.key_frame_interval else KEEP

    def reset(self) -> None:
        """Nothing to forget: the age starts anew with the key frame."""


class TimedSchedule:
    """Every so many milliseconds by the stamps: the live form, because a live node drops frames."""

    def __init__(self, milliseconds: float) -> None:
        if not 0 < milliseconds < math.inf:
            raise ValueError(f"key frame interval should be more than 0 ms, got {milliseconds}")
        self.milliseconds = milliseconds

    def is_key_frame(self, pair: FramePair) -> Decision:
        if pair.age_ns is None:
            return Decision(True, "stamp unknown")
        # Half a millisecond of slack: 400 ms at 15 Hz is six frames of 66.67 ms, whatever the stamps were rounded to.
        return Decision(True, "interval") if pair.age_ns >= (self.milliseconds - 0.5) * 1e6 else KEEP

    def reset(self) -> None:
        """Nothing to forget: the age starts anew with the key frame."""


class RandomSchedule:
    """Each frame with the same probability: a control. Seeded, so that two runs are the same run."""

    def __init__(self, rate: float, *, seed: int = 0) -> None:
        self.rate = _rate(rate)
        self._random = random.Random(seed)

    def is_key_frame(self, pair: FramePair) -> Decision:
        return Decision(True, "random") if self._random.random() < self.rate else KEEP

    def reset(self) -> None:
        """Nothing to forget: draws do not depend on the key frame."""


class AdaptiveSchedule:
    """A key frame when the motion summed since the last one reaches a threshold, within bounds on the age.

    What a key frame is worth is the loss accumulated since the last one, so the motion (flow length less its median) is summed
    over the frames rather than compared momentarily. With ``rate`` the threshold follows: it rises a little with each key
    frame and falls between them, in the proportion that settles where a share ``rate`` of the frames are key frames.
    """

    STEP = 0.5
    """How fast the threshold follows the rate: log units per key frame in excess."""
    BOUND = 100.0
    """The threshold stays within this factor of where it started, so that a long still scene does not wind it up."""

    def __init__(self, *, motion: float, min_age: int, max_age: int, rate: float | None = None) -> None:
        if min_age > max_age:
            raise ValueError(f"adaptive_min_age should be at most adaptive_max_age ({max_age}), got {min_age}")
        self.threshold = motion
        self.min_age = min_age
        self.max_age = max_age
        self.rate = None if rate is None else _rate(rate)
        self._low, self._high = motion / self.BOUND, motion * self.BOUND
        self._sum = 0.0

    def is_key_frame(self, pair: FramePair) -> Decision:
        self._sum += pair.own_motion_px
        decision = self._decide(pair)
        if self.rate is not None:
            change = self.STEP * (float(bool(decision)) - self.rate)
            self.threshold = min(max(self.threshold * math.exp(change), self._low), self._high)
        if decision:
            self._sum = 0.0
        return decision

    def _decide(self, pair: FramePair) -> Decision:
        if pair.age < self.min_age:
            return KEEP
        if self._sum >= self.threshold:
            return Decision(True, "motion")
        return Decision(True, "age") if pair.age >= self.max_age else KEEP

    def reset(self) -> None:
        self._sum = 0.0


def _rate(rate: float) -> float:
    if not 0 < rate <= 1:
        raise ValueError(f"rate should lie in 0..1 and not be 0, got {rate}")
    return rate


def parse_schedule(text: str, settings: EngineSettings) -> Schedule:
    """The schedule that ``text`` names; raises ValueError with the grammar and what came."""
    kind, _, argument = text.strip().partition(":")
    try:
        if text.strip() == "per-frame":
            return FixedSchedule(1)
        if kind == "fixed" and argument.endswith("ms"):
            return TimedSchedule(float(argument[:-2]))
        if kind == "fixed":
            return FixedSchedule(int(argument))
        if kind == "random":
            return RandomSchedule(float(argument))
        if text.strip() == "adaptive" or (argument.startswith("rate=") and kind == "adaptive"):
            rate = float(argument[len("rate=") :]) if argument else None
            return AdaptiveSchedule(
                motion=settings.adaptive_motion, min_age=settings.adaptive_min_age, max_age=settings.adaptive_max_age, rate=rate
            )
    except ValueError as error:
        raise ValueError(f"schedule should be {GRAMMAR}, got {text!r}: {error}") from error
    raise ValueError(f"schedule should be {GRAMMAR}, got {text!r}")
