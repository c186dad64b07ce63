"""The tables of docs/schedules.md, from tables of agreement; ``schedules.py`` measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy_report import table

from dff_ros.core.signals import BY_MOTION, BY_RESIDUAL, Estimator
from dff_ros.engine.adaptive import AdaptiveSchedule, Correction, Worth
from dff_ros.engine.budget import Budget, Measure, SetPoint
from dff_ros.engine.frame_pair import Decision, FramePair, Schedule
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import RandomSchedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.evaluation.agreement import AgreementTable, join_tables, losses_of, miou_of, play
from dff_ros.evaluation.every_age import OLDEST
from dff_ros.evaluation.gap import Gap, at_rate, fixed_at, fixed_keys, gap_at, mean_interval, oracle_at, worst_part
from dff_ros.evaluation.oracle import best_keys

RATES = (0.10, 0.15, 0.20, 0.30)
"""Key rates of the tables."""

CURVE = (0.07, 0.08, 0.10, 0.125, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
"""Key rates of the plots. A table's largest age sets the least."""

SEEDS = 10
"""Random schedules are means of so many."""

WINDOW = 20
"""Key frames over which a rate that was to be held is counted."""


@dataclass(frozen=True)
class Study:
    """One way of propagating: its tables, and the estimator fitted for it."""

    name: str
    parts: Mapping[str, AgreementTable]
    joined: AgreementTable
    learned: Estimator
    explained: float


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
    """The adaptive schedule without a set-point, perhaps with a part replaced."""
    schedule = AdaptiveSchedule(estimator, reason="", price=price, min_age=1, max_age=OLDEST + 1)
    schedule._correction, schedule._worth = correction(), worth()
    return schedule


def contenders(learned: Estimator) -> dict[str, Callable[[float], Schedule]]:
    """The schedules of the tables, by price."""
    return {
        "adaptive (learned)": lambda price: adaptive(learned, price),
        "adaptive, signal=residual": lambda price: adaptive(BY_RESIDUAL, price),
        "adaptive, signal=motion": lambda price: adaptive(BY_MOTION, price),
        "learned, not corrected by keys": lambda price: adaptive(learned, price, correction=Unmoved),
        "learned, plain sum": lambda price: adaptive(learned, price, worth=Plain),
        "learned, momentary threshold": lambda price: adaptive(learned, price, worth=Momentary),
        "residual, momentary, not corrected": lambda price: adaptive(BY_RESIDUAL, price, correction=Unmoved, worth=Momentary),
    }


def percent(value: float, digits: int = 0) -> str:
    """A share in per cent."""
    return f"{100 * value:.{digits}f}"


def gap_table(study: Study, gaps: Mapping[str, Sequence[Gap]]) -> list[str]:
    """Share of the gap closed by each schedule."""
    lines = []
    for name, found in gaps.items():
        low, high = mean_interval(found, study.joined.firsts.tolist())
        mean = float(np.mean([gap.closed for gap in found]))
        lines.append([name, *(percent(gap.closed) for gap in found), percent(mean), f"{percent(low)} .. {percent(high)}"])
    lines.append(["true loss of each frame, no foresight", *perfect_shares(study)])
    first = next(iter(gaps.values()))
    lines.append(["*the gap, points*", *(f"{gap.points:.2f}" for gap in first), "", ""])
    return table(["share of the gap closed, %, at a key rate of", *(f"{rate:.0%}" for rate in RATES), "mean", "95 % of resamplings"], lines)


def perfect_shares(study: Study) -> list[str]:
    """The row of the adaptive rule on true losses."""
    closed = []
    for rate in RATES:
        low, high = 1e-4, 1e2
        for _ in range(40):
            price = float(np.sqrt(low * high))
            keys = perfect_keys(study.joined, price)
            reached = len(keys) / len(study.joined)
            if abs(reached - rate) <= 0.01 * rate:
                break
            low, high = (price, high) if reached > rate else (low, price)
        fixed, best = fixed_at(study.joined, reached)[1].mean(), oracle_at(study.joined, len(keys)).mean()
        closed.append(float((fixed - losses_of(study.joined, keys).mean()) / (fixed - best)))
    return [*map(percent, closed), percent(float(np.mean(closed))), ""]


def agreement_table(study: Study, gaps: Mapping[str, Sequence[Gap]]) -> list[str]:
    """Agreement with per-frame over all frames."""
    first = next(iter(gaps.values()))
    lines = [["fixed", *(percent(1 - gap.fixed.mean(), 2) for gap in first)], ["random", *random_row(study.joined)]]
    lines += [[name, *(percent(1 - gap.tried.loss, 2) for gap in found)] for name, found in list(gaps.items())[:3]]
    lines.append(["oracle", *(percent(1 - gap.oracle.mean(), 2) for gap in first)])
    return table(["agreement with per-frame, %, at a key rate of", *(f"{rate:.0%}" for rate in RATES)], lines)


