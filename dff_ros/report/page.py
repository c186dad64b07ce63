"""Puts the page together: one HTML file with everything in it, plotly's script too, so that it opens without a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dff_ros.report.blocks import GROUPS, blocks_of
from dff_ros.report.frame_table import FrameTable
from dff_ros.report.measures import Report, at, class_tables, live_rows, motion_tables, pace
from dff_ros.report.pictures import WorstFrame
from dff_ros.report.words import delay_sentences, summarise


@dataclass(frozen=True)
class Setting:
    """One of the engine's settings."""

    name: str
    value: object
    changed: bool
    """Whether it is another than the default."""
    description: str


@dataclass(frozen=True)
class About:
    """What the figures do not tell of a replay."""

    recording: str
    notes: Sequence[str]
    """What of the recording could not be read, a line each."""
    model: str
    command: str
    settings: Sequence[Setting]
    label_colours: Mapping[str, tuple[int, int, int]]
    """Of the segmentation classes, by name."""
    version: str
    rate: float | None = None
    """Frames per second of the recording, for where stamps do not tell."""


def write_page(path: Path, report: Report, frames: FrameTable, worst: Sequence[WorstFrame], about: About, *, rule: str) -> None:
    """Write the report to ``path``; ``rule`` says how the worst frames were chosen. Raises OSError where it cannot be written."""
    path.write_text(render(report, frames, worst, about, rule=rule), encoding="utf-8")


def render(report: Report, frames: FrameTable, worst: Sequence[WorstFrame], about: About, *, rule: str) -> str:
    """The page as HTML."""
    name, times = pace(report)
    period_ms = frames.period_ms or (1e3 / about.rate if about.rate else None)
    found = blocks_of(report, frames)
    return render_template(
        "report.html",
        about=about,
        report=report,
        summary=summarise(report, description=about.recording, notes=about.notes, model=about.model, period_ms=period_ms),
        blocks={group: [block for block in found if block.group == group] for group in GROUPS},
        times={"name": name, "rows": time_rows(report, times)},
        class_tables=class_tables(report),
        motion_tables=motion_tables(report),
        live=live_rows(report),
        delays=delay_sentences(report),
        worst=worst,
        rule=rule,
        provenance=dict(flattened(origin(report, about.settings))),
    )


def render_template(name: str, **values: Any) -> str:
    """A page of the folder ``templates``: ``base.html`` brings style and scripts, ``macros.html`` plots and tables."""
    loader = PackageLoader("dff_ros.report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters.update(share=share, points=signed_points, shown=shown)
    script = Markup(get_plotlyjs().replace("</script", "<\\/script"))
    return pages.get_template(name).render(figure_json=figure_json, plotly=script, **values)


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that may stand within a script element: nothing in it can end the element, and it is no JavaScript."""
    text: str = figure.to_json()
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def time_rows(report: Report, times: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Kind of frame, and mean, p50, p95, p99 and max; kinds that did not occur are left out."""
    rows = [(kind, at(times, kind)) for kind in ("all", "key", "propagated")]
    own = "latency_ms" if pace(report)[0] == "latency" else "step_ms"
    rows.append(("per-frame", at(report, "baseline", own, "all")))
    names = ("mean", "p50", "p95", "p99", "max")
    return [(kind, [described.get(name) for name in names]) for kind, described in rows if described and described.get("mean") is not None]


def origin(report: Report, settings: Sequence[Setting]) -> dict[str, Any]:
    """Where the figures come from: what of the input was read, hashes, versions, the machine; settings have a table of their own."""
    named = {setting.name for setting in settings}
    made = {**(at(report, "provenance") or {})}
    if isinstance(made.get("used"), Mapping):
        made["used"] = {name: value for name, value in made["used"].items() if name not in named}
    return {"input": at(report, "input"), **made}


def flattened(section: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested figures as ``path, value``; null is left out, and lists stay on one line."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            yield from flattened(value, f"{prefix} {key}".strip().replace("_", " "))
    elif isinstance(section, (list, tuple)):
        if section:
            yield prefix, ", ".join(shown(value) for value in section)
    elif section is not None:
        yield prefix, shown(section)


def share(value: float | None) -> str:
    """A fraction with three digits."""
    return "–" if value is None else f"{value:.3f}"


def signed_points(value: float | None) -> str:
    """A difference of fractions in points, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f}"


def shown(value: object) -> str:
    """A figure or a word as a person would write it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {True: "yes", False: "no", None: "–"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:.4g}"

