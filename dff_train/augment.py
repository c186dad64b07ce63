"""From a source pair to a training sample: one random crop, scale, flip and look for both frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dff_train.colour import Look, apply_look, flicker, random_look
from dff_train.geometry import area, clip_boxes, covered_share, mirror, move_boxes, shift, stretch
from dff_train.motion import objects_between, on_the_way
from dff_train.render import OUTSIDE, draw_frame, draw_image, given_flow, made_flow, render_labels
from dff_train.samples import DETECTION_CLASS_OF, Sample
from dff_train.source_pairs import Array, SourcePair

NETWORK_PIXELS = 172_800
"""Pixels of the image the networks see, 480x360, where a card says nothing else."""

MOST_HIDDEN = 0.6
"""A box of which pasted objects hide more than this is ignored."""

LEAST_VISIBLE = 0.4
"""A box of which less than this lies in the crop is ignored."""

LEAST_SIDE = 5.0
"""A box with a shorter side than this, in crop pixels, is ignored."""


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied; the defaults are what the bundles were trained with."""

    crop: tuple[int, int] = (240, 320)
    """Height and width of a sample, multiples of 8."""
    scale: tuple[float, float] = (0.57, 2.0)
    aspect: float = 0.08
    """Standard deviation of the log of the width to height change."""
    flip: float = 0.5
    focus: float = 0.6
    """Share of the crops laid around an object or a rare class."""
    look: bool = True
    pixels: int = NETWORK_PIXELS
    """Frames are brought to this many pixels before anything else, as the engine does (480x360)."""
    flow: bool = True
    """Whether flow and visibility are worked out where they are known."""
    between: bool = False
    """Whether the frames between are drawn too (1 ms each), for models that chain flow."""

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or any(side <= 0 or side % 8 for side in self.crop):
            raise ValueError(f"crop should be a height and a width that are multiples of 8, got {self.crop}")


def nominal_scale(height: int, width: int, pixels: int = NETWORK_PIXELS) -> float:
    """What a source frame is multiplied by so that it has as many pixels as the network takes."""
    return math.sqrt(pixels / (height * width))


def augment(pair: SourcePair, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """A random view of ``pair``; the same geometry for all frames, noise and exposure of their own."""
    crop = random_crop(pair, settings, rng)
    look = key_look = random_look(rng) if settings.look else None
    drawn, layers = draw_frame(pair.image, pair.to_image, [(item, item.to_image) for item in pair.pasted], crop, settings.crop)
    image = _to_tensor(drawn, look, rng)
    key_image, key_layers = image, layers
    if pair.offset > 0:
        drawn, key_layers = draw_frame(pair.key_image, pair.to_key, [(item, item.to_key) for item in pair.pasted], crop, settings.crop)
        key_look = replace(look, matrix=flicker(look.matrix, rng)) if look else None
        key_image = _to_tensor(drawn, key_look, rng)
    boxes, box_labels, ignored = crop_boxes(pair, crop, settings.crop)
    flow, visible = _flow(pair, layers, key_layers, crop) if settings.flow else (None, None)
    return Sample(
        key_image=key_image,
        image=image,
        offset=pair.offset,
        labels=torch.from_numpy(render_labels(pair, layers, crop)),
        boxes=torch.from_numpy(boxes),
        box_labels=torch.from_numpy(box_labels),
        ignore_boxes=torch.from_numpy(ignored),
        labelled_classes=torch.tensor(pair.truth.labelled_classes),
        source=pair.source,
        flow=flow,
        visible=visible,
        # The last to draw on chance, so that all else is the same whether they are wanted or not.
        between=_between(pair, crop, settings.crop, look, key_look, rng) if settings.between else None,
    )


def _between(
    pair: SourcePair, crop: Array, size: tuple[int, int], look: Look | None, key_look: Look | None, rng: np.random.Generator
) -> Tensor | None:
    """The frames between (B, 3, h, w), their exposure going from the key frame's to the current one's; None where they are not known."""
    if pair.made:
        objects = objects_between(pair, rng)
        ways = [on_the_way(pair.to_key, pair.to_image, number, pair.offset) for number in range(1, pair.offset)]
        drawn = [draw_image(pair.image, way, pasted, crop, size) for way, pasted in zip(ways, objects, strict=True)]
    elif pair.between is not None:
        drawn = [draw_image(frame, pair.to_image, (), crop, size) for frame in pair.between]
    else:
        return None
    frames = torch.empty(len(drawn), 3, *size, dtype=torch.uint8)
    for number, image in enumerate(drawn, 1):
        share = number / (len(drawn) + 1)
        matrix = key_look.matrix + share * (look.matrix - key_look.matrix) if look and key_look else None
        frames[number - 1] = _to_tensor(image, replace(look, matrix=matrix) if look and matrix is not None else None, rng)
    return frames


def _to_tensor(image: Array, look: Look | None, rng: np.random.Generator) -> Tensor:
    changed = apply_look(image, look, rng) if look else image
    return torch.from_numpy(np.ascontiguousarray(changed.transpose(2, 0, 1)))


def _flow(pair: SourcePair, layers: Array, key_layers: Array, crop: Array) -> tuple[Tensor | None, Tensor | None]:
    """Flow (2, h, w) and visibility (h, w), None where the source does not know them."""
    if pair.offset == 0:
        flow, visible = np.zeros((*layers.shape, 2), np.float32), layers != OUTSIDE
    elif pair.made:
        flow, visible = made_flow(pair, layers, key_layers, crop)
    elif pair.flow is not None and pair.visible is not None:
        flow, visible = given_flow(pair.flow, pair.visible, layers, key_layers, crop)
    else:
        return None, None
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1))), torch.from_numpy(visible)


