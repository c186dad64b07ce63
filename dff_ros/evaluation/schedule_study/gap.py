"""Schedules at equal key rate: against fixed, which knows nothing, and the oracle, which knows the future."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dff_ros.engine.frame_pair import Schedule
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, losses_of, play
from dff_ros.evaluation.schedule_study.oracle import best_keys

PHASES = 10
"""Fixed schedules are taken at so many phases, evenly spread: which frame they begin with is chance."""

RATE_TOLERANCE = 0.02
BLOCK = 20
"""Frames that a resampling for the bootstrap keeps together."""

Frames = NDArray[np.float64]
"""(frames,) the loss of each."""


@dataclass(frozen=True)
class Tried:
    """One schedule at one key rate."""

    keys: tuple[int, ...]
    rate: float
    losses: Frames

    @property
    def loss(self) -> float:
        """The mean over all frames."""
        return float(self.losses.mean())


def at_rate(table: AgreementTable, make: Callable[[float], Schedule], rate: float, *, low: float = 1e-4, high: float = 1e2) -> Tried:
    """Run ``make(price)`` at the price whose key rate is nearest to ``rate``, which falls with the price; bisected until within 1 %."""
    best: Tried | None = None
    for _ in range(40):
        price = math.sqrt(low * high)
        keys = play(table, make(price))
        reached = len(keys) / len(table)
        if best is None or abs(reached - rate) < abs(best.rate - rate):
            best = Tried(tuple(keys), reached, losses_of(table, keys))
        if abs(reached - rate) <= 0.5 * RATE_TOLERANCE * rate:
            break
        low, high = (price, high) if reached > rate else (low, price)
    assert best is not None
    return best


def fixed_keys(table: AgreementTable, rate: float, phase: float) -> list[int]:
    """Fixed at a rate: a key frame when floor(i * rate + phase) increases, each recording counted from its own beginning."""
    borders = [*table.firsts.tolist(), len(table)]
    keys: list[int] = []
    for first, after in itertools.pairwise(borders):
        keys.append(first)
        for index in range(1, after - first):
            due = math.floor(index * rate + phase) > math.floor((index - 1) * rate + phase)
            if due or first + index - keys[-1] >= table.losses.shape[1]:
                keys.append(first + index)
    return keys


def fixed_at(table: AgreementTable, rate: float) -> tuple[float, Frames]:
    """Key rate and losses of fixed, means over the phases, at the rate whose overall share of keys is ``rate``."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        phases = [fixed_keys(table, middle, (phase + 0.5) / PHASES) for phase in range(PHASES)]
        reached = float(np.mean([len(keys) for keys in phases])) / len(table)
        if abs(reached - rate) <= 0.002 * rate:
            break
        low, high = (low, middle) if reached > rate else (middle, high)
    return reached, np.mean([losses_of(table, keys) for keys in phases], axis=0)


def oracle_at(table: AgreementTable, count: int) -> Frames:
    """The losses with ``count`` key frames placed best."""
    return losses_of(table, best_keys(table.losses, count))


@dataclass(frozen=True)
class Gap:
    """What share of the way from fixed to the oracle a schedule goes, at the key rate that it spent."""

    tried: Tried
    fixed: Frames
    oracle: Frames

    @property
    def points(self) -> float:
        """From fixed to the oracle, in points of agreement."""
        return 100.0 * float((self.fixed - self.oracle).mean())

    @property
    def closed(self) -> float:
        """(schedule - fixed) / (oracle - fixed); NaN where there is no gap."""
        gap = float((self.fixed - self.oracle).mean())
        return float((self.fixed - self.tried.losses).mean()) / gap if gap > 0 else math.nan


def mean_interval(gaps: Sequence[Gap], firsts: Sequence[int], *, resamplings: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The mean share closed by several gaps of one table in 95 % of resamplings of blocks of frames.

    Each recording, beginning at one of ``firsts``, is resampled by itself: what is played stays what it was.
    """
    borders = [*firsts, len(gaps[0].fixed)]
    random = np.random.default_rng(seed)
    blocks: list[NDArray[np.intp]] = []
    drawings = []
    for first, after in itertools.pairwise(borders):
        own = [np.arange(begin, min(begin + BLOCK, after)) for begin in range(first, after, BLOCK)]
        drawings.append(len(blocks) + random.integers(0, len(own), (resamplings, len(own))))
        blocks += own
    drawn = np.concatenate(drawings, axis=1)
    gained = np.array([[float((gap.fixed - gap.tried.losses)[block].sum()) for block in blocks] for gap in gaps])
    possible = np.array([[float((gap.fixed - gap.oracle)[block].sum()) for block in blocks] for gap in gaps])
    shares = (gained[:, drawn].sum(axis=2) / possible[:, drawn].sum(axis=2)).mean(axis=0)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def gap_at(table: AgreementTable, make: Callable[[float], Schedule], rate: float) -> Gap:
    """The gap that ``make`` closes at an overall key rate."""
    tried = at_rate(table, make, rate)
    return Gap(tried, fixed_at(table, tried.rate)[1], oracle_at(table, len(tried.keys)))


def worst_part(table: AgreementTable, keys: Sequence[int]) -> tuple[int, float]:
    """The recording on which ``keys`` do worst against fixed at the rate spent on it, and by how many points (below 0: worse)."""
    gains = []
    borders = [*table.firsts.tolist(), len(table)]
    losses = losses_of(table, keys)
    for number, (first, after) in enumerate(itertools.pairwise(borders)):
        spent = sum(first <= key < after for key in keys)
        fixed = fixed_at(table.part(number), spent / (after - first))[1]
        gains.append(100.0 * float(fixed.mean() - losses[first:after].mean()))
    worst = int(np.argmin(gains))
    return worst, gains[worst]
