"""Pairs made from stills: the motion of a driving camera, and objects cut from other stills that move on their own."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dff_train.components import components, is_single
from dff_train.geometry import part_of_motion, shift, zoom_about
from dff_train.samples import DETECTION_CLASS_OF
from dff_train.source_pairs import UNMOVED, Array, Cutout, Pasted, SourcePair, Truth

SMALLEST_CUTOUT = 400
"""Pixels; smaller objects are not worth pasting."""

MOST_PASTED = 5
"""Objects in a made pair."""

_MARGIN = 3


def make_pair(still: Array, truth: Truth, offset: int, cutouts: Sequence[Cutout], source: str, rng: np.random.Generator) -> SourcePair:
    """A key frame and a frame ``offset`` frames later, both drawn from one still; offset 0 leaves it as it is."""
    if offset == 0:
        return SourcePair(still, still, 0, truth, source, made=True)
    to_image, to_key = camera_motion(still.shape[:2], offset, rng)
    count = int(rng.integers(0, MOST_PASTED + 1)) if cutouts else 0
    chosen = [cutouts[index] for index in rng.integers(0, max(len(cutouts), 1), count)]
    pasted = tuple(place(item, still.shape[:2], to_image, to_key, offset, rng) for item in chosen)
    return SourcePair(still, still, offset, truth, source, made=True, to_image=to_image, to_key=to_key, pasted=pasted)


def camera_motion(size: tuple[int, ...], offset: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Matrices still -> current frame and still -> key frame: one of them leaves the still as it is.

    A car drives towards the vanishing point (zoom), turns (steady shift), pitches and rolls (shift and rotation that do not
    grow with the offset). A quarter of the pairs are of a standing camera. The spread is that of a car at 10 to 15 Hz: one frame
    later half of KITTI's pixels have moved by 2.3 px of 480x360, 5 % by 14 and 1 % by 23 (here 3.9, 13 and 17).
    """
    height, width = size[:2]
    x, y = width * rng.normal(0.5, 0.08), height * rng.normal(0.45, 0.05)
    moving = rng.random() < 0.75
    speed = abs(rng.normal(0.0, 0.03)) * (-1.0 if rng.random() < 0.1 else 1.0) if moving else 0.0
    turn = rng.normal(0.0, 0.012 * width) if moving and rng.random() < 0.4 else rng.normal(0.0, 0.0006 * width)
    jolt = rng.normal(0.0, [0.004 * height, 0.008 * height]) if moving else rng.normal(0.0, 0.0005 * height, 2)
    roll = rng.normal(0.0, 0.5) if moving else 0.0
    forward = shift(turn * offset + jolt[0], jolt[1]) @ zoom_about(x, y, float(np.exp(speed * offset)), roll)
    return (forward, UNMOVED) if rng.random() < 0.5 else (UNMOVED, np.linalg.inv(forward))


def place(cutout: Cutout, size: tuple[int, ...], to_image: Array, to_key: Array, offset: int, rng: np.random.Generator) -> Pasted:
    """Put an object at the height it stood at, anywhere to the side; of three of them one comes into view and one in eight leaves it.

    Each moves on its own: people of PETS walk 2.3 px of 480x360 a frame at 7 Hz, 5 % of them more than 5.
    """
    height, width = size[:2]
    x1, _, x2, y2 = cutout.box
    zoom = float(np.exp(rng.normal(0.0, 0.12)))
    aside = rng.uniform(-0.2 * (x2 - x1), width - 0.8 * (x2 - x1)) - x1
    put = shift(aside, rng.normal(0.0, 0.01 * height)) @ zoom_about((x1 + x2) / 2.0, y2, zoom)
    foot = put @ np.array([(x1 + x2) / 2.0, y2, 1.0])
    steps = rng.normal(0.0, [0.008 * width, 0.003 * height]) * offset
    own = shift(*steps) @ zoom_about(foot[0], foot[1], float(np.exp(rng.normal(0.0, 0.012) * offset)))
    only = rng.random()
    in_image, in_key = to_image @ put, to_key @ own @ put
    if only < 0.125:
        return Pasted(cutout, to_image=None, to_key=in_key, unseen=in_image)
    if only > 0.67:
        return Pasted(cutout, to_image=in_image, to_key=None, unseen=in_key)
    return Pasted(cutout, to_image=in_image, to_key=in_key)


def on_the_way(to_key: Array, to_image: Array, number: int, offset: int) -> Array:
    """The matrix to the frame ``number`` of ``offset`` frames after the key frame, on a steady way from there to the current frame."""
    motion = to_key @ np.linalg.inv(to_image)
    return np.asarray(part_of_motion(motion, (offset - number) / offset) @ to_image)


def objects_between(pair: SourcePair, rng: np.random.Generator) -> list[list[tuple[Pasted, Array | None]]]:
    """For every frame between a made pair's two its pasted objects with their matrices, None where it does not show them.

    What only one of the two shows comes into view, or leaves it, at a random frame on the way.
    """
    numbers = range(1, pair.offset)
    ways = [_way(item, pair.offset, rng) for item in pair.pasted]
    return [[(item, way[number - 1]) for item, way in zip(pair.pasted, ways, strict=True)] for number in numbers]


def _way(item: Pasted, offset: int, rng: np.random.Generator) -> list[Array | None]:
    """Its matrix in every frame between."""
    if item.to_image is not None and item.to_key is not None:
        return [on_the_way(item.to_key, item.to_image, number, offset) for number in range(1, offset)]
    change = int(rng.integers(1, offset + 1))  # the first frame that it is in, or no longer in
    key, image = (item.unseen if end is None else end for end in (item.to_key, item.to_image))
    if key is None or image is None:
        return [None] * (offset - 1)
    comes = item.to_key is None
    return [on_the_way(key, image, number, offset) if (number >= change) == comes else None for number in range(1, offset)]


def cut_objects(still: Array, labels: Array) -> list[Cutout]:
    """The whole single objects of a labelled still: large enough and not cut off by the frame's edge."""
    height, width = labels.shape
    found = []
    for label, detection_class in DETECTION_CLASS_OF.items():
        parts = components(labels == label)
        whole = (parts.boxes[:, :2] > 0).all(1) & (parts.boxes[:, 2] < width) & (parts.boxes[:, 3] < height)
        good = whole & (parts.areas >= SMALLEST_CUTOUT) & is_single(parts, detection_class)
        found += [_cut(still, parts.ids == index + 1, parts.boxes[index], label) for index in np.flatnonzero(good)]
    return found


def _cut(still: Array, mask: Array, box: Array, label: int) -> Cutout:
    x1, y1, x2, y2 = (int(side) for side in box)
    left, top = max(x1 - _MARGIN, 0), max(y1 - _MARGIN, 0)
    window = slice(top, y2 + _MARGIN), slice(left, x2 + _MARGIN)
    alpha = cv2.GaussianBlur(mask[window].astype(np.uint8) * 255, (3, 3), 0)
    return Cutout(still[window].copy(), np.asarray(alpha), (float(x1), float(y1), float(x2), float(y2)), (left, top), label)
