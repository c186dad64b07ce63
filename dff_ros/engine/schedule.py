"""Key frame scheduling: when the slow network is worth it (DFF, sec. 3.3).

A schedule sees a ``FramePair`` and answers with a decision and its reason; it never touches networks. The first frame, a new
size and a jump in time are not its business: the stream makes those key frames before asking.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from dff_ros.core.signals import BY_MOTION, BY_RESIDUAL, Estimator
from dff_ros.engine.adaptive import AdaptiveSchedule
from dff_ros.engine.budget import Budget, Measure, SetPoint
from dff_ros.engine.frame_pair import KEEP, Decision, FramePair, Schedule
from dff_ros.engine.settings import EngineSettings

__all__ = ["GRAMMAR", "Decision", "FixedSchedule", "FramePair", "RandomSchedule", "Schedule", "TimedSchedule", "parse_schedule"]

GRAMMAR = (
    "per-frame, fixed:N, fixed:Nms, random:RATE or adaptive, this with rate=RATE, ms_per_s=MS or latency_ms=MS and with "
    "signal=disagreement, residual or motion, for example adaptive:rate=0.1,signal=residual"
)

SIGNALS = ("disagreement", "residual", "motion")
"""What an adaptive schedule goes by: the bundle's own estimator, or one of the two that need none."""


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


def _rate(rate: float) -> float:
    if not 0 < rate <= 1:
        raise ValueError(f"rate should lie in 0..1 and not be 0, got {rate}")
    return rate


def parse_schedule(
    text: str, settings: EngineSettings, *, estimator: Estimator | None = None, previous: Schedule | None = None
) -> Schedule:
    """The schedule that ``text`` names; raises ValueError with the grammar and what came.

    ``estimator`` is the bundle's, where it has one. A ``previous`` adaptive schedule hands on what it knows of the scene.
    """
    kind, colon, argument = text.strip().partition(":")
    try:
        if text.strip() == "per-frame":
            return FixedSchedule(1)
        if kind == "fixed" and argument.endswith("ms"):
            return TimedSchedule(float(argument[:-2]))
        if kind == "fixed":
            return FixedSchedule(int(argument))
        if kind == "random":
            return RandomSchedule(float(argument))
        if kind == "adaptive" and bool(colon) == bool(argument):
            schedule = _adaptive(_options(argument), settings, estimator)
            if isinstance(previous, AdaptiveSchedule):
                schedule.take_over(previous)
            return schedule
    except ValueError as error:
        raise ValueError(f"schedule should be {GRAMMAR}, got {text!r}: {error}") from error
    raise ValueError(f"schedule should be {GRAMMAR}, got {text!r}")


def _options(argument: str) -> dict[str, str]:
    """``a=1,b=2`` as a mapping."""
    pairs = [item.partition("=") for item in argument.split(",")] if argument else []
    options = {name.strip(): value.strip() for name, _, value in pairs}
    known = {"signal", *(measure.value for measure in Measure)}
    wrong = sorted(options.keys() - known) or [name for name, value in options.items() if not value]
    if wrong or len(options) < len(pairs):
        raise ValueError(f"options are {', '.join(sorted(known))}, each once and with a value")
    return options


def _adaptive(options: Mapping[str, str], settings: EngineSettings, estimator: Estimator | None) -> AdaptiveSchedule:
    signal = options.get("signal", "disagreement")
    if signal not in SIGNALS:
        raise ValueError(f"signal should be one of {', '.join(SIGNALS)}, got {signal!r}")
    if signal != "disagreement" or estimator is None:
        estimator, signal = (BY_MOTION, signal) if signal == "motion" else (BY_RESIDUAL, "residual")
    points = [SetPoint(measure, float(options[measure.value])) for measure in Measure if measure.value in options]
    if len(points) > 1:
        raise ValueError("one set-point can be held, not several")
    price = settings.adaptive_price
    budget = Budget(points[0], price=price) if points else None
    return AdaptiveSchedule(
        estimator, reason=signal, price=price, min_age=settings.adaptive_min_age, max_age=settings.adaptive_max_age, budget=budget
    )
