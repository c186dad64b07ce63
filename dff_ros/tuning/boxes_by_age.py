"""AP of any choice of answers: every frame's detections at every age are matched once, and summed up for the ages that a schedule gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dff_ros.evaluation.average_precision import ScoredFrame, match_boxes, sum_up


class BoxesByAge:
    """Matched detections of a recording; pycocotools does the matching and the sums."""

    def __init__(self, rows: Sequence[Sequence[ScoredFrame]]) -> None:
        """``rows`` are by frame and then by age; a frame has as many ages as frames came before it, and none where no truth covers it."""
        self._ages = [len(row) for row in rows]
        self._firsts = np.cumsum([0, *self._ages])
        self._matched = match_boxes([frame for row in rows for frame in row], only_half=True) if any(self._ages) else None

    def map50(self, frames: NDArray[np.intp], ages: NDArray[np.intp]) -> float | None:
        """AP at IoU .5 of ``frames`` answered at ``ages``, or at the oldest measured; None where there is no box to find."""
        chosen = [
            int(self._firsts[frame]) + min(int(age), self._ages[frame] - 1)
            for frame, age in zip(frames, ages, strict=True)
            if self._ages[frame]
        ]
        if self._matched is None or not chosen:
            return None
        images, classes = int(self._firsts[-1]), len(self._matched.params.catIds)
        part = copy.copy(self._matched)
        part.params = copy.copy(self._matched.params)
        part.params.imgIds = [image + 1 for image in chosen]  # COCO's images are counted from 1
        part._paramsEval = part.params
        part.evalImgs = [self._matched.evalImgs[label * images + image] for label in range(classes) for image in chosen]
        return sum_up(part).map50
