"""Figures without any truth: what a run says, held against what per-frame says of the same frames."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from dff_ros.core.results import Detections
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.average_precision import DetectionScore
from dff_ros.evaluation.metrics import Agreement, Curve, SegmentationScore, curve
from dff_ros.evaluation.truth import ClassBoxes

Key = TypeVar("Key", bound=Hashable)


class AgainstPerFrame:
    """Scores of a run with per-frame's answers in the place of truth, by age.

    Per-frame's detections from ``score_threshold`` on, which are those that would be published, are the boxes to find. Its weaker ones
    neither count nor punish: who finds such an object agrees with per-frame, and who does not agrees too.
    """

    def __init__(self, segmentation_classes: Sequence[str], detection_classes: Sequence[str], *, score_threshold: float) -> None:
        self.segmentation = SegmentationScore(segmentation_classes)
        self.detection = DetectionScore(detection_classes)
        self._classes = len(detection_classes)
        self._threshold = score_threshold
        self._agreement: dict[tuple[int, str | None], Agreement] = {}

    def add(self, result: FrameResult, per_frame: FrameResult, *, age: int, index: int = 0, motion: str | None = None) -> None:
        """Take both answers to one source frame; ``motion`` is the group of motion that it belongs to, where that is known."""
        if result.label_map is not None and per_frame.label_map is not None:
            answer, other = result.label_map.labels, per_frame.label_map.labels
            self.segmentation.add(age, other, answer, motion=motion)
            self._agreement.setdefault((age, motion), Agreement()).add(answer, other)
        if result.detections is not None and per_frame.detections is not None:
            truth = as_truth(per_frame.detections, self._classes, self._threshold)
            self.detection.add(age, truth, result.detections, index=index, motion=motion)

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


def as_truth(detections: Detections, classes: int, score_threshold: float) -> Mapping[int, ClassBoxes]:
    """Detections in the place of truth, for each of so many classes; those below ``score_threshold`` are ignored."""
    boxes, weak = detections.boxes.astype(np.float64), detections.scores < score_threshold
    rows = [detections.labels == label for label in range(classes)]
    return {label: ClassBoxes(boxes[chosen], weak[chosen]) for label, chosen in enumerate(rows)}
