"""The page of a tuning, from the content of ``tune.json``: what to run, why, and what else was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dff_ros.report.page import figure_json
from dff_ros.report.phrases import ms
from dff_ros.report.tuning_figure import Spot, candidates_figure

Found = Mapping[str, Any]
"""The content of ``tune.json``."""


@dataclass(frozen=True)
class Row:
    """One candidate of the table, as it is shown."""

    name: str
    recommended: bool
    loss: str
    p50: str
    p95: str
    key_rate: str
    drops: str
    how: str


def write_tuning_page(path: Path, found: Found, *, parameters: str, command: str) -> None:
    """Write the page to ``path``; ``parameters`` is the text of the parameter file. Raises OSError where it cannot be written."""
    path.write_text(render_tuning(found, parameters=parameters, command=command), encoding="utf-8")


def render_tuning(found: Found, *, parameters: str, command: str) -> str:
    """The page as HTML."""
    loader = PackageLoader("dff_ros.report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    promise = found["promise"]
    figure = candidates_figure(
        [spot_of(one, found) for one in found["candidates"]],
        interval_ms=found["frame_interval_ms"],
        limits=[("target", value) for name, value in found["targets"].items() if name == "latency_ms"],
    )
    return pages.get_template("tuning.html").render(
        found=found,
        tiles=tiles(promise),
        figure=figure,
        figure_json=figure_json(figure),
        rows=[row_of(one, found) for one in ordered(found["candidates"])],
        steps=step_rows(found["step_ms"]),
        parameters=parameters,
        command=command,
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )


def tiles(promise: Found) -> list[tuple[str, str, str]]:
    """Label, value and note of the figures on top."""
    latency = promise["latency_ms"]
    lost = [f"{task} {100 * loss:.2f}" for task, loss in promise["loss_by_task"].items() if loss is not None]
    return [
        ("loss", f"{100 * promise['loss']:.2f}", f"points: {', '.join(lost)}"),
        ("latency p95", ms(latency["p95"]), f"p50 {ms(latency['p50'])}, p99 {ms(latency['p99'])}"),
        ("key frames", f"{promise['key_rate']:.1%}", "of the processed frames"),
        ("dropped", str(promise["dropped"]), f"of {promise['frames']} frames"),
    ]


def spot_of(one: Found, found: Found) -> Spot:
    """A candidate in the figure: the recommended one as it was run, where it was, the others as simulated."""
    recommended = one["name"] == found["recommended"]
    figures = found["promise"] if recommended else one["simulated"]
    latency = figures["latency_ms"]
    network, _, _ = one["name"].partition(",")
    parameters = one["parameters"]
    return Spot(
        name=one["name"],
        network=network,
        kind="per-frame" if parameters["schedule"] == "per-frame" else parameters["key_frames"],
        p95_ms=latency["p95"],
        loss=figures["loss"],
        details=f"loss {100 * figures['loss']:.2f} points, p50 {ms(latency['p50'])}, p95 {ms(latency['p95'])}, "
        f"{figures['key_rate']:.0%} key frames, {figures['dropped']} of {figures['frames']} dropped",
        on_front=one["on_front"],
        recommended=recommended,
        drops=figures["dropped"] > 0,
    )


def ordered(candidates: Sequence[Found]) -> list[Found]:
    """What was run and the front, fastest first."""
    chosen = [one for one in candidates if one["on_front"] or one["verified"] is not None]
    return sorted(chosen, key=lambda one: one["simulated"]["latency_ms"]["p95"])


def row_of(one: Found, found: Found) -> Row:
    """A candidate in the table, by what is known best."""
    figures = one["verified"] or one["simulated"]
    return Row(
        name=one["name"],
        recommended=one["name"] == found["recommended"],
        loss=f"{100 * figures['loss']:.2f}",
        p50=f"{figures['latency_ms']['p50']:.1f}",
        p95=f"{figures['latency_ms']['p95']:.1f}",
        key_rate=f"{figures['key_rate']:.1%}",
        drops=f"{figures['dropped']} of {figures['frames']}",
        how="run" if one["verified"] else "simulated",
    )


def step_rows(step_ms: Found) -> list[tuple[str, str, list[str]]]:
    """Network, way of running, and the mean times of key, propagated, propagated beside a key, and key aside."""
    kinds = ("key", "propagated", "beside", "aside")
    return [
        (network, way, [f"{sum(times[kind]) / len(times[kind]):.1f}" if times[kind] else "–" for kind in kinds])
        for network, ways in step_ms.items()
        for way, times in ways.items()
    ]
