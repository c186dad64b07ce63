"""The scores, each with one meaning: mIoU, average precision, agreement, and summaries of times.

Scores are kept by age (frames since the key), so that one pass gives the overall figure and the curve over age.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dff_ros.core.results import MINIMUM_SCORE, UNLABELLED, Detections
from dff_ros.evaluation.truth import ClassBoxes

Curve = list["float | None"]
"""One score for each age; None where nothing was scored."""

MOST_DETECTIONS = 100
"""Detections of one class in one frame that AP looks at, as COCO does."""


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """The mean of those values that were measured."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


class ConfusionMatrix:
    """Counts of pixels: rows are true classes, columns the answers, the last column for pixels left unlabelled."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: NDArray[np.uint8], answer: NDArray[np.uint8]) -> None:
        """Count one frame, both (H, W); pixels with truth 255 are left out."""
        if truth.shape != answer.shape:
            raise ValueError(f"truth and answer should have one shape, got {truth.shape} and {answer.shape}")
        classes, columns = self.counts.shape
        known = truth != UNLABELLED
        pairs = truth[known].astype(np.int64) * columns + np.minimum(answer[known], classes)
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> Curve:
        """Intersection over union of each class; None for classes that do not occur in the truth."""
        hits = np.diagonal(self.counts)
        true = self.counts.sum(axis=1)
        union = true + self.counts.sum(axis=0)[:-1] - hits
        return [float(hits[k] / union[k]) if true[k] else None for k in range(len(true))]


class SegmentationScore:
    """mIoU of a run: one confusion matrix over all frames, and one for each age."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._by_age: dict[int, ConfusionMatrix] = {}

    def add(self, age: int, truth: NDArray[np.uint8], answer: NDArray[np.uint8]) -> None:
        """Score one frame's class ids against its truth."""
        self._by_age.setdefault(age, ConfusionMatrix(len(self._names))).add(truth, answer)

    def by_age(self) -> Curve:
        """mIoU at each age."""
        return curve({age: mean_or_none(matrix.iou()) for age, matrix in self._by_age.items()})

    def iou(self, *, average_ages: bool) -> dict[str, float | None]:
        """IoU by class name, of all frames together or, with ``average_ages``, the mean over the ages."""
        if average_ages:
            columns = zip(*(matrix.iou() for matrix in self._by_age.values()), strict=True)
            return dict(zip(self._names, map(mean_or_none, columns), strict=True))
        total = ConfusionMatrix(len(self._names))
        for matrix in self._by_age.values():
            total.counts += matrix.counts
        return dict(zip(self._names, total.iou(), strict=True))

    def __bool__(self) -> bool:
        return bool(self._by_age)


@dataclass(frozen=True)
class ScoredFrame:
    """One frame's detections beside its truth, both of covered classes only."""

    detections: Detections
    truth: Mapping[int, ClassBoxes]


@dataclass(frozen=True)
class AveragePrecision:
    """AP at IoU .5, and the mean over IoU .5, .55, ... .95; None where no box counts."""

    map50: float | None
    map: float | None


class DetectionScore:
    """COCO-style AP of a run, over all frames and for each age."""

    def __init__(self) -> None:
        self._by_age: dict[int, list[ScoredFrame]] = {}

    def add(self, age: int, truth: Mapping[int, ClassBoxes], detections: Detections) -> None:
        """Score one frame; detections of classes without truth, or of which nobody can say whether they are right, are left out."""
        held = {label: replace(known, unknown=None) for label, known in truth.items()}  # masks would add up over a long recording
        self._by_age.setdefault(age, []).append(ScoredFrame(scorable(detections, truth), held))

    def frames(self, age: int) -> Sequence[ScoredFrame]:
        """What is held of the frames of one age."""
        return self._by_age.get(age, ())

    def by_age(self) -> Curve:
        """AP at IoU .5 at each age."""
        return curve({age: average_precision(frames).map50 for age, frames in self._by_age.items()})

    def precision(self, *, average_ages: bool) -> AveragePrecision:
        """AP of all frames together or, with ``average_ages``, the mean over the ages."""
        if average_ages:
            parts = [average_precision(frames) for frames in self._by_age.values()]
            return AveragePrecision(mean_or_none(part.map50 for part in parts), mean_or_none(part.map for part in parts))
        return average_precision([frame for frames in self._by_age.values() for frame in frames])

    def __bool__(self) -> bool:
        return bool(self._by_age)


