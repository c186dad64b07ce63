"""Textures of the generated drive, painted from a random generator: surfaces of the street, and things cut out with an alpha channel.

Everything here is RGBA uint8 with the colours already multiplied by alpha, so that textures can be shrunk and sampled
between texels without dark or bright seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

Rgba = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Generator = np.random.Generator

WALLS: tuple[tuple[Colour, Colour], ...] = (
    ((95, 45, 35), (165, 95, 75)),
    ((150, 140, 120), (235, 228, 210)),
    ((90, 88, 85), (185, 182, 178)),
    ((150, 115, 75), (205, 175, 130)),
)
"""Darkest and brightest of brick, plaster, concrete and sandstone."""


@dataclass(frozen=True, eq=False)
class Surface:
    """The texture of a plane that runs along the street: ``rgba`` (Z, C, 4) and ``labels`` (Z, C), a row for each z.

    ``cell`` is the size of a texel in metres, ``start`` the coordinate across (x of the ground, height of a wall) where the columns begin.
    """

    rgba: Rgba
    labels: Labels
    cell: float
    start: float = 0.0

    @property
    def length(self) -> float:
        """Metres along the street."""
        return len(self.rgba) * self.cell

    @property
    def stop(self) -> float:
        """The coordinate across where the columns end."""
        across: int = self.rgba.shape[1]
        return self.start + across * self.cell


def noise(rng: Generator, shape: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """Smooth noise of about unit size with ``cells`` texels to a lump; repeats seamlessly along the first axis."""
    half = (shape[0] + 1) // 2
    grid = rng.normal(size=(half // cells + 2, shape[1] // cells + 2)).astype(np.float32)
    smooth = cv2.resize(grid, (shape[1], half), interpolation=cv2.INTER_LINEAR)
    return np.concatenate([smooth, smooth[::-1]])[: shape[0]]


def pick(rng: Generator, low: Colour, high: Colour) -> Colour:
    """A colour about the line between two others."""
    between, spread = rng.random(), 0.07
    red, green, blue = (int(np.clip(a + (b - a) * (between + rng.normal(0, spread)), 0, 255)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def vivid(rng: Generator) -> Colour:
    """Any colour at all, as paint and clothes have."""
    hue, saturation, value = int(rng.integers(180)), int(255 * rng.beta(1.2, 1.8)), int(rng.integers(30, 245))
    rgb = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    return int(rgb[0]), int(rgb[1]), int(rgb[2])


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or brighter."""
    red, green, blue = (min(255, max(0, int(channel * factor))) for channel in colour)
    return red, green, blue


def ground(rng: Generator, *, road: float, kerb: float, extent: float, length: float) -> Surface:
    """Road within ``road`` metres of the middle, pavement up to ``kerb``, a verge up to ``extent``; repeats every ``length`` metres."""
    cell = 0.05
    shape = (round(length / cell), round(2 * extent / cell))
    across = np.abs((np.arange(shape[1]) + 0.5) * cell - extent)
    labels = np.where(across < road, ROAD, np.where(across < kerb, PAVEMENT, TREE)).astype(np.uint8)
    asphalt, slabs, grass = (
        np.array(pick(rng, low, high), np.float32)
        for low, high in (((70, 70, 72), (125, 125, 130)), ((120, 112, 105), (185, 178, 172)), ((50, 75, 30), (105, 125, 65)))
    )
    base = np.where((labels == ROAD)[:, None], asphalt, np.where((labels == PAVEMENT)[:, None], slabs, grass))
    grain = 5 * noise(rng, shape, 1) + 6 * noise(rng, shape, 9) + 5 * noise(rng, shape, 60)
    grain *= np.where(labels == TREE, 2.0, 1.0)[None]
    rgb = np.clip(base[None] + grain[..., None], 0, 255).astype(np.uint8)
    _mark_ground(rng, rgb, across, cell=cell, road=road, kerb=kerb)
    if rng.random() < 0.4:
        rgb = _in_shadow(rng, rgb, cell=cell, extent=extent, reach=rng.uniform(-road, 0.8 * road))
    return Surface(_opaque(rgb), np.repeat(labels[None], shape[0], axis=0), cell, -extent)


