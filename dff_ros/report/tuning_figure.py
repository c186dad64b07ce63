"""Candidates of a tuning over latency: loss up, the front, the recommendation."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from dff_ros.report.figures import BAD, KEY, PER_FRAME, PROPAGATED, laid_out, rounded

COLOURS = (PROPAGATED, "#1d9a6c", "#8a63d2", "#b8860b", "#c2569a", "#4d5b6b")
"""One for each network, again from the beginning where there are more."""

SYMBOLS = {"per-frame": "square", "blocking": "circle", "aside": "diamond-open"}


@dataclass(frozen=True)
class Spot:
    """One candidate."""

    name: str
    network: str
    kind: str
    """``per-frame``, ``blocking`` or ``aside``."""
    p95_ms: float
    loss: float
    details: str
    on_front: bool = False
    recommended: bool = False
    drops: bool = False


def candidates_figure(spots: Sequence[Spot], *, interval_ms: float, limits: Sequence[tuple[str, float]] = ()) -> go.Figure:
    """Further down loses less, further left is faster; ``limits`` are p95 latencies to stay below, by name, beside the frame interval's."""
    figure = go.Figure()
    networks = list(dict.fromkeys(spot.network for spot in spots))
    for number, network in enumerate(networks):
        colour = COLOURS[number % len(COLOURS)]
        for place, (kind, chosen) in enumerate(_by_kind(spots, network)):
            figure.add_scatter(
                **_places(chosen),
                mode="markers",
                name=html.escape(network),
                legendgroup=network,
                showlegend=place == 0,
                marker={
                    "symbol": SYMBOLS.get(kind, "circle"),
                    "color": colour,
                    "size": [11 if spot.on_front else 8 for spot in chosen],
                    "opacity": [0.35 if spot.drops else 0.95 for spot in chosen],
                },
            )
    front = sorted((spot for spot in spots if spot.on_front and not spot.drops), key=lambda spot: spot.p95_ms)
    line = {"shape": "hv", "color": PER_FRAME, "width": 1.5, "dash": "dot"}
    figure.add_scatter(
        x=rounded([spot.p95_ms for spot in front]),
        y=rounded([100.0 * spot.loss for spot in front]),
        mode="lines", line=line, name="front without drops", hoverinfo="skip",
    )  # fmt: skip
    ring = {"symbol": "circle-open", "size": 22, "color": KEY, "line": {"width": 3}}
    figure.add_scatter(**_places([spot for spot in spots if spot.recommended]), mode="markers", name="recommended", marker=ring)
    for number, (name, value) in enumerate((("frame interval", interval_ms), *limits)):
        figure.add_vline(x=value, line={"dash": "dot", "width": 1.5, "color": BAD})
        text = {"text": html.escape(name), "showarrow": False, "xanchor": "left", "xshift": 5}
        figure.add_annotation(x=math.log10(value), y=1 - 0.06 * number, yref="paper", **text)  # places on a logarithmic axis are exponents
    figure.update_xaxes(title_text="p95 latency, ms", type="log", tickformat="~g")
    figure.update_yaxes(title_text="loss, points")
    return laid_out(figure, height=460)


def _by_kind(spots: Sequence[Spot], network: str) -> Iterator[tuple[str, list[Spot]]]:
    for kind in SYMBOLS:
        chosen = [spot for spot in spots if spot.network == network and spot.kind == kind]
        if chosen:
            yield kind, chosen


def _places(spots: Sequence[Spot]) -> dict[str, object]:
    return {
        "x": rounded([spot.p95_ms for spot in spots]),
        "y": rounded([100.0 * spot.loss for spot in spots]),
        "text": [f"<b>{html.escape(spot.name)}</b><br>{html.escape(spot.details)}" for spot in spots],
        "hovertemplate": "%{text}<extra></extra>",
    }