def scorable(detections: Detections, truth: Mapping[int, ClassBoxes]) -> Detections:
    """Detections of covered classes, without those that lie mostly in unknown pixels and meet no true box."""
    kept = (detections.scores >= MINIMUM_SCORE) & np.isin(detections.labels, list(truth))
    for row in np.flatnonzero(kept):
        known = truth[int(detections.labels[row])]
        box = detections.boxes[row].astype(np.float64)
        if known.unknown is not None and share_inside(box, known.unknown) > 0.5:
            kept[row] = bool((overlap(box, known.boxes[~known.ignored]) >= 0.5).any())
    return Detections(detections.boxes[kept], detections.scores[kept], detections.labels[kept])


def share_inside(box: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """The share of a box's pixels that the mask marks; the box is rounded to whole pixels."""
    left, top, right, bottom = (max(int(edge), 0) for edge in np.rint(box))
    inside = mask[top:bottom, left:right]
    return float(inside.mean()) if inside.size else 0.0


def overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box (4,) with others (N, 4), x1 y1 x2 y2."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    result: NDArray[np.float64] = common / np.maximum(union, 1e-9)
    return result


def average_precision(frames: Sequence[ScoredFrame]) -> AveragePrecision:
    """pycocotools' AP of some frames, the mean over the classes that have boxes to find.

    Ignored boxes are COCO crowds: detections that lie in them neither count nor punish.
    """
    true, found = [], []
    for image, frame in enumerate(frames, start=1):
        for label, known in frame.truth.items():
            true += [_annotation(image, label, box, iscrowd=int(skip)) for box, skip in zip(known.boxes, known.ignored, strict=True)]
        answers = zip(frame.detections.boxes, frame.detections.scores, frame.detections.labels, strict=True)
        found += [_annotation(image, int(label), box, score=float(score)) for box, score, label in answers]
    if all(annotation["iscrowd"] for annotation in true):
        return AveragePrecision(None, None)
    classes = sorted({label for frame in frames for label in frame.truth})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(true, len(frames), classes), _coco(found, len(frames), classes), "bbox")
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # IoU thresholds x recalls x classes
    precision = precision[:, :, (precision > -1).all(axis=(0, 1))]
    return AveragePrecision(float(precision[0].mean()), float(precision.mean()))


def _annotation(image: int, label: int, box: NDArray[np.floating], **more: float) -> dict[str, object]:
    left, top, right, bottom = (float(edge) for edge in box)
    width, height = right - left, bottom - top
    return {"image_id": image, "category_id": label, "bbox": [left, top, width, height], "area": width * height, "iscrowd": 0, **more}


def _coco(annotations: list[dict[str, object]], images: int, classes: Sequence[int]) -> COCO:
    """COCO's index of annotations; ids start at 1, because COCOeval takes 0 for unmatched."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(1, images + 1)],
        "categories": [{"id": label} for label in classes],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


class Agreement:
    """The share of pixels whose class equals another answer's."""

    def __init__(self) -> None:
        self._equal = 0
        self._pixels = 0

    def add(self, answer: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
        """Compare two label maps (H, W) of one frame."""
        self._equal += int(np.count_nonzero(answer == other))
        self._pixels += answer.size

    @property
    def share(self) -> float | None:
        """0..1; None where nothing was compared."""
        return self._equal / self._pixels if self._pixels else None


def curve(by_age: Mapping[int, float | None]) -> Curve:
    """A list whose index is the age."""
    return [by_age.get(age) for age in range(max(by_age, default=-1) + 1)]


def difference(minuend: Curve, subtrahend: Curve) -> Curve:
    """Age by age; None where either is."""
    return [None if a is None or b is None else a - b for a, b in zip(minuend, subtrahend, strict=True)]


def describe(times: Sequence[float]) -> dict[str, float | None]:
    """mean, p50, p95, p99 and max of some times; None each where there are none."""
    if not times:
        return dict.fromkeys(("mean", "p50", "p95", "p99", "max"))
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    return {"mean": float(np.mean(times)), "p50": p50, "p95": p95, "p99": p99, "max": float(np.max(times))}
