"""The truth that a generated drive brings along, in a model's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED
from dff_ros.evaluation.ground_truth.truth import BoxSource, ClassBoxes, LabelSource, TruthError
from dff_ros.recording.drive import BOX_NAMES, CLASS_NAMES, DriveFrame
from dff_ros.recording.frames import StampedFrame


class DriveLabels:
    """Segmentation truth: the drive's classes under their names; what the model has no class for is not scored."""

    def __init__(self, class_names: Sequence[str], ignored: Sequence[int]) -> None:
        """``ignored`` lists the model's ids that are not scored."""
        self._ids = np.full(256, UNLABELLED, np.uint8)
        for drive_id, name in enumerate(CLASS_NAMES):
            if name in class_names and (model_id := list(class_names).index(name)) not in ignored:
                self._ids[drive_id] = model_id

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8]:
        """(H, W) uint8 class ids of the model, 255 where not scored."""
        return self._ids[_drawn(frame).labels]


class DriveBoxes:
    """Boxes and ids of one of the drive's kinds of objects; what is too small or too hidden for a box is ignored."""

    identified = True
    unusable_ids = ""

    def __init__(self, class_name: str) -> None:
        """Raises ValueError for a class that is not among ``BOX_NAMES``."""
        self.class_name = class_name
        self._kind = BOX_NAMES.index(class_name)

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes:
        """The frame's objects, and boxes to ignore around pixels of the class that none of them holds."""
        drawn = _drawn(frame)
        rows = drawn.box_labels == self._kind
        boxes, unboxed = drawn.boxes[rows], drawn.unboxed(self._kind)
        ignored = np.repeat([False, True], [len(boxes), len(unboxed)])
        ids = np.concatenate([drawn.box_ids[rows], np.full(len(unboxed), -1)])
        return ClassBoxes(np.concatenate([boxes, unboxed]).astype(np.float64), ignored, ids=ids)


def drive_truth(
    segmentation_classes: Sequence[str], detection_classes: Sequence[str], ignored: Sequence[int]
) -> tuple[LabelSource | None, list[BoxSource]]:
    """Labels and boxes of a drive for a model's classes; labels are None for a model that shares no class with the drive."""
    labels = DriveLabels(segmentation_classes, ignored) if set(segmentation_classes) & set(CLASS_NAMES) else None
    return labels, [DriveBoxes(name) for name in BOX_NAMES if name in detection_classes]


def _drawn(frame: StampedFrame) -> DriveFrame:
    if not isinstance(frame, DriveFrame):
        raise TruthError(f"frame {frame.index} is not of a generated drive")
    return frame