def random_crop(pair: SourcePair, settings: Augmentation, rng: np.random.Generator) -> Array:
    """The 3x3 matrix from the source's pixels to the crop's: nominal scale, jitter, window, flip."""
    height, width = pair.image.shape[:2]
    jitter = math.exp(rng.uniform(*np.log(settings.scale)))
    change = math.exp(rng.normal(0.0, settings.aspect) / 2.0)
    scale = nominal_scale(height, width, settings.pixels) * jitter
    scale_x, scale_y = scale * change, scale / change
    focus = _focus(pair, rng) if rng.random() < settings.focus else None
    top = _window(height * scale_y, settings.crop[0], None if focus is None else focus[1] * scale_y, rng)
    left = _window(width * scale_x, settings.crop[1], None if focus is None else focus[0] * scale_x, rng)
    matrix = shift(-left, -top) @ stretch(scale_x, scale_y)
    return np.asarray(mirror(settings.crop[1]) @ matrix if rng.random() < settings.flip else matrix)


def _window(length: float, crop: int, focus: float | None, rng: np.random.Generator) -> float:
    """Where a window of ``crop`` begins on an axis of ``length``; a shorter axis lies anywhere inside the window."""
    low, high = min(0.0, length - crop), max(0.0, length - crop)
    if focus is None or length <= crop:
        return float(rng.uniform(low, high))
    return float(np.clip(focus - crop * rng.uniform(0.15, 0.85), low, high))


def _focus(pair: SourcePair, rng: np.random.Generator) -> Array | None:
    """A point worth having in the crop, in the source's pixels: a box's centre or a pixel of a rare class."""
    boxes, points = pair.truth.boxes, pair.truth.points
    if not len(boxes) and not len(points):
        return None
    if len(points) and (not len(boxes) or rng.random() < 0.5):
        point = points[rng.integers(len(points))]
    else:
        box = boxes[rng.integers(len(boxes))]
        point = (box[:2] + box[2:]) / 2.0
    return np.asarray((pair.to_image @ np.array([point[0], point[1], 1.0]))[:2])


def crop_boxes(pair: SourcePair, crop: Array, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Boxes (G, 4), classes (G,) and ignore boxes (I, 4) of the current frame in the pixels of a crop of ``size`` (h, w)."""
    matrix = crop @ pair.to_image
    boxes, box_labels, hidden = _moved_boxes(pair, crop, matrix)
    content = _content(pair, matrix, size)
    seen = clip_boxes(boxes, content)
    share = area(seen) / np.maximum(area(boxes), 1e-6)
    sides = np.minimum(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1])
    clear = (share >= LEAST_VISIBLE) & (hidden <= MOST_HIDDEN) & (sides >= LEAST_SIDE)
    unclear = np.concatenate([clip_boxes(move_boxes(pair.truth.ignore_boxes, matrix), content), seen[~clear]])
    return seen[clear], box_labels[clear], np.concatenate([unclear[area(unclear) > 0], _padding(content, size)])


def _moved_boxes(pair: SourcePair, crop: Array, matrix: Array) -> tuple[Array, Array, Array]:
    """All boxes (K, 4) of the current frame, the pasted objects' among them, their classes and the share that is pasted over."""
    boxes, box_labels, hidden = move_boxes(pair.truth.boxes, matrix), pair.truth.box_labels, np.zeros(len(pair.truth.boxes))
    for item in pair.pasted:
        if item.to_image is not None:
            box = move_boxes(np.array([item.cutout.box]), crop @ item.to_image)
            hidden = np.append(np.maximum(hidden, covered_share(boxes, box[0])), 0.0)
            boxes = np.concatenate([boxes, box])
            box_labels = np.append(box_labels, DETECTION_CLASS_OF[item.cutout.label])
    return boxes, box_labels, hidden


def _content(pair: SourcePair, matrix: Array, size: tuple[int, int]) -> Array:
    """The box (4,) of the crop that the source frame fills."""
    height, width = pair.image.shape[:2]
    frame = move_boxes(np.array([[0.0, 0.0, width, height]]), matrix)
    return np.asarray(clip_boxes(frame, np.array([0.0, 0.0, size[1], size[0]]))[0])


def _padding(content: Array, size: tuple[int, int]) -> Array:
    """The padded strips around the content as boxes (K, 4)."""
    height, width = size
    x1, y1, x2, y2 = content
    strips = np.array([[0, 0, width, y1], [0, y2, width, height], [0, y1, x1, y2], [x2, y1, width, y2]], np.float32)
    return np.asarray(strips[area(strips) > 0])
