"""Cut-outs of the generated drive: people, cars, bicyclists, trees, poles and signs, drawn on a transparent ground.

Each function returns RGBA uint8 (colours multiplied by alpha), row 0 at the top, filling its picture from edge to edge.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from dff_ros.recording.drive_art import Colour, Generator, Rgba, noise, pick, shade, vivid

DETAIL = 80
"""Texels per metre of people and cars."""

_FINE = 4
"""Bits below a texel in coordinates given to cv2's drawing functions."""


class _Sketch:
    """A transparent picture drawn in metres, y up from the ground."""

    def __init__(self, width: float, height: float, detail: int = DETAIL) -> None:
        self.detail = detail
        self.rgba = np.zeros((max(2, round(height * detail)), max(2, round(width * detail)), 4), np.uint8)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        corners = np.array([self._place(*point) for point in points], np.int32)
        cv2.fillPoly(self.rgba, [corners], (*colour, 255), cv2.LINE_AA, _FINE)

    def outline(self, middle: float, half: list[tuple[float, float]], colour: Colour) -> None:
        """A symmetrical shape: the (distance from the middle, y) of its right side, from below."""
        left = [(middle - across, y) for across, y in reversed(half)]
        self.polygon([(middle + across, y) for across, y in half] + left, colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def ellipse(self, x: float, y: float, across: float, up: float, colour: Colour) -> None:
        axes = (round(across * self.detail * 16), round(up * self.detail * 16))
        cv2.ellipse(self.rgba, self._place(x, y), axes, 0, 0, 360, (*colour, 255), -1, cv2.LINE_AA, _FINE)

    def limb(self, points: list[tuple[float, float]], thickness: float, colour: Colour) -> None:
        corners = np.array([self._place(*point) for point in points], np.int32)
        width = max(1, round(thickness * self.detail))
        cv2.polylines(self.rgba, [corners], False, (*colour, 255), width, cv2.LINE_AA, _FINE)

    def _place(self, x: float, y: float) -> tuple[int, int]:
        scale = self.detail * 16
        return round(x * scale) - 8, round((self.rgba.shape[0] / self.detail - y) * scale) - 8

    def finish(self, rng: Generator, grain: float = 6.0) -> Rgba:
        """Add cloth and paint texture, light from above, and multiply by alpha (cv2 already blends edges with black)."""
        shape = self.rgba.shape[:2]
        light = np.linspace(1.12, 0.88, shape[0], dtype=np.float32)[:, None]
        rough = grain * (0.7 * noise(rng, (shape[0], shape[1]), 3) + noise(rng, (shape[0], shape[1]), 9))
        opacity = self.rgba[..., 3:].astype(np.float32) / 255
        rgb = self.rgba[..., :3] * light[..., None] + rough[..., None] * opacity
        self.rgba[..., :3] = np.clip(rgb, 0, 255 * opacity)
        return self.rgba


def _skin(rng: Generator) -> Colour:
    return shade((225, 175, 145), rng.uniform(0.4, 1.1))


def person(rng: Generator, width: float, height: float) -> Rgba:
    """Somebody walking, standing or carrying a bag; ``width`` and ``height`` in metres."""
    sketch = _Sketch(width, height)
    middle, stride, skin = width / 2, rng.uniform(0.02, 0.5) * width, _skin(rng)
    coat, trousers, shoes = vivid(rng), shade(vivid(rng), 0.7), pick(rng, (15, 15, 15), (80, 60, 50))
    hip, shoulder, long_coat = 0.5 * height, 0.82 * height, rng.random() < 0.3
    leg, half = 0.085 * height, 0.125 * height
    for side, tone in ((-1, 0.8), (1, 1.0)):
        foot = middle + side * (stride / 2 + 0.1 * width)
        knee = (middle + foot) / 2 + 0.03 * width
        sketch.limb([(middle + side * 0.04 * height, hip), (knee, 0.27 * height), (foot, 0.05 * height)], leg, shade(trousers, tone))
        sketch.ellipse(foot + 0.02, 0.025 * height, 0.055 * height, 0.025 * height, shoes)
    swing = rng.uniform(0.0, 0.25) * width
    for side, tone in ((-1, 0.75), (1, 0.9)):
        hand = (middle + side * (half + swing * 0.5), 0.47 * height)
        arm = [(middle + side * 0.9 * half, 0.78 * height), (middle + side * half * 1.2, 0.62 * height), hand]
        sketch.limb(arm, 0.06 * height, shade(coat, tone))
        sketch.ellipse(*hand, 0.025 * height, 0.028 * height, skin)
    hem = (0.32 if long_coat else 0.46) * height
    sketch.outline(middle, [(half, hem), (half, 0.78 * height), (0.6 * half, shoulder + 0.02 * height)], coat)
    sketch.limb([(middle, shoulder), (middle, 0.87 * height)], 0.05 * height, skin)
    sketch.ellipse(middle, 0.925 * height, 0.055 * height, 0.07 * height, shade((90, 65, 45), rng.uniform(0.2, 1.6)))
    if rng.random() < 0.6:
        sketch.ellipse(middle + 0.01 * height, 0.91 * height, 0.042 * height, 0.052 * height, skin)
    if rng.random() < 0.35:
        at = middle + rng.choice([-1.0, 1.0]) * half * 1.2
        sketch.box(at - 0.09, 0.33 * height, at + 0.09, 0.5 * height, vivid(rng))
    return sketch.finish(rng)


def bicyclist(rng: Generator, width: float, height: float) -> Rgba:
    """A rider on a bicycle: from the side where ``width`` exceeds a metre, else from behind."""
    return (_rider_from_side if width > 1 else _rider_from_behind)(rng, width, height)


def _rider_from_side(rng: Generator, width: float, height: float) -> Rgba:
    sketch = _Sketch(width, height)
    frame, coat, trousers, skin = vivid(rng), vivid(rng), shade(vivid(rng), 0.6), _skin(rng)
    radius, back, front = 0.33, 0.36, width - 0.36
    for hub in (back, front):
        circle = np.linspace(0, 2 * np.pi, 33)
        sketch.limb([(hub + radius * np.cos(angle), radius + 0.02 + radius * np.sin(angle)) for angle in circle], 0.045, (25, 25, 28))
    pedal, saddle, bar = (width / 2 - 0.05, 0.32), (back + 0.3, 0.9), (front - 0.18, 1.0)
    sketch.limb([(back, radius), pedal, saddle, (back, radius)], 0.04, frame)
    sketch.limb([pedal, (front - 0.15, 0.82), saddle], 0.04, frame)
    sketch.limb([(front, radius), (front - 0.15, 0.82), bar], 0.04, frame)
    for shift, tone in ((0.14, 0.75), (0.0, 1.0)):
        sketch.limb([saddle, (pedal[0] + 0.2, 0.68 + shift), (pedal[0] + shift, 0.26 + shift)], 0.13, shade(trousers, tone))
    neck = (saddle[0] + 0.38, height - 0.32)
    sketch.limb([(saddle[0], saddle[1] + 0.08), neck], 0.28, coat)
    sketch.limb([neck, (bar[0] - 0.12, 1.12), bar], 0.09, shade(coat, 0.85))
    sketch.ellipse(neck[0] + 0.08, height - 0.15, 0.1, 0.12, skin)
    sketch.ellipse(neck[0] + 0.06, height - 0.09, 0.12, 0.08, vivid(rng))
    return sketch.finish(rng)


def _rider_from_behind(rng: Generator, width: float, height: float) -> Rgba:
    sketch = _Sketch(width, height)
    middle, coat, trousers = width / 2, vivid(rng), shade(vivid(rng), 0.6)
    sketch.box(middle - 0.03, 0.0, middle + 0.03, 0.68, (25, 25, 28))
    sketch.limb([(0.08, 1.02), (width - 0.08, 1.02)], 0.05, (40, 40, 45))
    for side, low in ((-1, 0.2), (1, 0.38)):
        sketch.limb([(middle + side * 0.1, 0.9), (middle + side * 0.15, 0.6), (middle + side * 0.11, low)], 0.14, trousers)
        sketch.limb([(middle + side * 0.18, height - 0.36), (middle + side * (width / 2 - 0.08), 1.04)], 0.1, shade(coat, 0.8))
    sketch.outline(middle, [(0.19, 0.85), (0.22, height - 0.3)], coat)
    sketch.ellipse(middle, height - 0.14, 0.1, 0.14, shade((90, 65, 45), rng.uniform(0.3, 1.5)))
    sketch.ellipse(middle, height - 0.08, 0.12, 0.08, vivid(rng))
    return sketch.finish(rng)


def car_end(rng: Generator, width: float, height: float, paint: Colour, *, front: bool) -> Rgba:
    """A car from the front or from behind."""
    sketch = _Sketch(width, height)
    glass, waist, slope = pick(rng, (25, 30, 38), (70, 80, 95)), 0.56 * height, rng.uniform(0.08, 0.16) * width
    for left in (0.05 * width, 0.8 * width):
        sketch.box(left, 0.0, left + 0.15 * width, 0.3 * height, (22, 22, 24))
    middle, half = width / 2, 0.49 * width
    body = [(half, 0.14 * height), (half, 0.42 * height), (0.92 * half, waist), (half - slope, 0.97 * height), (0.6 * half, height)]
    sketch.outline(middle, body, paint)
    sketch.outline(middle, [(0.8 * half, 0.6 * height), (0.9 * half - slope, 0.92 * height)], glass)
    sketch.box(0.04 * width, 0.14 * height, 0.96 * width, 0.27 * height, shade(paint, rng.uniform(0.35, 0.8)))
    lamp = (235, 235, 220) if front else (190, 25, 25)
    for left in (0.05 * width, 0.79 * width):
        sketch.box(left, 0.4 * height, left + 0.16 * width, 0.51 * height, lamp)
    sketch.box(0.38 * width, 0.28 * height, 0.62 * width, 0.36 * height, (235, 235, 230) if rng.random() < 0.6 else (235, 200, 60))
    if front:
        sketch.box(0.25 * width, 0.39 * height, 0.75 * width, 0.48 * height, (35, 35, 38))
    return sketch.finish(rng, 4)


def car_side(rng: Generator, length: float, height: float, paint: Colour, *, steep: bool) -> Rgba:
    """A car from the side, its front at the right; ``steep`` gives upright ends, that fit the flat ends of ``car_end``."""
    sketch = _Sketch(length, height)
    glass, waist = pick(rng, (25, 30, 38), (70, 80, 95)), 0.6 * height
    boot, hood = (0.02, 0.98) if steep else (rng.uniform(0.03, 0.2), rng.uniform(0.68, 0.78))
    slant = 0.02 if steep else 0.1
    roof = [(hood - slant) * length, (boot + slant) * length]
    nose, tail = [(length, 0.17 * height), (length, 0.45 * height)], [(0, 0.57 * height), (0, 0.17 * height)]
    cabin = [(hood * length, waist), (roof[0], height), (roof[1], height), (boot * length, waist)]
    sketch.polygon([*nose, *cabin, *tail], paint)
    panes = [(hood * length - 0.15, waist), (roof[0] - 0.1, 0.92 * height), (roof[1] + 0.1, 0.92 * height), (boot * length + 0.15, waist)]
    sketch.polygon(panes, glass)
    for pillar in (0.35, 0.65):
        at = (boot + pillar * (hood - boot)) * length
        sketch.box(at - 0.03, waist, at + 0.03, 0.95 * height, paint)
        sketch.limb([(at, waist), (at, 0.22 * height)], 0.02, shade(paint, 0.6))
    sketch.box(0.02 * length, 0.17 * height, 0.98 * length, 0.24 * height, shade(paint, 0.5))
    for wheel in (0.19 * length, 0.8 * length):
        sketch.ellipse(wheel, 0.23 * height, 0.24 * height, 0.23 * height, (22, 22, 24))
        sketch.ellipse(wheel, 0.23 * height, 0.13 * height, 0.13 * height, (150, 150, 155))
    sketch.box(0.97 * length, 0.42 * height, length, 0.5 * height, (235, 235, 220))
    sketch.box(0, 0.42 * height, 0.03 * length, 0.54 * height, (190, 25, 25))
    return sketch.finish(rng, 4)


def tree(rng: Generator, width: float, height: float) -> Rgba:
    """A trunk and a crown of many lumps of leaves."""
    sketch = _Sketch(width, height, 32)
    leaves, middle = pick(rng, (45, 65, 25), (120, 125, 60)), width / 2
    bark = pick(rng, (50, 40, 32), (100, 85, 70))
    sketch.limb([(middle, 0.0), (middle + rng.uniform(-0.1, 0.1), 0.6 * height)], 0.06 * width + 0.1, bark)
    for _ in range(60):
        angle, reach, size = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()), rng.uniform(0.08, 0.16) * width
        x = middle + (width / 2 - size) * reach * np.cos(angle)
        y = 0.66 * height + (0.34 * height - size) * reach * np.sin(angle)
        sketch.ellipse(x, y, size, size * rng.uniform(0.6, 1.0), shade(leaves, rng.uniform(0.55, 1.3)))
    return sketch.finish(rng, 14)