def random_row(agreement: AgreementTable) -> list[str]:
    """Random at each rate, the mean over seeds."""
    return [percent(1 - float(np.mean([_random(agreement, rate, seed) for seed in range(SEEDS)])), 2) for rate in RATES]


def _random(agreement: AgreementTable, rate: float, seed: int) -> float:
    return float(losses_of(agreement, play(agreement, RandomSchedule(rate, seed=seed))).mean())


def sequence_table(study: Study, gaps: Sequence[Gap]) -> list[str]:
    """Where the keys went, and what every recording gains over fixed at the rate spent on it."""
    joined, lines = study.joined, []
    borders = [*joined.firsts.tolist(), len(joined)]
    for number, name in enumerate(study.parts):
        first, after = borders[number : number + 2]
        cells = []
        for gap in gaps:
            spent = sum(first <= key < after for key in gap.tried.keys) / (after - first)
            fixed = fixed_at(joined.part(number), spent)[1].mean()
            gained = 100 * (fixed - gap.tried.losses[first:after].mean())
            cells.append(f"{spent:.0%}, {gained:+.2f}")
        lines.append([name, *cells])
    head = ["keys spent, and points above fixed at that rate, at an overall key rate of", *(f"{rate:.0%}" for rate in RATES)]
    return table(head, lines)


def single_table(study: Study, make: Callable[[float], Schedule]) -> list[str]:
    """Each recording by itself: points above fixed, beside the oracle's."""
    lines = []
    for name, part in study.parts.items():
        found = [gap_at(part, make, rate) for rate in RATES]
        points = [(100 * (gap.fixed.mean() - gap.tried.loss), gap.points) for gap in found]
        lines.append([name, *(f"{gained:+.2f} of {possible:.2f}" for gained, possible in points)])
    return table(["points above fixed, of the oracle's, each recording by itself, at", *(f"{rate:.0%}" for rate in RATES)], lines)


def miou_table(study: Study, make: Callable[[float], Schedule]) -> list[str]:
    """mIoU where every frame is labelled."""
    lines = []
    for name, part in study.parts.items():
        if part.confusions is None:
            continue
        tried = [at_rate(part, make, rate) for rate in RATES]
        per_frame = miou_of(part, range(len(part)))
        rows: dict[str, list[float | None]] = {
            "fixed": [float(np.mean([miou_of(part, fixed_keys(part, one.rate, phase / 10)) or 0 for phase in range(10)])) for one in tried],
            "adaptive (learned)": [miou_of(part, one.keys) for one in tried],
            "oracle (of agreement)": [miou_of(part, best_keys(part.losses, len(one.keys))) for one in tried],
            "per-frame": [per_frame] * len(RATES),
        }
        lines += [[f"{name}: {title}", *(f"{value:.3f}" for value in values if value is not None)] for title, values in rows.items()]
    return table(["mIoU at a key rate of", *(f"{rate:.0%}" for rate in RATES)], lines) if lines else []


def spread_of(keys: Sequence[int]) -> float:
    """Coefficient of variation of the intervals between keys: 0 for fixed, about 1 for random."""
    intervals = np.diff(np.array(keys))
    return float(intervals.std() / intervals.mean())


def held_table(study: Study) -> list[str]:
    """The set-point ``rate`` on all recordings together, played twice: the second time is counted."""
    lines = []
    for rate in RATES:
        budget = Budget(SetPoint(Measure.KEY_RATE, rate), price=EngineSettings().adaptive_price)
        schedule = AdaptiveSchedule(study.learned, reason="", price=1.0, min_age=1, max_age=OLDEST + 1, budget=budget)
        twice = join_tables([study.joined, study.joined])
        keys = np.array(play(twice, schedule))
        second = keys[keys >= len(study.joined)] - len(study.joined)
        windows = [WINDOW / (second[index + WINDOW] - second[index]) for index in range(len(second) - WINDOW)]
        off = [window / rate - 1 for window in windows]
        gap = fixed_at(study.joined, len(second) / len(study.joined))[1].mean()
        best = oracle_at(study.joined, len(second)).mean()
        closed = (gap - losses_of(study.joined, second.tolist()).mean()) / (gap - best)
        line = [f"{rate:.0%}", percent(len(second) / len(study.joined), 1), f"{min(off):+.0%} .. {max(off):+.0%}", percent(float(closed))]
        lines.append(line)
    return table(["set-point", "key rate, %", f"over any {WINDOW} keys", "share of the gap closed, %"], lines)


