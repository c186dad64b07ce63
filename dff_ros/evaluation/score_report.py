"""The sections of a replay's report that hold scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from dff_ros.evaluation.measures.against_per_frame import AgainstPerFrame
from dff_ros.evaluation.measures.average_precision import DetectionScore
from dff_ros.evaluation.measures.consistency import TemporalConsistency
from dff_ros.evaluation.measures.delay import DelayFigures
from dff_ros.evaluation.measures.metrics import SegmentationScore, mean_or_none
from dff_ros.evaluation.measures.motion import GROUPS
from dff_ros.evaluation.measures.object_motion import ap50_by_motion, boxes_by_motion
from dff_ros.evaluation.run import Replay, Tally

Report = dict[str, Any]


def against_figures(against: AgainstPerFrame | None, *, average_ages: bool) -> Report:
    """The run with per-frame in the place of truth."""
    against = against or AgainstPerFrame((), (), score_threshold=0.0)
    segmentation, detection = against.segmentation, against.detection
    return {
        **segmentation_figures(segmentation, average_ages=average_ages),
        "agreement": against.agreement,
        "agreement_by_age": against.agreement_by_age() or None,
        "agreement_by_class": segmentation.recall(average_ages=average_ages) if segmentation else None,
        **detection_figures(detection, average_ages=average_ages),
        "by_motion": {
            **by_motion(miou=segmentation.by_motion(), agreement=against.agreement_by_motion(), map50=detection.by_motion()),
            "objects": {"boxes": boxes_by_motion(detection.distinct_frames), **by_motion(map50=ap50_by_motion(detection.all_frames))},
        },
        "detection_delay": delay_figures(against.delay),
    }


def segmentation_figures(score: SegmentationScore, *, average_ages: bool) -> Report:
    """mIoU, IoU and true pixels by class name, mIoU by age."""
    if not score:
        return dict.fromkeys(("miou", "iou", "pixels", "miou_by_age"))
    by_age, iou = score.by_age(), score.iou(average_ages=average_ages)
    miou = mean_or_none(by_age if average_ages else iou.values())
    return {"miou": miou, "iou": iou, "pixels": score.pixels(average_ages=average_ages), "miou_by_age": by_age}


def detection_figures(score: DetectionScore, *, average_ages: bool) -> Report:
    """AP at IoU .5 and .5:.95, AP at .5 and boxes to find by class name, AP at .5 by age."""
    if not score:
        return dict.fromkeys(("map50", "map", "ap50", "boxes", "map50_by_age"))
    precision = score.precision(average_ages=average_ages)
    by_class = {"ap50": score.named(precision.by_class), "boxes": score.boxes(average_ages=average_ages)}
    return {"map50": precision.map50, "map": precision.map, **by_class, "map50_by_age": score.by_age()}


def motion_figures(replay: Replay) -> Report:
    """Scores against truth of frames, and of objects, that move slowly, at medium speed and fast."""
    run, per_frame = replay.run, replay.baseline or Tally((), ())
    return {
        "frames": {group: replay.motion[group] for group in GROUPS} if replay.meter is not None else None,
        **by_motion(
            miou=run.segmentation.by_motion(),
            map50=run.detection.by_motion(),
            baseline_miou=per_frame.segmentation.by_motion(),
            baseline_map50=per_frame.detection.by_motion(),
        ),
        "objects": object_figures(run.detection, per_frame.detection),
    }


def object_figures(run: DetectionScore, per_frame: DetectionScore) -> Report:
    """AP at IoU .5 of slow, medium and fast objects, where the truth tells objects apart."""
    ap50, baseline = ap50_by_motion(run.all_frames), ap50_by_motion(per_frame.all_frames)
    return {"boxes": boxes_by_motion(run.distinct_frames), **by_motion(map50=ap50, baseline_map50=baseline)}


def by_motion(**figures: Mapping[str, float | None] | None) -> Report:
    """Each figure by group; null where there is none for any group."""
    return {name: {group: values.get(group) for group in GROUPS} if values else None for name, values in figures.items()}


def consistency_figures(replay: Replay) -> Report:
    """Temporal consistency of the run and of per-frame."""

    def figures(consistency: TemporalConsistency) -> Report:
        return {"miou": consistency.miou, "flicker": consistency.flicker, "iou": None if consistency.miou is None else consistency.iou}

    per_frame = replay.baseline or Tally((), ())
    return {**figures(replay.run.consistency), "per_frame": figures(per_frame.consistency)}


def delay_figures(delay: DelayFigures | None) -> Report:
    """Frames until new objects are detected, counted from per-frame's detection."""
    if delay is None:
        return dict.fromkeys(item.name for item in fields(DelayFigures))
    return {**asdict(delay), "histogram": {str(frames): count for frames, count in delay.histogram.items()}}
