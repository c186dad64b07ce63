"""AP of any choice of answers: every frame's detections at every age are matched once, and summed up for the ages that a schedule gives."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dff_ros.evaluation.measures.average_precision import AveragePrecision, ScoredFrame, match_boxes, sum_up


class BoxesByAge:
    """Matched detections of a recording; pycocotools does the matching and the sums."""

    def __init__(self, rows: Sequence[Sequence[ScoredFrame]]) -> None:
        """``rows`` are by frame and then by age; a frame has as many ages as frames came before it, and none where no truth covers it."""
        self._ages = [len(row) for row in rows]
        self._firsts = np.cumsum([0, *self._ages])
        self._matched = match_boxes([frame for row in rows for frame in row], only_half=True) if any(self._ages) else None

    def precision(self, frames: NDArray[np.intp], ages: NDArray[np.intp]) -> AgreedBoxes:
        """AP at IoU .5 of ``frames`` answered at ``ages``, or at the oldest measured."""
        chosen = [
            int(self._firsts[frame]) + min(int(age), self._ages[frame] - 1)
            for frame, age in zip(frames, ages, strict=True)
            if self._ages[frame]
        ]
        if self._matched is None or not chosen:
            return AgreedBoxes(None, None)
        images, classes = int(self._firsts[-1]), self._matched.params.catIds
        part = copy.copy(self._matched)
        part.params = copy.copy(self._matched.params)
        part.params.imgIds = [image + 1 for image in chosen]  # COCO's images are counted from 1
        part._paramsEval = part.params
        rows = {label: [self._matched.evalImgs[place * images + image] for image in chosen] for place, label in enumerate(classes)}
        part.evalImgs = [row for label in classes for row in rows[label]]
        boxes = {int(label): sum(int((row["gtIgnore"] == 0).sum()) for row in rows[label] if row) for label in classes}
        return agreed(sum_up(part), boxes)


@dataclass(frozen=True)
class AgreedBoxes:
    """AP at IoU .5, None where there is no box to find."""

    map50: float | None
    """The mean over classes."""
    ap50: float | None
    """The mean weighted by the boxes of each class: where per-frame stands in for truth, what it saw once is no half of the loss."""


def agreed(precision: AveragePrecision, boxes: Mapping[int, int]) -> AgreedBoxes:
    """Both means; ``boxes`` are those to find of each class."""
    found = [(value, boxes.get(label, 0)) for label, value in precision.by_class.items()]
    total = sum(count for _, count in found)
    return AgreedBoxes(precision.map50, sum(value * count for value, count in found) / total if total else None)
