"""Who is compared on the tables of ``schedules_tables``: the adaptive schedule, with parts of it replaced, and the controls."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from schedules_tables import Measured

from dff_ros.core.signals import BY_MOTION, BY_RESIDUAL, Estimator
from dff_ros.engine.adaptive import AdaptiveSchedule, Correction, Worth
from dff_ros.engine.frame_pair import Schedule
from dff_ros.engine.schedule import RandomSchedule
from dff_ros.evaluation.measures.every_age import OLDEST
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, join_tables, losses_of, miou_of, play
from dff_ros.evaluation.schedule_study.gap import at_rate, fixed_keys
from dff_ros.evaluation.schedule_study.oracle import best_keys

CURVE = (0.02, 0.03, 0.05, 0.07, 0.10, 0.125, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
"""Key rates of the plots. A short recording, which begins with a key frame, does not reach the least."""

SEEDS = 10
"""Random schedules are means of so many, fixed ones of so many phases."""

Make = Callable[[float], Schedule]
"""A schedule by its price."""


@dataclass(frozen=True)
class Score:
    """Something that key frames are judged by on one recording, in per cent."""

    title: str
    table: AgreementTable
    of: Callable[[Sequence[int]], float | None]


@dataclass(frozen=True)
class Study:
    """One way of propagating: its recordings, and the estimator fitted for it."""

    name: str
    measured: Mapping[str, Measured]
    learned: Estimator
    explained: float

    @cached_property
    def parts(self) -> dict[str, AgreementTable]:
        """The recordings up to the age at which gaps are told."""
        return {name: each.agreement.up_to(OLDEST) for name, each in self.measured.items()}

    @cached_property
    def joined(self) -> AgreementTable:
        """All of them, one after the other."""
        return join_tables(list(self.parts.values()))

    def labelled(self) -> Iterator[Score]:
        """mIoU and AP where there is truth, at all ages measured."""
        for name, each in self.measured.items():
            table, boxes = each.agreement, each.boxes
            if table.confusions is not None:
                yield Score(f"{name}: mIoU", table, lambda keys, table=table: miou_of(table, keys))
            if boxes is not None:
                yield Score(f"{name}: AP at IoU .5", table, lambda keys, table=table, boxes=boxes: boxes.map50(keys, len(table)))

    def scores(self) -> Iterator[Score]:
        """Agreement over all recordings and on each, then the labelled ones."""
        whole = join_tables([each.agreement for each in self.measured.values()])
        for name, table in {"all recordings": whole, **{name: each.agreement for name, each in self.measured.items()}}.items():
            yield Score(f"{name}: agreement", table, lambda keys, table=table: 1.0 - float(losses_of(table, keys).mean()))
        yield from self.labelled()


class Unmoved(Correction):
    """A correction that learns nothing: what the estimator says is taken as it is."""

    def learn(self, estimate: float, seen: float) -> None:
        """Nothing."""


class Plain(Worth):
    """The losses since the key frame summed up, all of them."""

    def add(self, estimate: float) -> float:
        self._sum += estimate
        return self._sum


class Momentary(Worth):
    """The present frame's loss alone: the threshold of most published policies."""

    def add(self, estimate: float) -> float:
        return estimate


def perfect_keys(agreement: AgreementTable, price: float) -> list[int]:
    """Keys by the adaptive rule with the true loss of each frame in place of an estimate."""
    worth, keys, beginnings = Worth(), [0], set(agreement.firsts.tolist())
    for frame in range(1, len(agreement)):
        age = frame - keys[-1]
        if frame in beginnings:
            worth.reset()
        elif age < agreement.losses.shape[1] and worth.add(float(agreement.losses[frame, age])) < price:
            continue
        else:
            worth.renew()
        keys.append(frame)
    return keys


def adaptive(estimator: Estimator, price: float, *, correction: type[Correction] = Correction, worth: type[Worth] = Worth) -> Schedule:
    """The adaptive schedule without a set-point, perhaps with a part replaced; the table's end limits the age."""
    schedule = AdaptiveSchedule(estimator, reason="", price=price, min_age=1, max_age=1000)
    schedule._correction, schedule._worth = correction(), worth()
    return schedule


def contenders(learned: Estimator) -> dict[str, Make]:
    """The schedules of the tables, by price; the default first."""
    return {
        "adaptive (learned)": lambda price: adaptive(learned, price),
        "adaptive, signal=residual": lambda price: adaptive(BY_RESIDUAL, price),
        "adaptive, signal=motion": lambda price: adaptive(BY_MOTION, price),
        "learned, not corrected by keys": lambda price: adaptive(learned, price, correction=Unmoved),
        "learned, plain sum": lambda price: adaptive(learned, price, worth=Plain),
        "learned, momentary threshold": lambda price: adaptive(learned, price, worth=Momentary),
        "residual, momentary, not corrected": lambda price: adaptive(BY_RESIDUAL, price, correction=Unmoved, worth=Momentary),
    }


def random_loss(agreement: AgreementTable, rate: float) -> float:
    """What random keys lose, the mean over seeds."""
    plays = (play(agreement, RandomSchedule(rate, seed=seed)) for seed in range(SEEDS))
    return float(np.mean([losses_of(agreement, keys).mean() for keys in plays]))


def mean_score(score: Score, keys: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """Key rate and score, in per cent, of several placements, means."""
    found = [value for each in keys if (value := score.of(each)) is not None]
    return (float(np.mean([len(each) for each in keys])) / len(score.table), 100 * float(np.mean(found))) if found else None


def placements(score: Score, learned: Estimator, rate: float, *, times: int = SEEDS) -> dict[str, list[list[int]]]:
    """The keys of every schedule of the plots at one rate, of fixed and random several."""
    table, ways = score.table, contenders(learned)
    found = {
        "fixed": [fixed_keys(table, rate, (phase + 0.5) / times) for phase in range(times)],
        "random": [play(table, RandomSchedule(rate, seed=seed)) for seed in range(times)],
    }
    for name in itertools.islice(ways, 3):
        found[name] = [list(at_rate(table, ways[name], rate).keys)]
    with contextlib.suppress(ValueError):  # so few keys cannot answer every frame
        found["oracle"] = [best_keys(table.losses, max(round(rate * len(table)), 1))]
    return found


def curves(study: Study, rates: Sequence[float] = CURVE) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each score (key rate, score in per cent) of each schedule; rates that a schedule does not reach are left out."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for score in study.scores():
        panel = panels.setdefault(score.title, {})
        for rate in rates:
            for name, keys in placements(score, study.learned, rate, times=3 if "AP" in score.title else SEEDS).items():
                point = mean_score(score, keys)
                if point is not None and abs(point[0] / rate - 1) <= 0.1:
                    panel.setdefault(name, []).append(point)
    return panels
