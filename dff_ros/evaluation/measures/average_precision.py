"""COCO-style average precision (AP) by pycocotools, of all frames and for each age."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dff_ros.core.results import MINIMUM_SCORE, Detections
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.metrics import Curve, curve, mean_or_none

MOST_DETECTIONS = 100
"""Detections of one class in one frame that AP looks at, as COCO does."""


@dataclass(frozen=True)
class ScoredFrame:
    """One frame's detections beside its truth, both of covered classes only."""

    detections: Detections
    truth: Mapping[int, ClassBoxes]
    index: int = 0
    """Of the source frame."""
    motion: str | None = None
    """How fast the picture moves there, see ``motion.GROUPS``."""


@dataclass(frozen=True)
class AveragePrecision:
    """AP at IoU .5, and the mean over IoU .5, .55, ... .95; None where no box counts."""

    map50: float | None
    map: float | None
    by_class: Mapping[int, float] = field(default_factory=dict)
    """AP at IoU .5 of the classes that have boxes to find."""


class DetectionScore:
    """COCO-style AP of a run, over all frames and for each age."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._by_age: dict[int, list[ScoredFrame]] = {}

    def add(
        self, age: int, truth: Mapping[int, ClassBoxes], detections: Detections, *, index: int = 0, motion: str | None = None
    ) -> None:
        """Score one frame; detections of classes without truth, or of which nobody can say whether they are right, are left out."""
        held = {label: replace(known, unknown=None) for label, known in truth.items()}  # masks would add up over a long recording
        self._by_age.setdefault(age, []).append(ScoredFrame(scorable(detections, truth), held, index, motion))

    @property
    def all_frames(self) -> list[ScoredFrame]:
        """What is held of all frames, in every offset once for each age."""
        return [frame for frames in self._by_age.values() for frame in frames]

    @property
    def distinct_frames(self) -> list[ScoredFrame]:
        """What is held, each source frame once."""
        return list({frame.index: frame for frame in self.all_frames}.values())

    def frames(self, age: int) -> Sequence[ScoredFrame]:
        """What is held of the frames of one age."""
        return self._by_age.get(age, ())

    def by_age(self) -> Curve:
        """AP at IoU .5 at each age."""
        return curve({age: average_precision(frames, only_half=True).map50 for age, frames in self._by_age.items()})

    def by_motion(self) -> dict[str, float | None]:
        """AP at IoU .5 of the frames of each group of motion, all ages together."""
        groups: dict[str, list[ScoredFrame]] = {}
        for frame in self.all_frames:
            if frame.motion is not None:
                groups.setdefault(frame.motion, []).append(frame)
        return {group: average_precision(frames, only_half=True).map50 for group, frames in groups.items()}

    def precision(self, *, average_ages: bool) -> AveragePrecision:
        """AP of all frames together or, with ``average_ages``, the mean over the ages."""
        if not average_ages:
            return average_precision(self.all_frames)
        parts = [average_precision(frames) for frames in self._by_age.values()]
        labels = {label for part in parts for label in part.by_class}
        by_class = {label: float(np.mean([part.by_class[label] for part in parts if label in part.by_class])) for label in labels}
        return AveragePrecision(mean_or_none(part.map50 for part in parts), mean_or_none(part.map for part in parts), by_class)

    def named(self, by_class: Mapping[int, float]) -> dict[str, float | None]:
        """A figure for each class under the class's name; None where there is none."""
        return {name: by_class.get(label) for label, name in enumerate(self._names)}

    def boxes(self, *, average_ages: bool) -> dict[str, int | None]:
        """Boxes to find by class name, None for classes without truth; with ``average_ages`` as every age has seen them: once."""
        counts: Counter[int] = Counter()
        for frame in self.all_frames:
            for label, known in frame.truth.items():
                counts[label] += int(np.count_nonzero(~known.ignored))
        times = len(self._by_age) if average_ages else 1
        return {name: counts[label] // times if label in counts else None for label, name in enumerate(self._names)}

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


def average_precision(frames: Sequence[ScoredFrame], *, only_half: bool = False) -> AveragePrecision:
    """pycocotools' AP of some frames, the mean over the classes that have boxes to find.

    Ignored boxes are COCO crowds: detections that lie in them neither count nor punish. With ``only_half`` IoU .5 alone is looked at, in a
    tenth of the time, and ``map`` is None.
    """
    evaluation = match_boxes(frames, only_half=only_half)
    return AveragePrecision(None, None) if evaluation is None else sum_up(evaluation)


def match_boxes(frames: Sequence[ScoredFrame], *, only_half: bool) -> COCOeval | None:
    """Detections held against the truth, frame by frame (images 1, 2, ...), for :func:`sum_up`; None where no box counts."""
    true, found = [], []
    for image, frame in enumerate(frames, start=1):
        for label, known in frame.truth.items():
            true += [_annotation(image, label, box, iscrowd=int(skip)) for box, skip in zip(known.boxes, known.ignored, strict=True)]
        answers = zip(frame.detections.boxes, frame.detections.scores, frame.detections.labels, strict=True)
        found += [_annotation(image, int(label), box, score=float(score)) for box, score, label in answers]
    if all(annotation["iscrowd"] for annotation in true):
        return None
    classes = sorted({label for frame in frames for label in frame.truth})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(true, len(frames), classes), _coco(found, len(frames), classes), "bbox")
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        if only_half:
            evaluation.params.iouThrs = evaluation.params.iouThrs[:1]
        evaluation.evaluate()
    return evaluation


def sum_up(evaluation: COCOeval) -> AveragePrecision:
    """AP over all images of an evaluation; None where none of them has a box that counts."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # IoU thresholds x recalls x classes
    present = (precision > -1).all(axis=(0, 1))
    if not present.any():
        return AveragePrecision(None, None)
    classes = np.array(evaluation.params.catIds)[present].tolist()
    by_class = dict(zip(classes, precision[0, :, present].mean(axis=1).tolist(), strict=True))
    everywhere = None if len(evaluation.params.iouThrs) == 1 else float(precision[:, :, present].mean())
    return AveragePrecision(float(precision[0, :, present].mean()), everywhere, by_class)


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
