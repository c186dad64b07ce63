"""What ground truth is: class ids of pixels and boxes of objects. ``image_truth``, ``box_table`` and ``coco_truth`` read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dff_ros.recording.frames import StampedFrame


class TruthError(ValueError):
    """Ground truth that cannot be read or does not fit, in one line."""


@dataclass(frozen=True)
class ClassBoxes:
    """All objects of one class in one frame.

    ``boxes`` is (N, 4) float64, x1 y1 x2 y2 in source pixels, right and bottom exclusive; ``ignored`` (N,) bool marks those
    that neither count nor punish; ``unknown`` (H, W) bool marks pixels where an answer cannot be called wrong: nobody knows
    what is there, or it belongs to an ignored object. ``ids`` (N,) int64 are the same for the same object through the
    recording; None where nobody knows which is which.
    """

    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None
    ids: NDArray[np.int64] | None = None


class BoxSource(Protocol):
    """Truth for one detection class."""

    class_name: str

    @property
    def identified(self) -> bool:
        """Whether its objects have ids."""

    @property
    def unusable_ids(self) -> str:
        """Why the ids that there are tell no object apart, as a clause; empty where they do, or where there are none."""

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's objects, possibly none; None where the truth does not cover the frame."""


class LabelSource(Protocol):
    """Truth for segmentation."""

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8] | None:
        """(H, W) uint8 class ids of the model, 255 where not scored; None for a frame without labels."""
        ...


@dataclass(frozen=True)
class FrameTruth:
    """What is known about one frame: class ids (or None) and, for each covered detection class, its objects."""

    labels: NDArray[np.uint8] | None
    boxes: Mapping[int, ClassBoxes]


class Truth:
    """All ground truth of a run."""

    def __init__(
        self,
        labels: LabelSource | None,
        boxes: Sequence[BoxSource],
        detection_classes: Sequence[str],
        notes: Sequence[str] = (),
        told: Callable[[], list[str]] = list,
    ) -> None:
        """``told`` says what turned up while the truth was read.

        Raises TruthError where a box source's class is not among the model's ``detection_classes``, or given twice.
        """
        self.labels = labels
        self.notes = notes
        """What a person should know of how the truth was read."""
        self.told = told
        self._boxes: dict[int, BoxSource] = {}
        for source in boxes:
            if source.class_name not in detection_classes:
                known = ", ".join(detection_classes) or "none"
                raise TruthError(f"boxes of {source.class_name!r}: the model's detection classes are {known}")
            index = list(detection_classes).index(source.class_name)
            if index in self._boxes:
                raise TruthError(f"boxes of {source.class_name!r} are given twice")
            self._boxes[index] = source

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.labels is not None or bool(self._boxes)

    @property
    def unusable_ids(self) -> list[str]:
        """The classes whose boxes come with ids that tell no object apart, and why not."""
        return [f"{source.class_name!r}: {source.unusable_ids}" for source in self._boxes.values() if source.unusable_ids]

    @property
    def identified(self) -> bool:
        """Whether some objects have ids."""
        return any(source.identified for source in self._boxes.values())

    def of(self, frame: StampedFrame) -> FrameTruth:
        """The frame's truth; classes that do not cover the frame are absent."""
        found = {index: source.boxes_of(frame) for index, source in self._boxes.items()}
        labels = None if self.labels is None else self.labels.labels_of(frame)
        return FrameTruth(labels, {index: boxes for index, boxes in found.items() if boxes is not None})
