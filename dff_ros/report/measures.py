"""What a replay's report (the JSON of ``dff_replay``) says, looked up in one place; sections that are absent or null were not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Curve = Sequence["float | None"]

TRUTH_SCORES = (("mIoU", "segmentation", "miou", "miou_by_age"), ("AP50", "detection", "map50", "map50_by_age"))


@dataclass(frozen=True)
class Score:
    """One score of a run, beside per-frame's on the same frames where it ran."""

    name: str
    run: float
    per_frame: float | None
    by_age: Curve = ()
    per_frame_by_age: Curve = ()
    against_truth: bool = True

    @property
    def loss(self) -> float | None:
        """Per-frame minus run, a fraction; negative where the run is better."""
        return None if self.per_frame is None else self.per_frame - self.run


def at(report: Any, *path: str) -> Any:
    """What stands under nested keys; None where any of them is missing or null."""
    value: Any = report
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def scores(report: Report) -> list[Score]:
    """The scores that were measured: against truth, else agreement with per-frame (which agrees with itself, 1)."""
    found = []
    for name, task, key, curve in TRUTH_SCORES:
        run = at(report, task, key)
        if run is not None:
            per_frame = at(report, "baseline", task, key)
            curves = at(report, task, curve) or (), at(report, "baseline", task, curve) or ()
            found.append(Score(name, run, per_frame, *curves))
    agreement = at(report, "agreement")
    if not found and agreement is not None:
        found.append(Score("agreement with per-frame", agreement, 1.0, against_truth=False))
    return found


def pace(report: Report) -> tuple[str, Mapping[str, Any]]:
    """The times that matter: latencies where frames arrived by a clock, else step times; with what they are called."""
    if at(report, "latency_ms", "all", "mean") is not None:
        return "latency", report["latency_ms"]
    return "step time", at(report, "step_ms") or {}


def has_baseline(report: Report) -> bool:
    """Whether per-frame ran on the same frames."""
    return at(report, "baseline", "step_ms", "all", "mean") is not None or any(score.loss is not None for score in scores(report))


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table; None where the class does not occur in the truth, or per-frame did not run."""

    name: str
    run: float | None
    per_frame: float | None
    amount: float | None = None
    """How much of it there is: pixels or boxes of the truth."""

    @property
    def loss(self) -> float | None:
        """Per-frame minus run."""
        return None if self.run is None or self.per_frame is None else self.per_frame - self.run


@dataclass(frozen=True)
class ClassTable:
    """One score by class."""

    score: str
    unit: str
    """What ``ClassRow.amount`` counts."""
    rows: Sequence[ClassRow]
    against_truth: bool = True


def class_tables(report: Report) -> list[ClassTable]:
    """IoU and AP50 by class, of classes that occur: against truth where there is any, else against per-frame's answers."""
    found = []
    for score, task, kind, key, unit in (("IoU", "segmentation", "miou", "iou", "pixels"), ("AP50", "detection", "map50", "ap50", "boxes")):
        section, baseline, true, name = at(report, task), at(report, "baseline", task, key) or {}, True, score
        if at(report, task, kind) is None:
            section, baseline, true = at(report, "against_per_frame"), {}, False
            name = f"{score}, with per-frame's answers in the place of truth"
        values, amounts = at(section or {}, key), at(section or {}, unit) or {}
        if not isinstance(values, Mapping):
            continue
        rows = [ClassRow(label, value, baseline.get(label), amounts.get(label)) for label, value in values.items() if value is not None]
        if rows:
            found.append(ClassTable(name, unit, rows, true))
    return found


MOTIONS = ("slow", "medium", "fast")


def motion_tables(report: Report) -> list[ClassTable]:
    """Scores of frames, and of objects, that move slowly, faster and fast; empty where motion was not measured."""
    section, against = at(report, "by_motion"), at(report, "against_per_frame", "by_motion")
    objects = at(report, "by_motion", "objects")
    counts = at(report, "by_motion", "frames")
    known = [
        ("mIoU, by motion of the frame", "frames", counts, section, "miou", True),
        ("AP50, by motion of the frame", "frames", counts, section, "map50", True),
        ("AP50, by motion of the object", "boxes", at(objects, "boxes"), objects, "map50", True),
        ("agreement with per-frame, by motion of the frame", "frames", counts, against, "agreement", False),
    ]
    tables = []
    for name, unit, amounts, source, key, true in known:
        values, baseline = at(source, key), at(source, f"baseline_{key}")
        rows = [ClassRow(label, at(values, label), at(baseline, label), at(amounts, label)) for label in MOTIONS]
        if any(row.run is not None for row in rows):
            tables.append(ClassTable(name, unit, [row for row in rows if row.run is not None], true))
    return tables


@dataclass(frozen=True)
class LiveRow:
    """One figure of a run by the clock, as it is shown, beside per-frame's own run by the clock."""

    name: str
    run: str
    per_frame: str


STREAMING = (("mIoU", "miou"), ("AP50", "map50"), ("agreement with per-frame", "agreement"))


def streaming_scores(report: Report) -> list[Score]:
    """Scores of what is known when a frame comes; empty where frames did not arrive by a clock."""
    found: list[Score] = []
    for name, key in STREAMING:
        run, own = at(report, "streaming", key), at(report, "baseline", "streaming", key)
        if run is not None and not (key == "agreement" and found):
            found.append(Score(name, run, own, against_truth=key != "agreement"))
    return found


def live_rows(report: Report) -> list[LiveRow]:
    """Drops, lateness, latency and streaming accuracy; empty where frames did not arrive by a clock."""
    wanted: list[tuple[str, str, tuple[str, ...]]] = [("frames dropped", "{:.1%}", ("drops", "rate"))]
    wanted += [(f"{name} of what is known", "{:.3f}", ("streaming", key)) for name, key in STREAMING]
    for name, place in (("latency", ("latency_ms", "all")), ("lateness of what is known", ("streaming", "lateness_ms"))):
        wanted += [(f"{name}, {which}, ms", "{:.1f}", (*place, which)) for which in ("mean", "p95", "max")]
    rows = []
    for name, form, path in wanted if at(report, "drops", "rate") is not None else ():
        run, own = at(report, *path), at(report, "baseline", *path)
        if run is not None:
            rows.append(LiveRow(name, form.format(run), "–" if own is None else form.format(own)))
    return rows
