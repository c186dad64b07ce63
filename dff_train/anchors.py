"""Anchor shapes for the detection head, clustered from the boxes it will train on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dff_train.augment import NETWORK_PIXELS, nominal_scale
from dff_train.source_pairs import Array, Source


def cluster_anchors(boxes: Array, count: int, *, seed: int = 0, rounds: int = 100) -> list[tuple[float, float]]:
    """``count`` (width, height) shapes for (K, 4) boxes, smallest first: k-means under 1 - IoU of shapes laid corner on corner."""
    shapes = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], 1).astype(np.float64)
    if len(shapes) < count:
        raise ValueError(f"clustering {count} anchors needs at least as many boxes, got {len(shapes)}")
    rng = np.random.default_rng(seed)
    centres = _spread(shapes, count, rng)
    for _ in range(rounds):
        nearest = shape_iou(shapes, centres).argmax(1)
        moved = np.stack([np.median(shapes[nearest == k], 0) if (nearest == k).any() else centres[k] for k in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return [(float(width), float(height)) for width, height in centres[np.argsort(centres.prod(1))]]


def shape_iou(shapes: Array, centres: Array) -> Array:
    """(K, C) IoU of (K, 2) and (C, 2) width-height pairs that share a corner."""
    common = np.minimum(shapes[:, None], centres[None]).prod(-1)
    return np.asarray(common / (shapes.prod(-1)[:, None] + centres.prod(-1)[None] - common))


def _spread(shapes: Array, count: int, rng: np.random.Generator) -> Array:
    """k-means++: each further start is drawn with probability growing with its distance from those before."""
    centres = shapes[rng.integers(len(shapes))][None]
    while len(centres) < count:
        distance = (1.0 - shape_iou(shapes, centres).max(1)) ** 2
        weights = distance / distance.sum() if distance.sum() > 0 else None
        centres = np.concatenate([centres, shapes[rng.choice(len(shapes), p=weights)][None]])
    return np.asarray(centres)


def nominal_boxes(sources: Iterable[Source], pixels: int = NETWORK_PIXELS) -> Array:
    """All boxes (K, 4) of the sources in network pixels: their frames brought to ``pixels`` pixels."""
    found: list[Array] = [np.zeros((0, 4), np.float32)]
    for source in sources:
        found += [truth.boxes * nominal_scale(*size, pixels) for size, truth in source.truths()]
    return np.concatenate(found)
