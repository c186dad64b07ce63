"""From the JSONs of ``dff_replay`` to the tables of docs/accuracy.md; ``accuracy.py`` runs the commands."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dff_ros.evaluation.measures.metrics import Curve, mean_or_none

BEGIN, END = "<!-- figures: begin (benchmarks/accuracy.py writes what follows) -->", "<!-- figures: end -->"
DASH = "-"


@dataclass
class Figures:
    """What was measured with one bundle; ``measured`` names the recordings that gave something."""

    measured: frozenset[str] = frozenset()
    miou: Curve | None = None
    ap50: dict[str, Curve] = field(default_factory=dict)
    agreement: float | None = None
    delays: Counter[int] = field(default_factory=Counter)
    """How often new objects were detected so many frames after per-frame, all recordings together."""
    appearances: int = 0
    missed: float = 0.0
    """Of the counted delays, how many are of objects that were never detected."""
    key_ms: float | None = None
    propagated_ms: float | None = None
    cost_ratio: float | None = None
    speedup: dict[int, float] = field(default_factory=dict)
    """By key frame interval."""


@dataclass(frozen=True)
class RowFigures:
    """A line of the tables: the figures of each of its bundles, which are one recipe with several seeds."""

    name: str
    bundles: Sequence[str]
    options: str
    made_by: str
    per_frame: bool
    seeds: Sequence[Figures]
    about: str = ""


@dataclass(frozen=True)
class Absent:
    """A row that could not be measured because its bundle is missing: what it would be, and the command that makes the bundle."""

    name: str
    about: str
    made_by: str


def figures_of(results: Iterable[tuple[str, Sequence[str], Mapping[str, Any]]], *, per_frame: bool) -> Figures:
    """Read the figures that each recording gives: its name, what it gives, and its JSON. ``per_frame`` reads the baseline's."""
    results = list(results)
    figures = Figures(measured=frozenset(name for name, _, _ in results))
    steps: list[Mapping[str, Any]] = []
    for name, gives, content in results:
        side = content["baseline"] if per_frame else content
        if "miou" in gives:
            figures.miou = side["segmentation"]["miou_by_age"]
            figures.agreement = 1.0 if per_frame else content["agreement"]
        if "ap50" in gives:
            figures.ap50[name] = side["detection"]["map50_by_age"]
        if "delay" in gives and not per_frame:
            _add_delays(figures, content["detection_delay"])
        if "speed" in gives:
            steps.append(side["step_ms"])
            figures.speedup[int(content["schedule"].removeprefix("fixed:"))] = 1.0 if per_frame else content["speedup"]
    figures.key_ms = mean_or_none(step["key"]["mean"] for step in steps)
    figures.propagated_ms = mean_or_none(step["propagated"]["mean"] for step in steps)
    if figures.key_ms and figures.propagated_ms is not None:
        figures.cost_ratio = figures.propagated_ms / figures.key_ms
    return figures


def _add_delays(figures: Figures, delay: Mapping[str, Any]) -> None:
    if delay["appearances"]:
        counts = {int(frames): count for frames, count in delay["histogram"].items()}
        figures.delays.update(counts)
        figures.appearances += delay["appearances"]
        figures.missed += delay["missed"] * sum(counts.values())


def better(own: Curve | None, teachers: Curve | None) -> float | None:
    """What losses are taken against: per-frame of the bundle itself, or of the network before joint training where that is better.

    Per-frame's score is that at age 0, and a teacher's curve is the same at every age.
    """
    known = [curve[0] for curve in (own, teachers) if curve and curve[0] is not None]
    return max(known) if known else None


def losses(curve: Curve | None, reference: float | None, ages: int) -> list[float]:
    """Per-frame's score minus a curve's, at those of the first ``ages`` that were measured."""
    if curve is None or reference is None:
        return []
    return [reference - value for value in curve[:ages] if value is not None]


def spread(values: Iterable[float | None], digits: int, *, scale: float = 1.0, signed: bool = False) -> str:
    """The mean and, of several values, half of their range: ``0.611 ± 0.004``."""
    known = [value * scale for value in values if value is not None]
    if not known:
        return DASH
    average = round(statistics.fmean(known), digits) + 0.0  # no -0.000
    text = f"{average:{'+' if signed else ''}.{digits}f}"
    return text if len(known) == 1 else f"{text} ± {(max(known) - min(known)) / 2:.{digits}f}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


def curve_table(rows: Sequence[RowFigures], pick: Callable[[Figures], Curve | None], teacher: Curve | None) -> list[str]:
    """One curve for each row and what it loses; by age means over the seeds, the losses with their spread."""
    ages = max((len(curve) for row in rows for figures in row.seeds if (curve := pick(figures))), default=0)
    spans = sorted({min(5, ages), ages})
    lines = []
    for row in rows:
        curves = [curve for figures in row.seeds if (curve := pick(figures))]
        if not curves:
            continue
        by_age = [spread([mean_or_none(curve[age] for curve in curves if age < len(curve))], 3) for age in range(ages)]
        lost = [[losses(curve, better(curve, teacher), span) for curve in curves] for span in spans]
        worst = [max(values, default=None) for values in lost[-1]]
        means = [[mean_or_none(values) for values in seeds] for seeds in lost]
        lines.append([row.name, *by_age, *(spread(values, 3, signed=True) for values in (*means, worst))])
    return table(["age", *map(str, range(ages)), *(f"loss 0-{span - 1}" for span in spans), "worst"], lines) if lines else []


