"""The JSON of a replay, and a few lines for a person. Shares are fractions, times milliseconds; what was not measured is null."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dff_ros.evaluation.measures.metrics import Curve, describe, difference, mean_or_none
from dff_ros.evaluation.run import Replay, Tally
from dff_ros.evaluation.score_report import (
    Report,
    against_figures,
    consistency_figures,
    delay_figures,
    detection_figures,
    motion_figures,
    segmentation_figures,
)
from dff_ros.evaluation.streaming_report import live_figures, live_lines
from dff_ros.recording.frames import Recording
from dff_ros.recording.opening import bag_of


def build_report(replay: Replay, *, schedule: str, device: str) -> Report:
    """The figures of one replay, under the keys that ``measures.md`` defines."""
    run, baseline = replay.run, replay.baseline
    return {
        "frames": replay.frames,
        "mode": "real-time" if replay.live is not None else "every-offset" if replay.every_offset else "lock-step",
        "schedule": schedule,
        "device": device,
        "every_offset": replay.every_offset,
        "key_delay": replay.key_delay,
        "key_rate": None if replay.every_offset else len(run.key_ms) / replay.frames,
        "segmentation": segmentation_figures(run.segmentation, average_ages=replay.every_offset),
        "detection": detection_figures(run.detection, average_ages=replay.every_offset),
        "detection_delay": delay_figures(replay.delay),
        "step_ms": times(run),
        **live_figures(replay.live),
        "cost_ratio": ratio(mean_or_none(run.propagated_ms), mean_or_none(run.key_ms)),
        **comparison(replay, run, baseline),
    }


def input_figures(recording: Recording) -> Report:
    """What of a bag was read, and what could not be; null for recordings that are no bags."""
    bag = bag_of(recording)
    if bag is None:
        return dict.fromkeys(("topic", "damaged_images", "late_images", "lost"))
    lost = bag.lost
    missing = lost and {"reasons": lost.reasons, "messages": lost.messages, "bytes": lost.size, "seconds": lost.seconds}
    return {"topic": bag.topic, "damaged_images": bag.damaged, "late_images": bag.late, "lost": missing}


def comparison(replay: Replay, run: Tally, baseline: Tally | None) -> Report:
    """Beside per-frame on the same frames."""
    per_frame = baseline or Tally((), ())
    speedup = ratio(sum(per_frame.step_ms), sum(run.step_ms)) if baseline and not replay.every_offset else None
    return {
        "baseline": {
            "segmentation": segmentation_figures(per_frame.segmentation, average_ages=replay.every_offset),
            "detection": detection_figures(per_frame.detection, average_ages=replay.every_offset),
            "step_ms": times(per_frame),
            **live_figures(replay.per_frame_live),
        },
        "loss_by_age": loss_by_age(run, per_frame),
        "agreement": None if replay.against is None else replay.against.agreement,
        "against_per_frame": against_figures(replay.against, average_ages=replay.every_offset),
        "speedup": speedup,
        "by_motion": motion_figures(replay),
        "temporal_consistency": consistency_figures(replay),
    }


def loss_by_age(run: Tally, per_frame: Tally) -> Curve | None:
    """Per-frame minus run: of mIoU where label images were given, else of AP at IoU .5; None where nothing can be compared."""
    if run.segmentation and per_frame.segmentation:
        return difference(per_frame.segmentation.by_age(), run.segmentation.by_age())
    if run.detection and per_frame.detection:
        return difference(per_frame.detection.by_age(), run.detection.by_age())
    return None


def times(tally: Tally) -> Report:
    """Step times of all, key and propagated frames."""
    return {"all": describe(tally.step_ms), "key": describe(tally.key_ms), "propagated": describe(tally.propagated_ms)}


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Their quotient, None where either is missing or there is nothing to divide by."""
    return numerator / denominator if numerator is not None and denominator else None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON that any parser takes: no NaN."""
    path.write_text(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(report: Mapping[str, Any]) -> str:
    """What a person wants to know first."""
    steps, baseline = report["step_ms"], report["baseline"]
    lines = [f"{report['frames']} frames, {report['schedule']}, {report['device']}", *live_lines(report)]
    if report["key_rate"] is not None:
        lines.append(f"key frames   {report['key_rate']:.1%}")
    step = f"step         mean {steps['all']['mean']:.1f} ms, p95 {steps['all']['p95']:.1f} ms"
    lines.append(f"{step} (key {_number(steps['key']['mean'])}, propagated {_number(steps['propagated']['mean'])})")
    for name, task, key in (("mIoU", "segmentation", "miou"), ("AP50", "detection", "map50"), ("AP .5:.95", "detection", "map")):
        if report[task][key] is not None:
            lines.append(f"{name:<12} {report[task][key]:.3f}{_beside(baseline[task][key])}")
    if report["loss_by_age"] is not None:
        lines.append(f"loss by age  {' '.join('-' if loss is None else f'{loss:+.3f}' for loss in report['loss_by_age'])}")
    for delay, of in ((report["detection_delay"], ""), (report["against_per_frame"]["detection_delay"], " of what per-frame tracks")):
        if delay["mean"] is not None:
            found = f"{delay['appearances']} appearances{of}, {delay['missed']:.1%} missed"
            lines.append(f"new objects  {delay['mean']:+.2f} frames after per-frame, p90 {delay['p90']:+.1f} ({found})")
    if report["agreement"] is not None:
        lines.append(f"agreement    {report['agreement']:.2%} of pixels with per-frame")
    against = report["against_per_frame"]
    scores = [f"{name} {against[key]:.3f}" for name, key in (("mIoU", "miou"), ("AP50", "map50")) if against[key] is not None]
    if scores:
        lines.append(f"as per-frame {', '.join(scores)} with its answers as the truth")
    steady = report["temporal_consistency"]
    if steady["flicker"] is not None:
        beside = "" if steady["per_frame"]["flicker"] is None else f" (per-frame {steady['per_frame']['flicker']:.2%})"
        lines.append(f"flicker      {steady['flicker']:.2%} of pixels a frame{beside}")
    if report["speedup"] is not None:
        lines.append(f"speed-up     {report['speedup']:.2f} over per-frame, cost ratio {_number(report['cost_ratio'], 3)}")
    return "\n".join(lines)


def _beside(per_frame: float | None) -> str:
    return "" if per_frame is None else f" (per-frame {per_frame:.3f})"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
