"""Figures without any truth: what a run says, held against what per-frame says of the same frames."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import Detections
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.average_precision import DetectionScore
from dff_ros.evaluation.measures.delay import DelayFigures
from dff_ros.evaluation.measures.iou_tracker import IouTracker
from dff_ros.evaluation.measures.metrics import Agreement, Curve, SegmentationScore, curve

Key = TypeVar("Key", bound=Hashable)


class AgainstPerFrame:
    """Scores of a run with per-frame's answers in the place of truth, by age.

    Per-frame's detections from ``score_threshold`` on, which are those that would be published, are the boxes to find. Its weaker ones
    neither count nor punish: who finds such an object agrees with per-frame, and who does not agrees too. A tracker gives them ids.
    """

    def __init__(self, segmentation_classes: Sequence[str], detection_classes: Sequence[str], *, score_threshold: float) -> None:
        self.segmentation = SegmentationScore(segmentation_classes)
        self.detection = DetectionScore(detection_classes)
        self.delay: DelayFigures | None = None
        """Of objects that per-frame sees appear, where every offset ran."""
        self._classes = len(detection_classes)
        self._tracker = IouTracker()
        self._latest: tuple[Detections, Mapping[int, ClassBoxes]] | None = None
        self._threshold = score_threshold
        self._agreement: dict[tuple[int, str | None], Agreement] = {}

    def add(self, result: FrameResult, per_frame: FrameResult, *, age: int, index: int = 0, motion: str | None = None) -> None:
        """Take both answers to one source frame; ``motion`` is the group of motion that it belongs to, where that is known."""
        if result.label_map is not None and per_frame.label_map is not None:
            answer, other = result.label_map.labels, per_frame.label_map.labels
            self.segmentation.add(age, other, answer, motion=motion)
            self._agreement.setdefault((age, motion), Agreement()).add(answer, other)
        if result.detections is not None and per_frame.detections is not None:
            self.detection.add(age, self.truth_of(per_frame.detections), result.detections, index=index, motion=motion)

    def truth_of(self, per_frame: Detections) -> Mapping[int, ClassBoxes]:
        """Per-frame's detections of the next frame in the place of truth, with ids; those of the latest may be asked for again."""
        if self._latest is None or self._latest[0] is not per_frame:
            strong = per_frame.scores >= self._threshold
            ids = np.full(len(per_frame), -1, np.int64)
            ids[strong] = self._tracker.ids_of(per_frame.above(self._threshold))
            self._latest = per_frame, as_truth(per_frame, self._classes, self._threshold, ids)
        return self._latest[1]

    @property
    def agreement(self) -> float | None:
        """The share of pixels whose class equals per-frame's; None where nothing was compared."""
        return sum(self._agreement.values(), Agreement()).share

    def agreement_by_age(self) -> Curve:
        """The same at each age."""
        return curve(shares((age, agreement) for (age, _), agreement in self._agreement.items()))

    def agreement_by_motion(self) -> dict[str, float | None]:
        """The same in each group of motion, all ages together."""
        return shares((motion, agreement) for (_, motion), agreement in self._agreement.items() if motion is not None)


def shares(parts: Iterable[tuple[Key, Agreement]]) -> dict[Key, float | None]:
    """The share of all parts with the same key together."""
    sums: dict[Key, Agreement] = {}
    for key, agreement in parts:
        sums[key] = sums.get(key, Agreement()) + agreement
    return {key: agreement.share for key, agreement in sums.items()}


def as_truth(
    detections: Detections, classes: int, score_threshold: float, ids: NDArray[np.int64] | None = None
) -> Mapping[int, ClassBoxes]:
    """Detections in the place of truth, for each of so many classes; those below ``score_threshold`` are ignored. ``ids`` is (N,)."""
    boxes, weak = detections.boxes.astype(np.float64), detections.scores < score_threshold
    rows = [detections.labels == label for label in range(classes)]
    return {label: ClassBoxes(boxes[chosen], weak[chosen], ids=None if ids is None else ids[chosen]) for label, chosen in enumerate(rows)}
