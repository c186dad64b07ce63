"""The timeline of a replay: key frames with their reasons, motion, step times and agreement above one another, over time."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from dff_ros.report.figures import BAD, KEY, PROPAGATED, laid_out, rounded
from dff_ros.report.frame_table import FrameTable

MOST_POINTS = 4000
"""Points of one line, and about as many markers in all: what a browser still draws and pans smoothly."""

FEW_FRAMES = 300
"""Up to here every frame gets a dot."""


@dataclass(frozen=True)
class Row:
    """One strip of the timeline."""

    title: str
    values: NDArray[np.float64]
    """(frames,), NaN where not measured."""
    share: bool = False
    """Whether the values are fractions, to be shown as percentages."""


def timeline(frames: FrameTable) -> go.Figure:
    """All strips that were measured share the axis of time, so that a drop in one is found in the others."""
    rows = [row for row in rows_of(frames) if np.isfinite(row.values).any()]
    times = frames.seconds if frames.timed else frames["index"]
    reasons = sorted({reason for reason, made in zip(frames.reasons, frames.made_key, strict=True) if made})
    strip = 0.05 + 0.035 * len(reasons)
    heights = [strip, *([(1 - strip) / max(1, len(rows))] * len(rows))]
    figure = make_subplots(rows=1 + len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.035, row_heights=heights)
    for reason in reversed(reasons):
        chosen = np.array([said == reason for said in frames.reasons]) & frames.made_key
        shown = _some(np.flatnonzero(chosen), MOST_POINTS // len(reasons))
        _add_marks(figure, frames, times, shown, f"key: {reason}" if reason else "key frame")
    dropped = frames.of_kind("dropped")
    if dropped.any():
        _add_marks(figure, frames, times, _some(np.flatnonzero(dropped), MOST_POINTS), "dropped", colour=BAD)
    for number, row in enumerate(rows, start=2):
        _add_line(figure, frames, times, row, number)
    figure.update_xaxes(title_text="seconds" if frames.timed else "frame", row=1 + len(rows), col=1)
    figure.update_yaxes(row=1, col=1, showgrid=False)
    laid_out(figure, height=150 + 22 * len(reasons) + 130 * len(rows))
    figure.update_layout(showlegend=False, margin={"l": 110, "r": 24, "t": 16, "b": 48})
    return figure


def rows_of(frames: FrameTable) -> list[Row]:
    """What there may be to show, the most telling first."""
    return [
        Row("motion, px", frames["motion_px"]),
        Row("agreement", frames["agreement"], share=True),
        Row("expected loss", frames["disagreement"], share=True),
        Row("latency, ms", frames["latency_ms"]),
        Row("step, ms", frames["step_ms"]),
    ]


def is_thinned(frames: FrameTable) -> bool:
    """Whether the timeline leaves frames out."""
    return len(frames) > MOST_POINTS


def envelope(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` values that keep a line's shape: the lowest and the highest of each stretch.

    Stretches without a number keep one index, so that the gap stays.
    """
    if len(values) <= most:
        return np.arange(len(values))
    chosen: list[int] = []
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    for first, after in itertools.pairwise(edges.tolist()):
        stretch = values[first:after]
        if np.isnan(stretch).all():
            chosen.append(int(first))
        else:
            chosen += [int(first + at) for at in sorted({int(np.nanargmin(stretch)), int(np.nanargmax(stretch))})]
    return np.array(chosen, np.int64)


def _some(indices: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return indices if len(indices) <= most else indices[np.linspace(0, len(indices) - 1, most).astype(int)]


def _add_marks(
    figure: go.Figure, frames: FrameTable, times: NDArray[np.float64], chosen: NDArray[np.int64], name: str, *, colour: str = KEY
) -> None:
    figure.add_trace(
        go.Scatter(
            x=np.round(times[chosen], 3).tolist(),
            y=[html.escape(name)] * len(chosen),
            mode="markers",
            marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": colour}},
            customdata=_told(frames, chosen),
            hovertemplate=HOVER + "<extra></extra>",
        ),
        row=1,
        col=1,
    )


def _add_line(figure: go.Figure, frames: FrameTable, times: NDArray[np.float64], row: Row, number: int) -> None:
    chosen = envelope(row.values, MOST_POINTS)
    figure.add_trace(
        go.Scatter(
            x=np.round(times[chosen], 3).tolist(),
            y=rounded(row.values[chosen]),
            mode="lines+markers" if len(frames) <= FEW_FRAMES else "lines",
            line={"width": 1.3, "color": PROPAGATED},
            marker={"size": 4.5, "color": [KEY if made else PROPAGATED for made in frames.made_key[chosen]]},
            customdata=_told(frames, chosen),
            hovertemplate=f"<b>{row.title.partition(',')[0]} %{{y{':.2%' if row.share else ':.3~g'}}}</b><br>{HOVER}<extra></extra>",
        ),
        row=number,
        col=1,
    )
    shown = "~%" if row.share else "~g"
    figure.update_yaxes(title_text=row.title, row=number, col=1, rangemode="normal" if row.share else "tozero", tickformat=shown, nticks=4)


HOVER = "frame %{customdata[0]}, stamp %{customdata[1]}<br>%{customdata[2]}"


def _told(frames: FrameTable, chosen: Iterable[int]) -> list[list[str]]:
    """Index, stamp, and kind with reason and age, for the frames that are shown."""
    indices, ages, lived, stamps = frames["index"], frames["key_age_frames"], frames["key_age_ms"], frames.stamps
    kinds, reasons = frames.kinds, frames.reasons
    told = []
    for at in chosen:
        words = kinds[at]
        if reasons[at]:
            words += f", made a key frame: {reasons[at]}" if kinds[at] != "key" else f": {reasons[at]}"
        if ages[at] > 0:
            words += f", age {ages[at]:.0f}" + (f" ({lived[at]:.0f} ms)" if lived[at] > 0 else "")
        stamp = f"{stamps[at] // 10**9}.{stamps[at] % 10**9:09d}" if stamps[at] else "unknown"
        told.append([f"{indices[at]:.0f}", stamp, html.escape(words)])
    return told
