"""The figures of a run by the clock, and what a person wants to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dff_ros.evaluation.measures.average_precision import AveragePrecision, DetectionScore
from dff_ros.evaluation.measures.metrics import SegmentationScore, describe, mean_or_none
from dff_ros.evaluation.measures.streaming import Live, Streaming

Figures = dict[str, Any]


def live_figures(live: Live | None) -> Figures:
    """Latency, drops, and the score of what was known when each frame came; None throughout where frames came without a clock."""
    if live is None:
        nothing = {kind: describe([]) for kind in ("all", "key", "propagated")}
        return {"latency_ms": nothing, "drops": {"count": None, "rate": None}, "streaming": streaming_figures(None)}
    latency = {"all": live.latency_ms, "key": live.key_ms, "propagated": live.propagated_ms}
    return {
        "latency_ms": {kind: describe(times) for kind, times in latency.items()},
        "drops": {"count": live.dropped, "rate": live.dropped / live.arrived},
        "streaming": streaming_figures(live.streaming),
    }


def streaming_figures(streaming: Streaming | None) -> Figures:
    """By truth, and by per-frame's own answers to the arriving frames; ``frames`` counts those that found an answer."""
    if streaming is None:
        nothing = _scores(None, None)
        return {"frames": None, **nothing, "agreement": None, "against_per_frame": nothing, "lateness_ms": describe([])}
    against = streaming.against
    return {
        "frames": len(streaming.lateness_ms),
        **_scores(streaming.segmentation, streaming.detection),
        "agreement": against.agreement,
        "against_per_frame": _scores(against.segmentation, against.detection),
        "lateness_ms": describe(streaming.lateness_ms),
    }


def _scores(segmentation: SegmentationScore | None, detection: DetectionScore | None) -> Figures:
    precision = detection.precision(average_ages=False) if detection else AveragePrecision(None, None)
    return {
        "miou": mean_or_none(segmentation.iou(average_ages=False).values()) if segmentation else None,
        "map50": precision.map50,
        "map": precision.map,
    }


def live_lines(report: Mapping[str, Any]) -> list[str]:
    """For the summary, with per-frame's own run by the clock beside; empty where there was no clock."""
    if report["drops"]["count"] is None:
        return []
    lines = [_live_line("real time", report)]
    if report["baseline"]["drops"]["count"] is not None:
        lines.append(_live_line("  per-frame", report["baseline"]))
    return lines


def _live_line(name: str, figures: Mapping[str, Any]) -> str:
    latency, streaming = figures["latency_ms"]["all"], figures["streaming"]
    scores = (("mIoU", streaming["miou"]), ("AP50", streaming["map50"]), ("agreement", streaming["agreement"]))
    known = ", ".join(f"{score} {value:.3f}" for score, value in scores if value is not None)
    line = f"{name:<12} latency p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms; {figures['drops']['rate']:.1%} dropped"
    return f"{line}; known when a frame comes: {known}" if known else line