def cost_table(rows: Sequence[RowFigures]) -> list[str]:
    """Agreement, delay of new objects, and times."""
    intervals = sorted({interval for row in rows for figures in row.seeds for interval in figures.speedup})
    lines = []
    for row in rows:
        seeds = row.seeds
        delays = [np.fromiter(figures.delays.elements(), float) for figures in seeds]
        lines.append(
            [
                row.name,
                spread([figures.agreement for figures in seeds], 1, scale=100),
                spread([values.mean() if values.size else None for values in delays], 2, signed=True),
                spread([np.percentile(values, 90) if values.size else None for values in delays], 1, signed=True),
                spread([figures.missed / figures.delays.total() if figures.delays else None for figures in seeds], 1, scale=100),
                spread([figures.key_ms for figures in seeds], 1),
                spread([figures.propagated_ms for figures in seeds], 1),
                spread([figures.cost_ratio for figures in seeds], 2),
                *(spread([figures.speedup.get(interval) for figures in seeds], 1) for interval in intervals),
            ]
        )
    head = ["", "agreement %", "new objects: mean frames late", "p90", "missed %", "key ms", "propagated ms", "r"]
    return table([*head, *(f"speed-up, l={interval}" for interval in intervals)], lines)


def command_lines(rows: Sequence[RowFigures], recordings: Mapping[str, tuple[str, str]]) -> list[str]:
    """The recordings as shell variables, and each row's command."""
    variables = [f'{name.upper()}="{options}"' for name, (_, options) in recordings.items()]
    first = next(iter(recordings)).upper()
    commands = []
    for row in rows:
        words = ["dff_replay", f"${first}", "--model", row.bundles[0], row.options, "--json out.json"]
        seeds = f"; other seeds: {', '.join(row.bundles[1:])}" if row.bundles[1:] else ""
        made_by = f"; made by `{row.made_by}`" if row.made_by else ""
        read = " (its `baseline`)" if row.per_frame else ""
        about = f"{row.about}: " if row.about else ""
        commands.append([row.name, f"{about}`{' '.join(filter(None, words))}`{read}{seeds}{made_by}"])
    return [
        f"The command of each row, for the first recording; the others replace `${first}`. $DATA is the folder that data.md describes.",
        *("", "```", *variables, "```", ""),
        *table(["", "command"], commands),
    ]


def absent_lines(rows: Sequence[Absent]) -> list[str]:
    """A section on the rows that were not measured; none where all were."""
    if not rows:
        return []
    lines = [[row.name, row.about or DASH, f"`{row.made_by}`" if row.made_by else DASH] for row in rows]
    return ["", "### Not measured", "", *table(["", "what it would be", "made by"], lines)]


def report(
    rows: Sequence[RowFigures],
    teacher: Figures | None,
    teacher_name: str,
    recordings: Mapping[str, tuple[str, str]],
    plots: Sequence[str],
    absent: Sequence[Absent] = (),
) -> str:
    """All tables, the commands, the plots and what is ``absent`` from them, in markdown."""
    against = f"the better of `{teacher_name}`'s per-frame and the bundle's own" if teacher else "the bundle's own per-frame"
    parts = [f"Losses are taken against {against}: positive is worse."]
    segmentation = curve_table(rows, lambda figures: figures.miou, teacher.miou if teacher else None)
    if segmentation:
        parts += ["", "### mIoU by age of the key", "", *segmentation]
    for name in dict.fromkeys(name for row in rows for figures in row.seeds for name in figures.ap50):
        known = teacher.ap50.get(name) if teacher else None
        boxes = curve_table(rows, lambda figures, name=name: figures.ap50.get(name), known)  # type: ignore[misc]
        if boxes:
            parts += ["", f"### AP50 by age of the key: {recordings[name][0]}", "", *boxes]
    parts += ["", "### Agreement with per-frame, delay of new objects, time", "", *cost_table(rows)]
    parts += [line for plot in plots for line in ("", f"![{plot.removesuffix('.png').replace('_', ' ')}]({plot})")]
    return "\n".join([*parts, *absent_lines(absent), "", "### Commands", "", *command_lines(rows, recordings)])


def merge_into(file: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace what stands between the file's two marks; a file that is missing is made. Raises ValueError for one without marks."""
    old = file.read_text(encoding="utf-8") if file.is_file() else "\n".join([*marks, ""])
    before, begin, rest = old.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{file} should have the lines {marks[0]} and {marks[1]}")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
