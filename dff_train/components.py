"""Boxes from label maps: connected components as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from dff_train.source_pairs import Array, no_boxes

SMALLEST_OBJECT = 100
"""Pixels below which a component is ignored rather than an object."""

WIDEST: Mapping[int, float] = {0: 0.95, 1: 3.2, 2: 1.4}
"""Width to height of a detection class above which a component is taken for several objects that touch."""


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


def aspect(boxes: Array) -> Array:
    """Width to height of (K, 4) boxes."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))


def boxes_of_labels(labels: Array, classes: Mapping[int, int]) -> tuple[Array, Array, Array]:
    """Boxes (G, 4), their detection classes (G,) and ignore boxes (I, 4) of a label map.

    ``classes`` maps a label to its detection class. Too small components, and those so wide that they must be a group,
    are ignore boxes: they are objects, but their box is not the box of one object.
    """
    boxes, box_labels, ignored = [no_boxes()], [np.zeros(0, np.int64)], [no_boxes()]
    for label, detection_class in classes.items():
        found = components(labels == label)
        single = (found.areas >= SMALLEST_OBJECT) & (aspect(found.boxes) <= WIDEST[detection_class])
        boxes.append(found.boxes[single])
        box_labels.append(np.full(int(single.sum()), detection_class, np.int64))
        ignored.append(found.boxes[~single])
    return np.concatenate(boxes), np.concatenate(box_labels), np.concatenate(ignored)