def _mark_ground(rng: Generator, rgb: Any, across: NDArray[np.float64], *, cell: float, road: float, kerb: float) -> None:
    """Slab joints, kerb stones, lane marks, manholes, perhaps a crossing."""
    metres = (np.arange(len(rgb)) + 0.5) * cell
    pavement = (across >= road) & (across < kerb)
    slab = rng.uniform(0.4, 1.2)
    rgb[np.ix_(metres % slab < cell, pavement)] //= 4
    rgb[np.ix_(metres % slab < cell, pavement)] *= 3
    rgb[:, pavement & (across % slab < cell)] //= 4
    rgb[:, pavement & (across % slab < cell)] *= 3
    rgb[:, (across >= road - 0.05) & (across < road + 0.2)] = pick(rng, (150, 148, 140), (205, 200, 195))
    paint = pick(rng, (190, 190, 180), (240, 240, 235))
    dash, gap = rng.choice([2.0, 3.0, 4.0]), rng.choice([2.0, 4.0])
    rgb[np.ix_(metres % (dash + gap) < dash, across < 0.08)] = paint
    if rng.random() < 0.6:
        edge = (across > road - 0.45) & (across < road - 0.3)
        rgb[:, edge] = paint if rng.random() < 0.5 else (200, 170, 60)
    for _ in range(int(rng.integers(2, 8))):
        centre = (int(rng.integers(rgb.shape[1])), int(rng.integers(8, len(rgb) - 8)))
        if across[centre[0]] < road:
            cv2.circle(rgb, centre, 6, (60, 58, 55), -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        begin = rng.uniform(5, metres[-1] - 10)
        rgb[np.ix_((metres > begin) & (metres < begin + 3), (across < road - 0.4) & (across % 1.0 < 0.5))] = paint


def _in_shadow(rng: Generator, rgb: Any, *, cell: float, extent: float, reach: float) -> NDArray[np.uint8]:
    """Darker on one side up to about ``reach`` metres across the middle, with the outline of roofs."""
    edge = reach + np.repeat(rng.uniform(-1.2, 1.2, size=(len(rgb) // 80 + 1, 1)), 80, axis=0)[: len(rgb)]
    x = (np.arange(rgb.shape[1]) + 0.5)[None] * cell - extent
    lit = np.clip((x - edge) / 0.2, 0, 1) * (1 - (darkness := rng.uniform(0.35, 0.6))) + darkness
    shaded = (rgb * lit[..., None]).astype(np.uint8)
    return shaded if rng.random() < 0.5 else np.ascontiguousarray(shaded[:, ::-1])


def facades(rng: Generator, *, length: float, tallest: float, green: float, light: float) -> Surface:
    """A row of houses, with hedges in the share ``green``; repeats every ``length`` metres, transparent above the roofs."""
    cell = 0.06
    rows, columns = round(length / cell), round((tallest + 1) / cell)
    rgba = np.zeros((rows, columns, 4), np.uint8)
    labels = np.full((rows, columns), BUILDING, np.uint8)
    begin = 0
    while begin < rows:
        end = min(rows, begin + round(rng.uniform(6, 18) / cell))
        end = rows if rows - end < 80 else end
        if rng.random() < green:
            _hedge(rng, rgba[begin:end], labels[begin:end], cell)
        else:
            _house(rng, rgba[begin:end], cell, rng.uniform(0.35, 1.0) * tallest)
        begin = end
    rgba[..., :3] = rgba[..., :3] * light
    return Surface(rgba, labels, cell)


def _house(rng: Generator, rgba: Rgba, cell: float, height: float) -> None:
    """One front of a house: wall, storeys of windows, a shop or doors below, a cornice."""
    top = round(height / cell)
    wall = pick(rng, *WALLS[rng.integers(len(WALLS))])
    grain = 5 * noise(rng, (len(rgba), top), 2) + 5 * noise(rng, (len(rgba), top), 25)
    rgba[:, :top, :3] = np.clip(np.array(wall, np.float32) + grain[..., None], 0, 255)
    rgba[:, :top, 3] = 255
    storey, pitch, width = rng.uniform(2.7, 3.6), rng.uniform(1.8, 3.4), rng.uniform(0.8, 1.5)
    frame, glass = pick(rng, (60, 55, 50), (240, 240, 235)), pick(rng, (25, 30, 40), (110, 130, 150))
    count = max(1, int(len(rgba) * cell / pitch))
    offset = (len(rgba) * cell - count * pitch) / 2 + (pitch - width) / 2
    for floor in range(int(height / storey)):
        sill = 0.2 if floor == 0 else floor * storey + 0.8
        head = sill + (2.2 if floor == 0 else 1.5)
        if head > height - 0.3:
            continue
        for item in range(count):
            left = offset + item * pitch
            _panel(rgba, cell, (left, left + width), (sill, head), frame, shade(glass, rng.uniform(0.6, 1.5)))
    if rng.random() < 0.4:
        _panel(rgba, cell, (0.0, len(rgba) * cell), (2.6, 3.2), shade(vivid(rng), 0.8), vivid(rng))
    rgba[:, top - 4 : top, :3] = shade(wall, rng.uniform(0.5, 1.3))
    rgba[:2, :top, :3] = shade(wall, 0.6)


def _panel(rgba: Rgba, cell: float, along: tuple[float, float], up: tuple[float, float], frame: Colour, inner: Colour) -> None:
    first, last, low, high = (round(value / cell) for value in (*along, *up))
    rgba[first:last, low:high, :3] = frame
    rgba[first + 2 : last - 2, low + 2 : high - 2, :3] = inner


def _hedge(rng: Generator, rgba: Rgba, labels: Labels, cell: float) -> None:
    """Green of uneven height where no house stands."""
    shape = labels.shape
    height = rng.uniform(1.5, 5.0) + 0.8 * noise(rng, (shape[0], 1), 12)
    height = np.maximum(0.8, np.minimum(height + 0.5, shape[1] * cell - 0.6))
    solid = (np.arange(shape[1]) + 0.5)[None] * cell < height
    colour = np.array(pick(rng, (40, 60, 25), (85, 115, 55)), np.float32)
    grain = 16 * noise(rng, (shape[0], shape[1]), 3) + 12 * noise(rng, (shape[0], shape[1]), 9)
    rgba[..., :3] = np.clip(colour + grain[..., None], 5, 255) * solid[..., None]
    rgba[..., 3] = 255 * solid
    labels[...] = TREE


def fence(rng: Generator, *, length: float, height: float) -> Surface:
    """Stretches of railing or boards ``height`` metres high, with gaps between them; repeats every ``length`` metres."""
    cell = 0.05
    shape = (round(length / cell), round(height / cell) + 6)
    top = shape[1] - 6
    colour = np.array(pick(rng, (40, 40, 40), (200, 190, 175)), np.float32)
    rgba = np.zeros((*shape, 4), np.uint8)
    metres, pitch = (np.arange(shape[0]) + 0.5) * cell, rng.uniform(0.15, 0.5)
    bars = np.where(metres % pitch < pitch / 2, 1.0, rng.uniform(0.45, 0.8))[:, None] * np.ones(top)
    bars[:, -3:], bars[:, 4:6] = 1.1, 1.1
    grain = 5 * noise(rng, (shape[0], top), 2)[..., None]
    rgba[:, :top, :3] = np.clip(colour * bars[..., None] + grain, 0, 255)
    rgba[:, :top, 3] = 255
    begin = 0.0
    while begin < length:
        stretch = rng.uniform(6, 25)
        rgba[(metres >= begin + stretch) & (metres < begin + stretch + 15)] = 0
        begin += stretch + rng.uniform(8, 15)
    return Surface(rgba, np.full(shape, FENCE, np.uint8), cell)


def distance(rng: Generator, width: int, height: int, horizon: int) -> tuple[Rgba, Labels]:
    """What is too far to come nearer: sky with clouds above row ``horizon``, woods and roofs just over it. (H, W, 4) and (H, W)."""
    up = np.clip((horizon - np.arange(height)) / max(1, horizon), 0, 1)[:, None, None]
    low, high = (np.array(pick(rng, a, b), np.float32) for a, b in (((190, 200, 210), (245, 245, 245)), ((90, 140, 200), (225, 230, 240))))
    rgb = low * (1 - up) + high * up + rng.uniform(2, 14) * noise(rng, (height, width), max(8, height // 8))[..., None]
    labels = np.full((height, width), SKY, np.uint8)
    for label, colour in ((TREE, pick(rng, (60, 80, 50), (110, 125, 95))), (BUILDING, pick(rng, (120, 105, 95), (180, 170, 165)))):
        roughness = max(4, width // (60 if label == TREE else 25))
        skyline = height * (0.03 + 0.02 * noise(rng, (width, 1), roughness)[:, 0])
        if label == BUILDING:
            skyline = np.round(skyline / 6) * 6 - 3
        solid = np.arange(height)[:, None] > horizon - skyline[None]
        grain = 7 * noise(rng, (height, width), 2)[..., None]
        rgb = np.where(solid[..., None], np.array(colour, np.float32) + grain, rgb)
        labels[solid] = label
    return _opaque(np.clip(rgb, 0, 255).astype(np.uint8)), labels


def _opaque(rgb: NDArray[np.uint8]) -> Rgba:
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
