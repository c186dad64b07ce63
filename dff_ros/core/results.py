"""What the heads say about one frame, in source pixels, on the host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

UNLABELLED = 255
"""Class id of a pixel that no class claims."""

MINIMUM_SCORE = 0.05
"""Detections below this score are never returned (the scoring rule of COCO-style AP here)."""


class Task(Enum):
    """What a head answers."""

    SEGMENTATION = "segmentation"
    DETECTION = "detection"


ALL_TASKS = frozenset(Task)


@dataclass(frozen=True)
class Detections:
    """Boxes of one frame.

    ``boxes`` is (N, 4) float32, x1 y1 x2 y2 in source pixels, continuous, right and bottom edges exclusive;
    ``scores`` (N,) float32 in 0..1, highest first; ``labels`` (N,) int64, indices into the card's detection classes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"boxes, scores and labels should be (N, 4), (N,) and (N,), "
                f"got {self.boxes.shape}, {self.scores.shape} and {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Those with a score of at least ``threshold``."""
        chosen = self.scores >= threshold
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


@dataclass(frozen=True)
class LabelMap:
    """Class ids of one frame: ``labels`` is (H, W) uint8 at source size, 255 = unlabelled."""

    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class ImageGeometry:
    """How a source frame became a network image: resized, then padded at the right and bottom."""

    source_height: int
    source_width: int
    height: int
    """Rows of the resized content, without padding."""
    width: int
    padded_height: int
    padded_width: int

    @property
    def scale_x(self) -> float:
        """Network pixels per source pixel, horizontally."""
        return self.width / self.source_width

    @property
    def scale_y(self) -> float:
        """Network pixels per source pixel, vertically."""
        return self.height / self.source_height