def deciding_ms(model: LoadedModel, settings: EngineSettings, learned: Estimator) -> tuple[float, float, float]:
    """Milliseconds of a propagated step, of deciding in it beside the flow, and of looking back at a key frame; medians."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 360, 480, 3), np.uint8)
    fixed = FeatureFlowStream(model, settings.with_values({"schedule": "fixed:30", "max_key_age": 0.0}))
    steps = [fixed.step(frames[index % 2], 0) for index in range(60)]
    stream = FeatureFlowStream(model, settings.with_values({"schedule": "adaptive", "max_key_age": 0.0, "adaptive_price": 100.0}))
    schedule = AdaptiveSchedule(learned, reason="", price=1e6, min_age=1, max_age=1000)
    decide, look_back = [], []
    original = stream._schedule

    class Timed:
        def is_key_frame(self, pair: FramePair) -> Decision:
            _ = pair.fields
            started = time.perf_counter()
            decision = schedule.is_key_frame(pair)
            decide.append(1e3 * (time.perf_counter() - started))
            return Decision(len(decide) % 10 == 0, "timed", decision.disagreement)

        def reset(self) -> None:
            original.reset()

    renewed = stream._renewed

    def timed_renewal(*arguments: object) -> object:
        started = time.perf_counter()
        answer = renewed(*arguments)  # type: ignore[arg-type]
        look_back.append(1e3 * (time.perf_counter() - started))
        return answer

    stream._schedule, stream._renewed = Timed(), timed_renewal  # type: ignore[assignment, method-assign]
    for index in range(80):
        stream.step(frames[index % 2], 0)
    propagated = [step.step_ms for step in steps[5:] if not step.is_key]
    return float(np.median(propagated)), float(np.median(decide[5:])), float(np.median(look_back[1:]))


def report(study: Study, bundle: Path, plot: str) -> list[str]:
    """All tables of one way of propagating, in markdown."""
    ways = contenders(study.learned)
    gaps = {name: [gap_at(study.joined, make, rate) for rate in RATES] for name, make in ways.items()}
    ours = gaps["adaptive (learned)"]
    worst = [worst_part(study.joined, gap.tried.keys) for gap in ours]
    names = list(study.parts)
    told = ", ".join(f"{names[number]} {points:+.2f}" for number, points in worst)
    settings = EngineSettings(model=str(bundle))
    model = load_model(settings, without=frozenset({"refine"}) if study.name == "warp" else frozenset())
    step, decide, look_back = deciding_ms(model, settings, study.learned)
    spreads = ", ".join(f"{spread_of(gap.tried.keys):.2f}" for gap in ours)
    title = "pure warp" if study.name == "warp" else "with the branch on the current frame"
    weights = ", ".join(f"{name} {weight:+.2f}" for name, weight in study.learned.weights.items())
    return [
        f"### `{bundle.name}`, {title}",
        "",
        *gap_table(study, gaps),
        "",
        *agreement_table(study, gaps),
        "",
        *sequence_table(study, ours),
        "",
        f"Worst recording at each rate, points against fixed at the rate spent on it: {told}.",
        "",
        *single_table(study, ways["adaptive (learned)"]),
        "",
        *miou_table(study, ways["adaptive (learned)"]),
        "",
        f"Intervals between keys vary by {spreads} of their mean (fixed 0, random about 1).",
        "",
        *held_table(study),
        "",
        f"Estimator: {weights}, bias {study.learned.bias:+.2f}; it tells {study.explained:.0%} of what varies within a recording held out.",
        "",
        f"Deciding takes {decide:.2f} ms beside the flow, {decide / step:.1%} of a propagated frame ({step:.1f} ms).",
        f"Looking back at a key frame takes {look_back:.2f} ms.",
        *([] if not plot else ["", f"![agreement over key rate, {title}]({plot})"]),
    ]


def curves(study: Study) -> dict[str, list[tuple[float, float]]]:
    """(key rate, agreement in per cent) of each schedule on all recordings together."""
    joined, ways = study.joined, contenders(study.learned)
    reachable = [rate for rate in CURVE if rate * joined.losses.shape[1] > 1.05]
    found: dict[str, list[tuple[float, float]]] = {}
    for name in ("adaptive (learned)", "adaptive, signal=residual", "adaptive, signal=motion"):
        tried = [at_rate(joined, ways[name], rate) for rate in reachable]
        found[name] = [(one.rate, 100 * (1 - one.loss)) for one in tried]
    fixed = [fixed_at(joined, rate) for rate in reachable]
    found["fixed"] = [(rate, 100 * (1 - float(losses.mean()))) for rate, losses in fixed]
    found["random"] = [
        (rate, 100 * (1 - float(np.mean([_random(joined, rate, seed) for seed in range(SEEDS)])))) for rate in reachable if rate >= 0.1
    ]
    counts = [round(rate * len(joined)) for rate in reachable]
    found["oracle"] = [(count / len(joined), 100 * (1 - float(oracle_at(joined, count).mean()))) for count in counts]
    return found
