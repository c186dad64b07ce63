"""Which figures a report has: each with its heading, what it shows in words, and the text for those who do not see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dff_ros.report.figures import Curve, Point, accuracy_over_latency, by_age, times_histogram
from dff_ros.report.frame_table import FrameTable
from dff_ros.report.measures import Report, Score, at, pace, scores, streaming_scores
from dff_ros.report.phrases import ms
from dff_ros.report.timeline import MOST_POINTS, is_thinned, timeline

GROUPS = ("accuracy", "times", "timeline", "age")
"""Sections of the page that hold figures."""


@dataclass(frozen=True)
class Block:
    """One figure with its text."""

    name: str
    """Unique on the page."""
    group: str
    """One of ``GROUPS``."""
    title: str
    caption: str
    alt: str
    figure: go.Figure


def blocks_of(report: Report, frames: FrameTable) -> list[Block]:
    """The figures for which something was measured."""
    found = [*accuracy_blocks(report), *time_blocks(report, frames), *age_blocks(report, frames)]
    if len(frames):
        found.append(timeline_block(frames))
    return found


def accuracy_blocks(report: Report) -> Iterator[Block]:
    """Each score over the time of a frame: per-frame, where it ran, and the run."""
    name, times = pace(report)
    mean, late = at(times, "all", "mean"), at(times, "all", "p95")
    own = "latency_ms" if name == "latency" else "step_ms"
    own_mean, own_late = at(report, "baseline", own, "all", "mean"), at(report, "baseline", own, "all", "p95")
    streaming = streaming_scores(report)
    known = " The score is that of what is known when a frame comes." if streaming else ""
    for score in streaming or scores(report) if mean is not None else ():
        points = [Point(str(report["schedule"]), mean, score.run, late)]
        if score.per_frame is not None and own_mean is not None:
            points.insert(0, Point("per-frame", own_mean, score.per_frame, own_late, baseline=True))
        told = "; ".join(f"{point.name} {point.accuracy:.3f} at {ms(point.latency_ms)}" for point in points)
        yield Block(
            f"accuracy-{score.name.split()[0].lower()}",
            "accuracy",
            f"{score.name} over {name}",
            f"Up is more accurate, left is faster. The dot is the mean {name}, its whisker ends at the 95th percentile.{known}",
            f"{score.name} over mean {name}: {told}.",
            accuracy_over_latency(points, accuracy=score.name, latency=f"{name}, ms"),
        )


def time_blocks(report: Report, frames: FrameTable) -> Iterator[Block]:
    """How often a frame took how long."""
    name, _ = pace(report)
    values = frames["latency_ms" if name == "latency" else "step_ms"]
    split = {kind: values[frames.of_kind(kind) & np.isfinite(values)].tolist() for kind in ("key", "propagated")}
    split = {kind: chosen for kind, chosen in split.items() if chosen}
    if not split:
        return
    period = frames.period_ms
    marks = {f"frame period, {ms(period)}": period} if period else {}
    told = "; ".join(f"{kind}: {len(chosen)} frames, median {ms(float(np.median(chosen)))}" for kind, chosen in split.items())
    beyond = " Right of the dotted line a frame takes longer than the time until the next one comes." if period else ""
    yield Block(
        "times",
        "times",
        f"{name.capitalize()} of key and propagated frames",
        f"The axis is logarithmic.{beyond}",
        f"Histogram of {name}. {told}.",
        times_histogram(split, quantity=f"{name}, ms", marks=marks),
    )


def age_blocks(report: Report, frames: FrameTable) -> Iterator[Block]:
    """Scores against truth by age of the key, and agreement with per-frame by age."""
    for score in scores(report):
        if score.against_truth and len(score.by_age) > 1:
            yield score_by_age(score, same_frames=report["every_offset"])
    agreement = at(report, "against_per_frame", "agreement_by_age") or frames.agreement_by_age()
    if len(agreement) > 1:
        yield Block(
            "age-agreement",
            "age",
            "Agreement with per-frame by age",
            "Share of pixels that get the class which per-frame gives them. At age 0 both are the key frame's own answer.",
            f"Agreement by age, from {agreement[0] or 0:.3f} at age 0 to {agreement[-1] or 0:.3f} at age {len(agreement) - 1}.",
            by_age([Curve("this run", agreement)], score="agreement"),
        )


AGES_DIFFER = "Each age has frames of its own, so look at the distance between the lines more than at their ups and downs."


def score_by_age(score: Score, *, same_frames: bool) -> Block:
    """One score, the run's and per-frame's."""
    curves = [Curve("this run", score.by_age)]
    if any(value is not None for value in score.per_frame_by_age):
        curves.insert(0, Curve("per-frame, same frames", score.per_frame_by_age, baseline=True))
    told = ", ".join("-" if value is None else f"{value:.3f}" for value in score.by_age)
    return Block(
        f"age-{score.name.split()[0].lower()}",
        "age",
        f"{score.name} by age",
        "Every age is scored on the same frames." if same_frames else AGES_DIFFER,
        f"{score.name} of the run at ages 0 to {len(score.by_age) - 1}: {told}.",
        by_age(curves, score=score.name),
    )


def timeline_block(frames: FrameTable) -> Block:
    """Frame after frame."""
    thinned = ""
    if is_thinned(frames):
        thinned = f" Of {len(frames):,} frames the lines show the lowest and the highest of each stretch, {MOST_POINTS:,} points at most."
    keys = int(frames.made_key.sum())
    return Block(
        "timeline",
        "timeline",
        "Frame after frame",
        "Key frames by their reason on top; below, motion since the key frame (none where no flow was computed), agreement with per-frame, "
        "what an adaptive schedule expects to lose, and times. "
        f"Orange dots are key frames. Drag to zoom, double-click to go back; all strips move together.{thinned}",
        f"Timeline of {len(frames)} frames, {keys} of them key frames.",
        timeline(frames),
    )
