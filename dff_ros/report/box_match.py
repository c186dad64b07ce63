"""Which boxes of two answers belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]
"""(N, 4) x1 y1 x2 y2, in pixels."""

OVERLAP = 0.5
"""Intersection over union from which two boxes of a class are the same object."""


def unmatched(
    one: Boxes, classes: NDArray[np.int64] | None, other: Boxes, other_classes: NDArray[np.int64] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) and (M,): which boxes of each answer have none of their class in the other; each is taken once, by falling overlap.

    Without classes all boxes are of one.
    """
    shared = box_iou(one, other)
    if classes is not None and other_classes is not None:
        shared = shared * (classes[:, None] == other_classes[None])
    alone = np.ones(len(one), bool), np.ones(len(other), bool)
    while shared.size and shared.max() >= OVERLAP:
        row, column = np.unravel_index(int(shared.argmax()), shared.shape)
        alone[0][row] = alone[1][column] = False
        shared[row], shared[:, column] = 0, 0
    return alone


def box_iou(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    upper, lower = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = np.prod((lower - upper).clip(0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner), where=union > 0), np.float64)


def f1(hits: int, only_one: int, only_other: int) -> float:
    """Harmonic mean of precision and recall; 1 where neither answer has a box."""
    total = 2 * hits + only_one + only_other
    return 2 * hits / total if total else 1.0
