"""Key frames when they are worth it: the adaptive schedule.

Three parts. An estimator says from what is already there how far the propagated answer is likely to be off
(:mod:`dff_ros.core.signals`). Every new key frame shows how far it was, which corrects the estimator for the scene at hand. And a rule
sums up what a new key frame would be worth, and asks for one when that reaches its price.
"""

from __future__ import annotations

import math

from dff_ros.core.signals import Estimator
from dff_ros.engine.budget import Budget, Measure
from dff_ros.engine.frame_pair import Decision, FramePair, Renewal

CUT_RISE = 0.09
"""From one frame to the next the residual rises by at most 0.07 where cameras move and things go by, and by 0.12 to 0.43 at a cut."""

LOOK_AHEAD_S = 0.2
FIELD_OF_VIEW = 1.0
"""Radians. A camera that turns by so many loses its whole view: what a turn rate is worth in shares of the picture."""


class Correction:
    """How much more than estimated propagation really loses in this scene: a factor, the geometric mean over the latest key frames.

    The same residual stands for a large loss where thin things pass and for a small one where foliage moves. Without the correction
    the schedule spends its keys on the wrong scenes (docs/schedules.md: it brings more than the estimator).
    """

    MEMORY = 0.7
    """Weight of each key frame relative to the one after it."""
    PRIOR = 1.0
    """Key frames that the estimator's own word weighs as much as."""
    LARGEST = 10.0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Another scene: the estimator's own word counts again."""
        self._sum, self._weight = 0.0, self.PRIOR

    @property
    def factor(self) -> float:
        """What to multiply estimates by."""
        return math.exp(self._sum / self._weight)

    def learn(self, estimate: float, seen: float) -> None:
        """A key frame lost ``seen`` where ``estimate`` was expected."""
        limit = math.log(self.LARGEST)
        ratio = math.log(max(seen, 1e-3) / max(estimate, 1e-3))
        self._sum = self.MEMORY * self._sum + min(max(ratio, -limit), limit)
        self._weight = self.MEMORY * self._weight + 1.0


class Worth:
    """What a new key frame is worth: the loss summed up since the last one beyond what fresh keys lose, and the present frame's own.

    Where a scene goes on as it is, the mean cost of a frame, with key frames at price p and losses e(1), e(2), ... between them, is least
    when a key follows as soon as n e(n) - (e(1) + ... + e(n - 1)) reaches p (renewal). For losses that grow evenly that is
    the sum of (e(k) - e(1)) for k = 1..n, plus e(n), which noise in e(n) disturbs n times less.
    """

    FRESH_SHARE = 0.7
    """How much of the loss right after a key is taken for unavoidable: by all of it, estimates that hardly grow would ask for nothing."""
    FRESH_MEMORY = 0.3
    """How fast that loss follows, a key frame."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Another scene."""
        self._fresh: float | None = None
        self.renew()

    def renew(self) -> None:
        """A new key frame: nothing is lost yet."""
        self._sum, self._frames = 0.0, 0

    def add(self, estimate: float) -> float:
        """What a key frame now would be worth, this frame being expected to lose ``estimate``."""
        if not self._frames:
            self._fresh = estimate if self._fresh is None else self._fresh + self.FRESH_MEMORY * (estimate - self._fresh)
        self._sum += estimate
        self._frames += 1
        return self._sum - self.FRESH_SHARE * self._frames * (self._fresh or 0.0) + estimate


class AdaptiveSchedule:
    """A key frame when its worth reaches a price, within bounds on the age; with a ``budget`` the price follows what is spent.

    ``reason`` names the signal: what the estimates come from. A cut is told by a sudden rise of the residual, whatever the age.
    """

    def __init__(
        self, estimator: Estimator, *, reason: str, price: float, min_age: int, max_age: int, budget: Budget | None = None
    ) -> None:
        if min_age > max_age:
            raise ValueError(f"adaptive_min_age should be at most adaptive_max_age ({max_age}), got {min_age}")
        self.reason = reason
        self.min_age, self.max_age = min_age, max_age
        self._estimator = estimator
        self._price = price
        self._budget = budget
        self._correction, self._worth = Correction(), Worth()
        self._learnt: Renewal | None = None
        self._age, self._dropped = 0, False
        self._residual: float | None = None  # of the frame before; a fresh key's is 0

    @property
    def goes_by_the_clock(self) -> bool:
        """Whether what it decides depends on how long steps take."""
        return self._budget is not None and self._budget.set_point.measure is not Measure.KEY_RATE

    @property
    def price(self) -> float:
        """The worth at which a key frame is due, in frames answered all wrong."""
        return self._price if self._budget is None else self._budget.price

    def take_over(self, earlier: AdaptiveSchedule) -> None:
        """Go on from what ``earlier`` knows of the scene and, where both hold a budget, from its price; its signal's own numbers aside."""
        if earlier.reason == self.reason:
            self._correction = earlier._correction
        self._worth, self._learnt, self._age, self._dropped = earlier._worth, earlier._learnt, earlier._age, earlier._dropped
        self._residual = earlier._residual
        if self._budget is None or earlier._budget is None or earlier.reason != self.reason:
            return
        set_point, self._budget = self._budget.set_point, earlier._budget
        if set_point != self._budget.set_point:
            self._budget.hold(set_point)

    def is_key_frame(self, pair: FramePair) -> Decision:
        signals = pair.signals
        renewed = self._dropped or pair.age <= self._age
        if self._budget is not None and (self._age or self._dropped):
            self._budget.spent(pair, was_key=renewed)
        if renewed:
            self._worth.renew()
        self._age, self._dropped = pair.age, False
        if pair.renewal is not None and pair.renewal is not self._learnt:
            self._learnt = pair.renewal
            expected = self._estimator(pair.renewal.signals) * math.exp(self._estimator.surprise)
            self._correction.learn(expected, pair.renewal.surprise)
        cut = self._is_cut(pair.age, signals.residual)
        estimate = min(self._estimator(signals) * self._correction.factor + turned_away(pair.turn_rate), 1.0)
        worth = self._worth.add(estimate)
        if cut:
            self._forget()
            return Decision(True, "scene cut", estimate, hard=True)
        if pair.age < self.min_age:
            return Decision(False, "", estimate)
        if worth >= self.price:
            return Decision(True, self.reason, estimate)
        return Decision(pair.age >= self.max_age, "age" if pair.age >= self.max_age else "", estimate)

    def reset(self) -> None:
        self._forget()
        self._age, self._dropped, self._residual = 0, True, None

    def _is_cut(self, age: int, residual: float) -> bool:
        """Whether the residual jumped.

        A key made aside takes over at an age beyond 1: its residual has grown by then, to about the older key's. A cut exceeds both.
        """
        before, self._residual = 0.0 if age == 1 else self._residual, residual
        return before is not None and residual - before >= CUT_RISE

    def _forget(self) -> None:
        """Another scene."""
        self._correction.reset()
        self._worth.reset()


def turned_away(turn_rate: float | None) -> float:
    """Share of the picture that a turn of so many radians per second will replace within ``LOOK_AHEAD_S``; 0 without a hint."""
    return 0.0 if turn_rate is None else min(abs(turn_rate) * LOOK_AHEAD_S / FIELD_OF_VIEW, 1.0)
