"""The plots of docs/accuracy.md: mIoU over the key's age, and accuracy over milliseconds per frame. Needs matplotlib (extra "plots")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from accuracy_report import RowFigures
from matplotlib.axes import Axes

from dff_ros.evaluation.measures.metrics import Curve, mean_or_none

MARKED = (5, 10)
"""Key frame intervals that get a dot and their number."""


def draw(rows: Sequence[RowFigures], folder: Path) -> list[str]:
    """Draw what the rows have figures for; the names of the files written."""
    plots = {
        "accuracy_by_age.png": ("frames since the key frame", draw_by_age),
        "accuracy_by_time.png": ("milliseconds per frame, mean", draw_by_time),
    }
    written = []
    for name, (label, draw_rows) in plots.items():
        figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
        if draw_rows(axes, rows):
            axes.set(xlabel=label, ylabel="mIoU")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
            figure.savefig(folder / name, dpi=120, metadata={"Software": None})
            written.append(name)
        plt.close(figure)
    return written


def mean_curve(row: RowFigures) -> Curve:
    """mIoU by age, the mean over a row's seeds."""
    curves = [figures.miou for figures in row.seeds if figures.miou]
    return [mean_or_none(curve[age] for curve in curves) for age in range(min(map(len, curves), default=0))]


def draw_by_age(axes: Axes, rows: Sequence[RowFigures]) -> bool:
    """One line for each row, with a band over its seeds; whether there was anything to draw."""
    for row in rows:
        curves = [figures.miou for figures in row.seeds if figures.miou]
        if not curves:
            continue
        (line,) = axes.plot(mean_curve(row), "--" if row.per_frame else "o-", markersize=3, label=row.name)
        if len(curves) > 1:
            by_age = np.array(list(zip(*curves, strict=False)), float)  # None becomes NaN, where nothing is drawn
            axes.fill_between(range(len(by_age)), by_age.min(1), by_age.max(1), color=line.get_color(), alpha=0.15, linewidth=0)
    return axes.has_data()


def over_time(curve: Curve, key_ms: float, propagated_ms: float) -> list[tuple[float, float]]:
    """(milliseconds per frame, mIoU) at key frame intervals 1, 2, ...: both are means over the interval's ages."""
    points = []
    for interval in range(1, len(curve) + 1):
        score = mean_or_none(curve[:interval])
        if score is not None:
            points.append(((key_ms + (interval - 1) * propagated_ms) / interval, score))
    return points


def draw_by_time(axes: Axes, rows: Sequence[RowFigures]) -> bool:
    """One line for each row, from per-frame on the right to long intervals on the left; whether there was anything to draw."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter("{x:g}")
    for row in rows:
        curve, key_ms = mean_curve(row), mean_or_none(figures.key_ms for figures in row.seeds)
        propagated_ms = mean_or_none(figures.propagated_ms for figures in row.seeds)
        if not curve or key_ms is None:
            continue
        if row.per_frame or propagated_ms is None:
            axes.plot(key_ms, curve[0], "*", markersize=11, label=row.name)
            continue
        points = over_time(curve, key_ms, propagated_ms)
        (line,) = axes.plot(*zip(*points, strict=True), label=row.name)
        for interval in MARKED:
            if interval <= len(points):
                axes.plot(*points[interval - 1], "o", color=line.get_color(), markersize=4)
                axes.annotate(f"l={interval}", points[interval - 1], xytext=(3, 3), textcoords="offset points", fontsize=7)
    return axes.has_data()
