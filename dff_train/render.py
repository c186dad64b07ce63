"""Draws the frames of a source pair through one geometric transform, with labels, flow and visibility.

Every image is resampled once: what the source did to it (motion, pasting) and the crop are one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dff_train.geometry import move_boxes, on_pixel_centres, shift
from dff_train.samples import IGNORED_LABEL
from dff_train.source_pairs import Array, Pasted, SourcePair

PADDING_COLOUR = (124, 117, 104)
"""The mean colour of ImageNet, RGB: it becomes about 0 in the network."""

OUTSIDE = 255
"""Layer of a pixel outside the source frame; 0 is the frame itself, 1... the pasted objects."""


def render_image(frame: Array, matrix: Array, size: tuple[int, int]) -> Array:
    """A frame (H, W, 3) moved by ``matrix`` into an image of ``size`` (h, w), padded with PADDING_COLOUR."""
    drawn = cv2.warpAffine(
        frame, on_pixel_centres(matrix), size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=PADDING_COLOUR
    )
    return np.asarray(drawn)


def render_map(values: Array, matrix: Array, size: tuple[int, int], outside: int = 0) -> Array:
    """As :func:`render_image` for a map (H, W) or (H, W, 2) whose values must not be mixed: nearest neighbour."""
    drawn = cv2.warpAffine(
        values,
        on_pixel_centres(matrix),
        size[::-1],
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside,) * 4,
    )
    return np.asarray(drawn)


def render_layers(frame_size: tuple[int, int], matrix: Array, size: tuple[int, int]) -> Array:
    """(h, w) uint8: 0 where the frame lies, OUTSIDE elsewhere."""
    return render_map(np.zeros(frame_size, np.uint8), matrix, size, OUTSIDE)


def paste(image: Array, pasted: Pasted, matrix: Array) -> tuple[slice, slice, Array] | None:
    """Blend a cutout into ``image`` in place; ``matrix`` takes its still's pixels to the image's.

    Returns the rows, the columns and the (rows, columns) bool mask it now covers; None where it lies outside.
    """
    cutout = pasted.cutout
    to_image = matrix @ shift(*cutout.corner)
    reached = move_boxes(np.array([[0, 0, *cutout.alpha.shape[::-1]]]), to_image)[0]
    left, top = (int(side) for side in np.maximum(np.floor(reached[:2]), 0))
    right, bottom = (int(side) for side in np.minimum(np.ceil(reached[2:]), (image.shape[1], image.shape[0])))
    if right <= left or bottom <= top:
        return None
    local = on_pixel_centres(shift(-left, -top) @ to_image)
    size = (right - left, bottom - top)
    patch = cv2.warpAffine(cutout.patch, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(cutout.alpha, local, size, flags=cv2.INTER_LINEAR)
    target = image[top:bottom, left:right]
    share = alpha[..., None].astype(np.uint16)
    target[:] = (target * (255 - share) + patch * share + 127) // 255
    return slice(top, bottom), slice(left, right), alpha >= 128


def draw_frame(
    frame: Array, to_frame: Array, pasted: Sequence[tuple[Pasted, Array | None]], crop: Array, size: tuple[int, int]
) -> tuple[Array, Array]:
    """The image (h, w, 3) and layers (h, w) of one frame with its pasted objects, each moved by its matrix and the crop."""
    matrix = crop @ to_frame
    image, layers = render_image(frame, matrix, size), render_layers(frame.shape[:2], matrix, size)
    for number, (item, to_this) in enumerate(pasted, 1):
        if to_this is None:
            continue
        drawn = paste(image, item, crop @ to_this)
        if drawn is not None:
            rows, columns, mask = drawn
            layers[rows, columns][mask] = number
    return image, layers


def draw_image(
    frame: Array, to_frame: Array, pasted: Sequence[tuple[Pasted, Array | None]], crop: Array, size: tuple[int, int]
) -> Array:
    """The image (h, w, 3) of :func:`draw_frame` alone, in half the time."""
    image = render_image(frame, crop @ to_frame, size)
    for item, to_this in pasted:
        if to_this is not None:
            paste(image, item, crop @ to_this)
    return image


def render_labels(pair: SourcePair, layers: Array, crop: Array) -> Array:
    """(h, w) uint8 labels of the current frame, the pasted objects' among them."""
    size = layers.shape
    if pair.truth.labels is None:
        return np.full(size, IGNORED_LABEL, np.uint8)
    labels = render_map(pair.truth.labels, crop @ pair.to_image, size, IGNORED_LABEL)
    for number, item in enumerate(pair.pasted, 1):
        labels[layers == number] = item.cutout.label
    return labels


def made_flow(pair: SourcePair, layers: Array, key_layers: Array, crop: Array) -> tuple[Array, Array]:
    """Exact flow (h, w, 2) and visibility (h, w) of a pair made from a still: one affine motion per layer."""
    size = layers.shape
    flow = _affine_flow(crop @ pair.to_image, crop @ pair.to_key, slice(0, size[0]), slice(0, size[1]))
    hidden = np.zeros(size, bool)
    for number, item in enumerate(pair.pasted, 1):
        covered = layers == number
        if item.to_image is None or not covered.any():
            continue
        if item.to_key is None:
            hidden |= covered
            continue
        rows, columns = _extent(covered)
        own = _affine_flow(crop @ item.to_image, crop @ item.to_key, rows, columns)
        flow[rows, columns][covered[rows, columns]] = own[covered[rows, columns]]
    return flow, _same_layer(layers, key_layers, flow) & ~hidden


def _extent(mask: Array) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _affine_flow(to_image: Array, to_key: Array, rows: slice, columns: slice) -> Array:
    """Motion from the current frame to the key frame at the pixel centres of a region."""
    change = to_key @ np.linalg.inv(to_image) - np.eye(3)
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5)
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5))[:, None]
    flow = np.empty((rows.stop - rows.start, columns.stop - columns.start, 2), np.float32)
    for axis in (0, 1):
        along_x, along_y, constant = change[axis].astype(np.float32)
        flow[..., axis] = along_x * x + (along_y * y + constant)
    return flow


def _same_layer(layers: Array, key_layers: Array, flow: Array) -> Array:
    """Whether the point the flow leads to lies in the key frame and belongs to the layer it started from."""
    height, width = layers.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += flow[..., 0]
    y += flow[..., 1]
    reached = cv2.remap(key_layers, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(OUTSIDE,) * 4)
    return np.asarray((reached == layers) & (layers != OUTSIDE))


def given_flow(flow: Array, visible: Array, layers: Array, key_layers: Array, crop: Array) -> tuple[Array, Array]:
    """The source's own flow and visibility seen through the crop; not visible where the crop cuts the key frame off."""
    size = layers.shape
    moved = render_map(flow, crop, size) @ crop[:2, :2].T.astype(np.float32)
    seen = render_map(visible.astype(np.uint8), crop, size).astype(bool)
    return moved, seen & _same_layer(layers, key_layers, moved)
