"""Changes of brightness, colour and sharpness; images are (h, w, 3) uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from dff_train.source_pairs import Array

_NOISE_UNIT = 32.0
_NOISE_SIZE = 1024
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Look:
    """How both frames of a pair look: one camera, one weather."""

    matrix: Array
    """(3, 4): RGB1 -> RGB."""
    blur: float
    """Standard deviation, px; 0 = none."""
    noise: float
    """Standard deviation, grey levels; 0 = none."""
    jpeg: int
    """Quality of a JPEG round trip; 0 = none."""


def random_look(rng: np.random.Generator) -> Look:
    """A random look."""
    matrix = colour_matrix(
        gain=float(np.exp(rng.normal(0.0, 0.12))),
        offset=float(rng.normal(0.0, 8.0)),
        contrast=float(rng.uniform(0.75, 1.25)),
        saturation=float(rng.uniform(0.3, 1.5)),
        hue=float(rng.normal(0.0, 8.0)),
    )
    return Look(
        matrix=matrix,
        blur=float(rng.uniform(0.4, 1.5)) if rng.random() < 0.25 else 0.0,
        noise=float(rng.uniform(1.0, 9.0)) if rng.random() < 0.5 else 0.0,
        jpeg=int(rng.integers(30, 90)) if rng.random() < 0.15 else 0,
    )


def colour_matrix(*, gain: float, offset: float, contrast: float, saturation: float, hue: float) -> Array:
    """(3, 4) matrix RGB1 -> RGB: hue turned by ``hue`` degrees, then saturation, contrast about mid-grey, gain and offset."""
    mixed = saturation * np.eye(3) + (1.0 - saturation) * np.outer(np.ones(3), _GREY)
    linear = gain * contrast * mixed @ _hue_turn(hue)
    constant = gain * (1.0 - contrast) * 127.5 + offset
    return np.concatenate([linear, np.full((3, 1), constant)], 1)


def _hue_turn(degrees: float) -> Array:
    angle = np.radians(degrees)
    axis = np.full(3, 1.0 / np.sqrt(3.0))
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.asarray(np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * np.outer(axis, axis))


def flicker(matrix: Array, rng: np.random.Generator) -> Array:
    """The same look with a slightly different exposure and white balance, as from one frame to a later one."""
    gains = np.exp(rng.normal(0.0, 0.03) + rng.normal(0.0, 0.01, 3))
    return np.asarray(matrix * gains[:, None])


def apply_look(image: Array, look: Look, rng: np.random.Generator) -> Array:
    """The image with this look; noise is drawn anew for every image."""
    changed: Array = cv2.transform(image, look.matrix.astype(np.float32))
    if look.blur:
        changed = cv2.GaussianBlur(changed, (0, 0), look.blur)
    if look.noise:
        changed = cv2.addWeighted(changed, 1.0, _noise(changed.shape[:2], rng), look.noise / _NOISE_UNIT, 0.0, dtype=cv2.CV_8U)
    if look.jpeg:
        _, encoded = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])
        changed = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    return changed


@cache
def _noise_field(side: int) -> Array:
    """Normal noise (side, side, 3) int8, drawn once: drawing 230 000 numbers costs 2.5 ms, cutting a random window none."""
    drawn = np.random.default_rng(0).normal(0.0, _NOISE_UNIT, (side, side, 3))
    return np.clip(drawn, -127, 127).astype(np.int8)


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Array:
    """(h, w, 3) int8 normal noise of standard deviation _NOISE_UNIT."""
    field = _noise_field(max(_NOISE_SIZE, max(size) + 64))
    top, left = (int(rng.integers(0, len(field) - length + 1)) for length in size)
    return field[top : top + size[0], left : left + size[1]]