def pole(rng: Generator, width: float, height: float) -> Rgba:
    """A lamp post or the post of a sign."""
    sketch = _Sketch(width, height, 60)
    sketch.box(0, 0, width, height, pick(rng, (70, 70, 70), (175, 175, 170)))
    return sketch.finish(rng)


def sign(rng: Generator, width: float, height: float) -> Rgba:
    """A round, triangular or square traffic sign, or a traffic light where it is tall."""
    sketch = _Sketch(width, height, 90)
    if height > 1.6 * width:
        sketch.box(0, 0, width, height, (25, 25, 25))
        for row, colour in enumerate(((40, 190, 90), (230, 170, 40), (210, 40, 35))):
            sketch.ellipse(width / 2, height * (row + 0.5) / 3, 0.36 * width, 0.13 * height, shade(colour, rng.uniform(0.4, 1.1)))
        return sketch.finish(rng, 3)
    kind = int(rng.integers(3))
    face, rim = ((235, 235, 235), (200, 30, 35)) if rng.random() < 0.6 else ((35, 80, 170), (240, 240, 240))
    for scale, colour in ((1.0, rim), (0.76, face)):
        _plate(sketch, kind, width, height, scale, colour)
    sketch.box(0.42 * width, 0.32 * height, 0.58 * width, 0.66 * height, shade(rim, 0.6) if face[0] > 200 else rim)
    return sketch.finish(rng, 3)


def _plate(sketch: _Sketch, kind: int, width: float, height: float, scale: float, colour: Colour) -> None:
    x, y, half, up = width / 2, height / 2, scale * width / 2, scale * height / 2
    if kind == 0:
        sketch.ellipse(x, y, half, up, colour)
    elif kind == 1:
        sketch.polygon([(x - half, y - up * 0.9), (x + half, y - up * 0.9), (x, y + up)], colour)
    else:
        sketch.box(x - half, y - up, x + half, y + up, colour)


Painter = Callable[[Generator, float, float], Rgba]
