"""What answers are worth by the truth of their frames."""

from __future__ import annotations

from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth
from dff_ros.evaluation.measures.average_precision import DetectionScore
from dff_ros.evaluation.measures.metrics import SegmentationScore


class Scores:
    """mIoU and AP of a run, by age."""

    def __init__(self, segmentation_classes: tuple[str, ...], detection_classes: tuple[str, ...]) -> None:
        self.segmentation = SegmentationScore(segmentation_classes)
        self.detection = DetectionScore(detection_classes)

    def score(self, result: FrameResult, truth: FrameTruth, *, age: int, index: int = 0, motion: str | None = None) -> None:
        """File the answer to one source frame under ``age`` and ``motion``, scored by the truth; what is unknown is left out."""
        if truth.labels is not None and result.label_map is not None:
            self.segmentation.add(age, truth.labels, result.label_map.labels, motion=motion)
        if truth.boxes and result.detections is not None:
            self.detection.add(age, truth.boxes, result.detections, index=index, motion=motion)
