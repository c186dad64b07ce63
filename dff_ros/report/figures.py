"""The small figures of a report, built by plotly from plain lists; the timeline has a file of its own.

Colours of letters and grids are left to the page, which knows whether it is shown light or dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

KEY, PROPAGATED, PER_FRAME, BAD = "#d9730d", "#3b82d6", "#8b929c", "#d6455d"
"""Legible on white and on near black, and apart for readers who do not tell red from green."""

MOST_BINS = 60


@dataclass(frozen=True)
class Point:
    """One way of running: what it costs and what it reaches."""

    name: str
    latency_ms: float
    accuracy: float
    late_ms: float | None = None
    """The 95th percentile, drawn as a whisker."""
    baseline: bool = False
    """Whether this is per-frame."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot over the age of the key; None where nothing was measured."""

    name: str
    values: Sequence[float | None]
    baseline: bool = False


def accuracy_over_latency(points: Sequence[Point], *, accuracy: str, latency: str, front: Sequence[Point] = ()) -> go.Figure:
    """Points to the upper left are better. ``front`` are those that nothing beats, joined by a line."""
    figure = go.Figure()
    if front:
        best = sorted(front, key=lambda point: point.latency_ms)
        line = {"shape": "hv", "color": PROPAGATED, "width": 1, "dash": "dot"}
        at = [point.latency_ms for point in best], [point.accuracy for point in best]
        figure.add_scatter(x=at[0], y=at[1], mode="lines", line=line, hoverinfo="skip", name="nothing is better", showlegend=False)
    for baseline, colour in ((True, PER_FRAME), (False, PROPAGATED)):
        chosen = [point for point in points if point.baseline == baseline]
        if not chosen:
            continue
        late = [0.0 if point.late_ms is None else max(0.0, point.late_ms - point.latency_ms) for point in chosen]
        figure.add_scatter(
            x=[point.latency_ms for point in chosen],
            y=[point.accuracy for point in chosen],
            mode="markers+text",
            text=[html.escape(point.name) for point in chosen],
            textposition="top right",
            marker={"size": 13, "color": colour},
            error_x={"type": "data", "symmetric": False, "array": late, "thickness": 1.5, "width": 5},
            hovertemplate=f"%{{text}}<br>{html.escape(accuracy)} %{{y:.3f}}<br>%{{x:.1f}} ms<extra></extra>",
            showlegend=False,
        )
    values = [point.accuracy for point in points]
    margin = max(0.02, 0.35 * (max(values) - min(values))) if values else 0.02
    right = max([point.late_ms or point.latency_ms for point in points], default=1.0)
    figure.update_xaxes(title_text=latency, range=[0, 1.25 * right])
    lowest, highest = (min(values) - margin, max(values) + margin) if values else (0, 1)
    figure.update_yaxes(title_text=accuracy, range=[lowest, highest], tickformat=".3~f")
    return laid_out(figure, height=320)


def times_histogram(
    times: Mapping[str, Sequence[float]], *, quantity: str, marks: Mapping[str, float] | None = None
) -> go.Figure:
    """How often a frame took how long, one colour for each kind; ``marks`` are named upright lines.

    Bins have one width on a logarithmic axis: key and propagated frames may be a hundredfold apart.
    """
    figure = go.Figure()
    positive = {kind: [value for value in values if value > 0] for kind, values in times.items()}
    everything = [value for values in positive.values() for value in values]
    if everything:
        low, high = math.log10(min(everything)) - 0.02, math.log10(max(everything)) + 0.02
        count = int(np.clip(2 * math.sqrt(len(everything)), 12, MOST_BINS))
        bins = np.linspace(low, high, count + 1)
        for kind, values in positive.items():
            counts, _ = np.histogram(np.log10(values), bins) if values else (np.zeros(count, int), bins)
            left, right = 10 ** bins[:-1], 10 ** bins[1:]
            full = counts > 0
            figure.add_bar(
                x=rounded((10 ** ((bins[:-1] + bins[1:]) / 2))[full]),
                y=counts[full].tolist(),
                width=rounded((right - left)[full]),
                name=f"{kind} ({len(values)})",
                marker={"color": {"key": KEY, "propagated": PROPAGATED}.get(kind, PER_FRAME), "line": {"width": 0}},
                opacity=0.85,
                hovertemplate="%{y} frames at about %{x:.3~g} ms<extra>" + html.escape(kind) + "</extra>",
            )
    for number, (name, value) in enumerate((marks or {}).items()):
        figure.add_vline(x=value, line={"dash": "dot", "width": 1.5, "color": BAD})
        figure.add_annotation(
            x=math.log10(value), y=1 - 0.12 * number, yref="paper", text=html.escape(name), showarrow=False, xanchor="left", xshift=5
        )
        everything.append(value)
    span = [math.log10(min(everything)) - 0.06, math.log10(max(everything)) + 0.12] if everything else [0, 2]
    figure.update_xaxes(title_text=quantity, type="log", range=span, dtick="D2" if span[1] - span[0] > 0.6 else None, tickformat="~g")
    figure.update_yaxes(title_text="frames", rangemode="tozero")
    figure.update_layout(barmode="overlay", bargap=0)
    return laid_out(figure, height=320)


def by_age(curves: Sequence[Curve], *, score: str) -> go.Figure:
    """A score at each age of the key, in frames."""
    figure = go.Figure()
    for curve in curves:
        style: dict[str, Any] = {"color": PER_FRAME, "dash": "dash"} if curve.baseline else {"color": PROPAGATED}
        figure.add_scatter(
            x=list(range(len(curve.values))),
            y=rounded(curve.values),
            mode="lines+markers",
            name=html.escape(curve.name),
            line={**style, "width": 2},
            marker={"size": 7},
            hovertemplate=f"age %{{x}}: %{{y:.3f}}<extra>{html.escape(curve.name)}</extra>",
        )
    longest = max((len(curve.values) for curve in curves), default=0)
    figure.update_xaxes(title_text="frames since the key frame", rangemode="tozero", tickformat="d", dtick=1 if longest <= 16 else None)
    figure.update_yaxes(title_text=html.escape(score), tickformat=".3~f")
    return laid_out(figure, height=320)


def laid_out(figure: go.Figure, *, height: int) -> go.Figure:
    """The figure in the layout that all share."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 24, "t": 24, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    return figure


def rounded(values: Any) -> list[float | None]:
    """Five digits are plenty for the eye, and a third of the bytes; what is no number becomes None."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in values]
