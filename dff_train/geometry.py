"""3x3 affine matrices acting on points (x, y, 1) in pixels, and boxes moved by them."""

from __future__ import annotations

import math

import numpy as np

from dff_train.source_pairs import Array


def shift(dx: float, dy: float) -> Array:
    """Moves by (dx, dy)."""
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def stretch(x: float, y: float) -> Array:
    """Scales about the corner of the image: continuous coordinates, the image's corner stays at 0."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def mirror(width: float) -> Array:
    """Flips an image of ``width`` horizontally, in continuous coordinates."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def zoom_about(x: float, y: float, zoom: float, degrees: float = 0.0) -> Array:
    """Scales by ``zoom`` and turns by ``degrees`` about the point (x, y)."""
    cosine, sine = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    turned = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(shift(x, y) @ turned @ shift(-x, -y))


def part_of_motion(motion: Array, share: float) -> Array:
    """The ``share`` of a steady motion: this twice at 0.5 is ``motion``. It may turn, zoom and shift, but neither shear nor mirror."""
    turn, way = complex(motion[0, 0], motion[1, 0]), complex(motion[0, 2], motion[1, 2])  # z -> turn z + way
    part = turn**share
    passed = way * share if abs(turn - 1.0) < 1e-9 else way * (part - 1.0) / (turn - 1.0)
    return np.array([[part.real, -part.imag, passed.real], [part.imag, part.real, passed.imag], [0.0, 0.0, 1.0]])


def on_pixel_centres(matrix: Array) -> Array:
    """The 2x3 matrix OpenCV wants: it counts pixel centres as whole numbers, boxes and flow count pixel edges."""
    return np.asarray((shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5))[:2])


def move_boxes(boxes: Array, matrix: Array) -> Array:
    """The upright boxes (K, 4) around boxes moved by ``matrix``."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    x = np.stack([x1, x2, x2, x1], 1)
    y = np.stack([y1, y1, y2, y2], 1)
    new_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    new_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return np.stack([new_x.min(1), new_y.min(1), new_x.max(1), new_y.max(1)], 1).astype(np.float32).reshape(-1, 4)


def area(boxes: Array) -> Array:
    """Areas of (..., 4) boxes; 0 for empty and inverted ones."""
    return np.asarray(np.clip(boxes[..., 2] - boxes[..., 0], 0, None) * np.clip(boxes[..., 3] - boxes[..., 1], 0, None))


def clip_boxes(boxes: Array, region: Array) -> Array:
    """The parts of (K, 4) boxes inside the box ``region`` (4,)."""
    low, high = np.tile(region[:2], 2), np.tile(region[2:], 2)
    return np.asarray(np.clip(boxes, low, high)).astype(np.float32)


def covered_share(boxes: Array, cover: Array) -> Array:
    """Share of each box (K, 4) that the box ``cover`` (4,) hides."""
    return np.asarray(area(clip_boxes(boxes, cover)) / np.maximum(area(boxes), 1e-6))
