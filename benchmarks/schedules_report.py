"""The tables of docs/schedules.md, from tables of agreement; ``schedules.py`` measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from accuracy_report import table
from schedules_budget import budget_table, held_table
from schedules_contenders import Make, Study, contenders, mean_score, perfect_keys, placements, random_loss

from dff_ros.evaluation.schedule_study.agreement import losses_of
from dff_ros.evaluation.schedule_study.gap import Gap, fixed_at, gap_at, mean_interval, oracle_at, worst_part

RATES = (0.10, 0.15, 0.20, 0.30)
"""Key rates of the tables."""

SCORED = (0.05, 0.10, 0.15, 0.20, 0.30)
"""Key rates of the table of mIoU and AP."""

TITLES = {"warp": "pure warp", "branch": "with the branch on the current frame"}


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
    lines = [
        ["fixed", *(percent(1 - gap.fixed.mean(), 2) for gap in first)],
        ["random", *(percent(1 - random_loss(study.joined, rate), 2) for rate in RATES)],
    ]
    lines += [[name, *(percent(1 - gap.tried.loss, 2) for gap in found)] for name, found in list(gaps.items())[:3]]
    lines.append(["oracle", *(percent(1 - gap.oracle.mean(), 2) for gap in first)])
    return table(["agreement with per-frame, %, at a key rate of", *(f"{rate:.0%}" for rate in RATES)], lines)


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


def single_table(study: Study, make: Make) -> list[str]:
    """Each recording by itself: points above fixed, beside the oracle's."""
    lines = []
    for name, part in study.parts.items():
        found = [gap_at(part, make, rate) for rate in RATES]
        points = [(100 * (gap.fixed.mean() - gap.tried.loss), gap.points) for gap in found]
        lines.append([name, *(f"{gained:+.2f} of {possible:.2f}" for gained, possible in points)])
    return table(["points above fixed, of the oracle's, each recording by itself, at", *(f"{rate:.0%}" for rate in RATES)], lines)


def score_table(study: Study) -> list[str]:
    """mIoU and AP where there is truth; empty without any."""
    lines = []
    for score in study.labelled():
        points = [{name: mean_score(score, keys) for name, keys in placements(score, study.learned, rate).items()} for rate in SCORED]
        for name in points[-1]:
            found = [point.get(name) for point in points]
            lines.append([f"{score.title}: {name}", *("" if point is None else f"{point[1]:.1f}" for point in found)])
        whole = score.of(range(len(score.table)))
        lines.append([f"{score.title}: per-frame", *(["" if whole is None else f"{100 * whole:.1f}"] * len(SCORED))])
    return table(["score, %, at a key rate of", *(f"{rate:.0%}" for rate in SCORED)], lines) if lines else []


def spread_of(keys: Sequence[int]) -> float:
    """Coefficient of variation of the intervals between keys: 0 for fixed, about 1 for random."""
    intervals = np.diff(np.array(keys))
    return float(intervals.std() / intervals.mean())


def report(study: Study, bundle: Path, plot: str) -> list[str]:
    """All tables of one way of propagating, in markdown."""
    ways = contenders(study.learned)
    gaps = {name: [gap_at(study.joined, make, rate) for rate in RATES] for name, make in ways.items()}
    ours = gaps["adaptive (learned)"]
    worst = [worst_part(study.joined, gap.tried.keys) for gap in ours]
    names = list(study.parts)
    told = ", ".join(f"{names[number]} {points:+.2f}" for number, points in worst)
    spreads = ", ".join(f"{spread_of(gap.tried.keys):.2f}" for gap in ours)
    title = TITLES[study.name]
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
        *score_table(study),
        "",
        f"Intervals between keys vary by {spreads} of their mean (fixed 0, random about 1).",
        "",
        *held_table(study, RATES),
        "",
        *budget_table(study, "highway", "pets"),
        "",
        f"Estimator: {weights}, bias {study.learned.bias:+.2f}; it tells {study.explained:.0%} of what varies within a recording held out.",
        *([] if not plot else ["", f"![agreement over key rate, {title}]({plot})"]),
    ]
