"""How budgets are held on the tables of ``schedules_tables``: costs are made up, no clock takes part, and every run is the same run.

``budget.py`` plays the same through the engine, by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from accuracy_report import table
from schedules_contenders import Study

from dff_ros.core.signals import Estimator
from dff_ros.engine.adaptive import AdaptiveSchedule
from dff_ros.engine.budget import Budget, Measure, SetPoint
from dff_ros.engine.frame_pair import Decision, FramePair, Schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.measures.every_age import OLDEST
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, join_tables, losses_of, play
from dff_ros.evaluation.schedule_study.gap import fixed_at, oracle_at

WINDOW = 20
"""Key frames over which a rate that was to be held is counted."""

KEY_MS, PROPAGATED_MS = 132.0, 22.0
"""What steps of `street` take on two cores."""

INTERVAL_NS = 66_666_667
"""At 15 Hz, whatever the recording's own rate."""

SLOWER = 1.5
"""How much longer everything takes beside other programs."""


class Costed:
    """A schedule that is told of made-up costs; ``slower`` is by frame asked about."""

    def __init__(self, schedule: Schedule, *, key_ms: float, propagated_ms: float, slower: Callable[[int], float]) -> None:
        self._schedule, self._key_ms, self._propagated_ms, self._slower = schedule, key_ms, propagated_ms, slower
        self.spent = [key_ms]
        """Milliseconds of each frame so far."""

    def is_key_frame(self, pair: FramePair) -> Decision:
        pair.spent_ms, pair.interval_ns = self.spent[-1], INTERVAL_NS
        decision = self._schedule.is_key_frame(pair)
        self.spent.append((self._key_ms if decision else self._propagated_ms) * self._slower(len(self.spent)))
        return decision

    def reset(self) -> None:
        self._schedule.reset()
        self.spent.append(self._key_ms * self._slower(len(self.spent)))


class Switched:
    """One schedule up to a frame, then another that takes over from it."""

    def __init__(self, first: AdaptiveSchedule, then: AdaptiveSchedule, at: int) -> None:
        self._now, self._then, self._left = first, then, at

    def is_key_frame(self, pair: FramePair) -> Decision:
        self._count()
        return self._now.is_key_frame(pair)

    def reset(self) -> None:
        self._count()
        self._now.reset()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._then.take_over(self._now)
            self._now = self._then


def with_budget(learned: Estimator, measure: Measure, value: float) -> AdaptiveSchedule:
    """The adaptive schedule that holds a set-point."""
    budget = Budget(SetPoint(measure, value), price=EngineSettings().adaptive_price)
    return AdaptiveSchedule(learned, reason="", price=1.0, min_age=1, max_age=OLDEST + 1, budget=budget)


def windows(keys: Sequence[int]) -> list[float]:
    """The key rate over each stretch of WINDOW keys."""
    return [WINDOW / (after - first) for first, after in zip(keys, keys[WINDOW:], strict=False)]


def held_table(study: Study, rates: Sequence[float]) -> list[str]:
    """The set-point ``rate`` on all recordings together, played twice: the second time is counted. Then on each by itself, ten times."""
    lines = []
    for rate in rates:
        twice = play(join_tables([study.joined, study.joined]), with_budget(study.learned, Measure.KEY_RATE, rate))
        second = [key - len(study.joined) for key in twice if key >= len(study.joined)]
        off = [window / rate - 1 for window in windows(second)]
        fixed = fixed_at(study.joined, len(second) / len(study.joined))[1].mean()
        best = oracle_at(study.joined, len(second)).mean()
        closed = (fixed - losses_of(study.joined, second).mean()) / (fixed - best)
        alone = [window / rate - 1 for part in study.parts.values() for window in _settled(part, study.learned, rate)]
        lines.append(
            [
                *(f"{rate:.0%}", f"{100 * len(second) / len(study.joined):.1f}", *_spread(off)),
                *(f"{100 * closed:.0f}", *_spread(alone)),
            ]
        )
    head = ["set-point", "key rate, %", f"any {WINDOW} keys", "within 10 %", "gap closed, %", "each recording by itself", "within 10 %"]
    return table(head, lines)


def _spread(off: Sequence[float]) -> tuple[str, str]:
    if not off:
        return "", ""
    return f"{min(off):+.0%} .. {max(off):+.0%}", f"{np.mean(np.abs(off) <= 0.1):.0%}"


def _settled(part: AgreementTable, learned: Estimator, rate: float) -> list[float]:
    """Rates over one recording again and again, after as many keys as a window has."""
    keys = play(join_tables([part] * 10), with_budget(learned, Measure.KEY_RATE, rate))
    return windows(keys[WINDOW:])


def budget_table(study: Study, calm: str, lively: str, *, frames: int = 3200) -> list[str]:
    """A step of the set-point, a change of scene and a machine that slows down, each half-way; the last quarters of each half."""
    middle, quarter = frames // 2, frames // 4
    first, then = (_repeated(study.parts[name], middle) for name in (calm, lively))
    step = Switched(*(with_budget(study.learned, Measure.KEY_RATE, rate) for rate in (0.1, 0.2)), at=middle)
    found = {
        "set-point 10 %, then 20 %": (play(join_tables([first, first]), step), 0.1, 0.2),
        f"10 %, {calm}, then {lively}": (
            play(join_tables([first, then]), with_budget(study.learned, Measure.KEY_RATE, 0.1)),
            *(0.1, 0.1),
        ),
    }
    lines = []
    for title, (keys, *wanted) in found.items():
        rates = [sum(begin <= key < begin + quarter for key in keys) / quarter for begin in (middle - quarter, frames - quarter)]
        halves = [key for key in keys if quarter <= key < middle], [key for key in keys if key >= middle + quarter]
        off = [window / rate - 1 for half, rate in zip(halves, wanted, strict=True) for window in windows(half)]
        lines.append([title, *(f"{rate:.1%}" for rate in rates), *_spread(off)])
    allowed = round(1.15 * (0.1 * KEY_MS + 0.9 * PROPAGATED_MS) * 1e9 / INTERVAL_NS)
    busy = Costed(
        with_budget(study.learned, Measure.BUSY, allowed),
        key_ms=KEY_MS,
        propagated_ms=PROPAGATED_MS,
        slower=lambda index: SLOWER if index >= middle else 1.0,
    )
    keys = play(join_tables([first, first]), busy)
    cells = []
    for begin in (middle - quarter, frames - quarter):
        rate = sum(begin <= key < begin + quarter for key in keys) / quarter
        cells.append(f"{np.mean(busy.spent[begin : begin + quarter]) * 1e9 / INTERVAL_NS:.0f} ms, {rate:.1%} keys")
    lines.append([f"{allowed} ms a second, then everything takes {SLOWER:g} times as long", *cells, "", ""])
    return table(["budget", "before", "after", f"any {WINDOW} keys, settled", "within 10 %"], lines)


def _repeated(part: AgreementTable, frames: int) -> AgreementTable:
    """A recording again and again; the first frames of the last time."""
    times = -(-frames // len(part))
    whole = join_tables([part] * times)
    rows = (whole.losses[:frames], whole.signals[:frames], whole.surprises[:frames], whole.stamps[:frames])
    return AgreementTable(*rows, whole.firsts[whole.firsts < frames])
