"""What tests of the HTML report share: a report's figures as dff_replay writes them, and a table of frames."""

from __future__ import annotations

from typing import Any

from dff_ros.report.frame_table import FrameTable

PERIOD_MS = 100


def times(mean: float | None) -> dict[str, float | None]:
    """Step times whose mean is ``mean``, the slowest twice as long."""
    names = {"mean": 1.0, "p50": 1.0, "p95": 1.5, "p99": 1.8, "max": 2.0}
    return {name: None if mean is None else mean * factor for name, factor in names.items()}


def report(**changes: Any) -> dict[str, Any]:
    """A run at fixed:4 beside per-frame, with label and box truth; ``changes`` replace top-level sections."""
    figures: dict[str, Any] = {
        "frames": 40,
        "schedule": "fixed:4",
        "device": "cpu",
        "every_offset": False,
        "key_delay": None,
        "key_rate": 0.25,
        "segmentation": {
            "miou": 0.60,
            "iou": {"road": 0.9, "car": 0.3},
            "pixels": {"road": 9000, "car": 10},
            "miou_by_age": [0.65, 0.62, 0.60, 0.5],
        },
        "detection": {"map50": 0.80, "map": 0.5, "ap50": {"person": 0.8}, "boxes": {"person": 12}, "map50_by_age": [0.8] * 4},
        "detection_delay": dict.fromkeys(("mean", "p90", "appearances", "missed", "by_age", "histogram")),
        "step_ms": {"all": {**times(40.0), "max": 260.0}, "key": times(130.0), "propagated": times(10.0)},
        "latency_ms": {kind: times(None) for kind in ("all", "key", "propagated")},
        "cost_ratio": 10 / 130,
        "baseline": {
            "segmentation": {"miou": 0.65, "iou": {"road": 0.91, "car": 0.39}, "miou_by_age": [0.65, 0.65, 0.65, 0.65]},
            "detection": {"map50": 0.801, "map": 0.5, "ap50": {"person": 0.801}, "map50_by_age": [0.8] * 4},
            "step_ms": {"all": times(130.0), "key": times(130.0), "propagated": times(None)},
        },
        "loss_by_age": [0.0, 0.03, 0.05, 0.15],
        "agreement": 0.93,
        "against_per_frame": {
            "agreement_by_age": [1.0, 0.95, 0.9, 0.87],
            "iou": {"road": 0.97, "car": 0.5},
            "pixels": {"road": 9000, "car": 10},
        },
        "speedup": 3.25,
    }
    return {**figures, **changes}


def unmeasured(**changes: Any) -> dict[str, Any]:
    """A run with neither truth nor per-frame beside it."""
    nothing = {"segmentation": {"miou": None, "iou": None}, "detection": {"map50": None, "ap50": None}, "step_ms": {"all": times(None)}}
    absent = {"agreement": None, "against_per_frame": None, "speedup": None, "loss_by_age": None}
    return report(segmentation=nothing["segmentation"], detection=nothing["detection"], baseline=nothing, **absent, **changes)


def frame_table(count: int = 40, *, interval: int = 4, reason: str = "interval") -> FrameTable:
    """Frames ``PERIOD_MS`` apart, every ``interval``-th a key frame; agreement falls and motion rises with the key's age."""
    frames = FrameTable()
    for index in range(count):
        age = index % interval
        frames.add(
            {
                "index": index,
                "stamp": 1_700_000_000_123_456_789 + index * PERIOD_MS * 1_000_000,
                "kind": "propagated" if age else "key",
                "reason": "" if age else reason if index else "first frame",
                "key_age_frames": age,
                "key_age_ms": float(age * PERIOD_MS),
                "motion_px": 2.0 * age if age else None,
                "step_ms": 10.0 + index % 3 if age else 130.0,
                "made_key": not age,
                "agreement": 1 - 0.02 * age,
            }
        )
    return frames
