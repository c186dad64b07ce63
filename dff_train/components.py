"""Boxes from label maps: connected components as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from dff_train.samples import SEGMENTATION_CLASSES
from dff_train.source_pairs import Array, no_boxes

SMALLEST_OBJECT = 100
"""Pixels below which a component is ignored rather than an object."""

WIDEST: Mapping[int, float] = {0: 0.95, 1: 3.2, 2: 1.4}
"""Width to height of a detection class above which a component is taken for several objects that touch."""

LEAST_FILLED: Mapping[int, float] = {0: 0.35, 1: 0.58, 2: 0.35}
"""Share of its box that a component fills, below which it is taken for several objects, or the rest of a hidden one."""

RARE_CLASSES = tuple(SEGMENTATION_CLASSES.index(name) for name in ("pole", "sign", "fence", "pedestrian", "bicyclist"))
_POINTS_PER_CLASS = 16


@dataclass(frozen=True)
class Components:
    """The connected components of one class in one label map."""

    ids: Array
    """(H, W) int32, 0 = none."""
    boxes: Array
    """(K, 4) float32 x1 y1 x2 y2; row k belongs to id k + 1."""
    areas: Array
    """(K,) pixels."""


def components(mask: Array) -> Components:
    """8-connected components of a (H, W) bool mask."""
    _, ids, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top, width, height, areas = statistics[1:].T
    boxes = np.stack([left, top, left + width, top + height], 1).astype(np.float32)
    return Components(ids, boxes, areas)


def is_single(found: Components, detection_class: int) -> Array:
    """(K,) bool: components whose shape is that of one object of this class."""
    width, height = found.boxes[:, 2] - found.boxes[:, 0], found.boxes[:, 3] - found.boxes[:, 1]
    filled = found.areas >= LEAST_FILLED[detection_class] * width * height
    return np.asarray((width <= WIDEST[detection_class] * height) & filled)


def boxes_of_labels(labels: Array, classes: Mapping[int, int]) -> tuple[Array, Array, Array]:
    """Boxes (G, 4), their detection classes (G,) and ignore boxes (I, 4) of a label map.

    ``classes`` maps a label to its detection class. Too small components, and those whose shape is a group's,
    are ignore boxes: they are objects, but their box is not the box of one object.
    """
    boxes, box_labels, ignored = [no_boxes()], [np.zeros(0, np.int64)], [no_boxes()]
    for label, detection_class in classes.items():
        found = components(labels == label)
        single = (found.areas >= SMALLEST_OBJECT) & is_single(found, detection_class)
        boxes.append(found.boxes[single])
        box_labels.append(np.full(int(single.sum()), detection_class, np.int64))
        ignored.append(found.boxes[~single])
    return np.concatenate(boxes), np.concatenate(box_labels), np.concatenate(ignored)


def rare_points(labels: Array) -> Array:
    """Evenly spread pixels (K, 2) x y of the rare classes that occur."""
    points = [np.zeros((0, 2), np.float32)]
    for label in RARE_CLASSES:
        y, x = np.nonzero(labels == label)
        if len(x):
            chosen = np.linspace(0, len(x) - 1, _POINTS_PER_CLASS).astype(int)
            points.append(np.stack([x[chosen], y[chosen]], 1).astype(np.float32))
    return np.concatenate(points)
