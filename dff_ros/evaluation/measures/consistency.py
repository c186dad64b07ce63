"""Temporal consistency: whether class maps follow the picture, or flicker.

The measure of Liu et al. (Efficient Semantic Video Segmentation with Per-frame Inference, ECCV 2020): the class map of the frame before is
warped by the optical flow between the pictures, and the mIoU of the new one with it is taken. Where the flow is wrong, or something comes
into sight, a perfect answer is inconsistent too, so the figure is to be held against per-frame's with the same flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED, LabelMap
from dff_ros.evaluation.measures.metrics import ConfusionMatrix, mean_or_none
from dff_ros.evaluation.measures.motion import Motion


class TemporalConsistency:
    """Of one way of running, over all pairs of consecutive frames; class maps are compared at the flow's size."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._matrix = ConfusionMatrix(len(class_names))
        self._before: NDArray[np.uint8] | None = None

    def add(self, label_map: LabelMap | None, motion: Motion | None) -> None:
        """Take the next frame's class map (None: it has none) and the motion from the frame before (None: it cannot be told)."""
        labels, before = None if label_map is None else label_map.labels, self._before
        if labels is None or motion is None:
            self._before = None if labels is None else labels
            return
        now = _at_size_of(labels, motion.flow)
        if before is not None:
            self._matrix.add(warped(_at_size_of(before, motion.flow), motion.flow), now)
        self._before = now

    @property
    def miou(self) -> float | None:
        """Mean IoU of class maps with those before them, over the classes that occur; None where nothing was compared."""
        return mean_or_none(self._matrix.iou())

    @property
    def iou(self) -> dict[str, float | None]:
        """The same by class name."""
        return dict(zip(self._names, self._matrix.iou(), strict=True))

    @property
    def flicker(self) -> float | None:
        """The share of pixels whose class is another than that of where they come from; None where nothing was compared."""
        total = int(self._matrix.counts.sum())
        return 1.0 - int(np.diagonal(self._matrix.counts).sum()) / total if total else None


def warped(labels: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class ids (h, w) where ``flow`` (h, w, 2), (dx, dy) from the new frame back to theirs, says that they come from; 255 out of view."""
    height, width = labels.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": UNLABELLED}
    moved = cv2.remap(labels, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_NEAREST, **border)  # type: ignore[call-overload]
    return np.asarray(moved, np.uint8)


def _at_size_of(labels: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    size = (flow.shape[1], flow.shape[0])
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
