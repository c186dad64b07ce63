"""Draws views of the generated street, and knows for every pixel which surface it shows and how deep that lies.

Every surface is a plane parallel to an image axis, so its inverse depth is affine in the pixel, w = a u + b v + c: the ground has depth
constant along rows, walls along columns, things everywhere, and the sky has w = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.recording.drive_art import Labels, Rgba, Surface
from dff_ros.recording.drive_street import Cutout, Thing, View

SKY_ID, GROUND_ID, WALL_IDS, FENCE_IDS, FIRST_THING_ID = 0, 1, (2, 3), (4, 5), 6
"""Ids of surfaces. Thing n has FIRST_THING_ID + 2n for its face and the next one for its side."""

NEAR = 0.5
"""Metres in front of the camera where things begin to be drawn."""

_HORIZON_DEPTH = 250.0
"""The ground and the walls end here, metres ahead."""

_SOLID = 128
"""A pixel belongs to what covers it with at least this alpha."""

Floats = NDArray[np.float64]


@dataclass(eq=False)
class Canvas:
    """A picture in the making: ``rgb`` (H, W, 3), ``labels`` and ``surfaces`` (H, W), ``inverse_depth`` a row (a, b, c) a surface."""

    rgb: NDArray[np.uint8]
    labels: Labels
    surfaces: NDArray[np.int32]
    inverse_depth: Floats

    @classmethod
    def blank(cls, height: int, width: int, surfaces: int) -> Canvas:
        """Nothing drawn yet; for ids below ``surfaces``."""
        size = height, width
        return cls(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.int32), np.zeros((surfaces, 3)))

    def paint(self, rows: slice, columns: slice, rgba: Rgba, labels: Any, surface: int) -> int:
        """Lay ``rgba`` over a region; returns how many pixels it claims."""
        alpha = rgba[..., 3]
        solid = alpha >= _SOLID
        under = self.rgb[rows, columns]
        rest = (255 - alpha.astype(np.uint16))[..., None]
        np.add(rgba[..., :3], ((under * rest + 127) // 255).astype(np.uint8), out=under)
        np.copyto(self.labels[rows, columns], labels, where=solid)
        np.copyto(self.surfaces[rows, columns], np.int32(surface), where=solid)
        return int(np.count_nonzero(solid))


class Strip:
    """A plane along the street, ready to be sampled at any distance: its texture shrunk by powers of two along and across."""

    def __init__(self, surface: Surface, *, repeats: bool) -> None:
        self.length, self.start, self.stop = surface.length, surface.start, surface.stop
        self._cell = surface.cell
        self._border = cv2.BORDER_WRAP if repeats else cv2.BORDER_CONSTANT
        self._levels: dict[tuple[int, int], tuple[Rgba, Labels]] = {(0, 0): (surface.rgba, surface.labels)}

    def _level(self, along: int, across: int) -> tuple[Rgba, Labels]:
        if (along, across) not in self._levels:
            rgba, labels = self._levels[0, 0]
            size = max(1, rgba.shape[1] >> across), max(1, rgba.shape[0] >> along)
            shrunk = np.asarray(cv2.resize(rgba, size, interpolation=cv2.INTER_AREA), np.uint8)
            self._levels[along, across] = shrunk, np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        return self._levels[along, across]

    def sample(self, z: Floats, depth: Floats, across: Floats, *, focal: float, offset: float) -> tuple[Rgba, Labels]:
        """Texture at lines of pixels of one depth: ``z`` and ``depth`` (S,) of each line, ``across`` (S, N) along the line, in metres.

        ``offset`` is the camera's distance from the plane. Each line reads the shrunk texture whose texels are about a pixel large there:
        a pixel spans depth^2 / (focal offset) metres along and depth / focal across.
        """
        along = np.clip(np.round(np.log2(depth**2 / (focal * abs(offset) * self._cell))), 0, 6).astype(int)
        rgba, labels = np.empty((*across.shape, 4), np.uint8), np.empty(across.shape, np.uint8)
        for level in np.unique(along).tolist():
            lines = np.flatnonzero(along == level)
            some = slice(int(lines[0]), int(lines[-1]) + 1)
            typical_depth = np.sqrt(focal * abs(offset) * self._cell * 2.0**level)
            texture, classes = self._level(level, int(np.clip(np.round(np.log2(typical_depth / (focal * self._cell))), 0, 4)))
            map_across = (across[some] - self.start) / (self.stop - self.start) * texture.shape[1] - 0.5
            map_across = np.clip(map_across, 0, texture.shape[1] - 1).astype(np.float32)
            map_z = z[some] / self.length * len(texture) - 0.5
            map_z = np.ascontiguousarray(np.broadcast_to(map_z[:, None], map_across.shape), np.float32)
            rgba[some] = cv2.remap(texture, map_across, map_z, cv2.INTER_LINEAR, borderMode=self._border)
            labels[some] = cv2.remap(classes, map_across, map_z, cv2.INTER_NEAREST, borderMode=self._border)
        return rgba, labels


class Billboard:
    """A cut-out, shrunk by powers of two."""

    def __init__(self, cutout: Cutout) -> None:
        self.width, self.height = cutout.width, cutout.height
        self._levels = [cutout.rgba]
        while min(self._levels[-1].shape[:2]) > 3:
            rows, columns = self._levels[-1].shape[:2]
            smaller = cv2.resize(self._levels[-1], (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
            self._levels.append(np.asarray(smaller, np.uint8))

    def sample(self, left: float, top: float, scale: float, rows: slice, columns: slice) -> Rgba:
        """A region of the picture, with the corner of the cut-out at (left, top) and ``scale`` pixels to a metre."""
        texels = self._levels[0].shape[0] / (self.height * scale)
        level = self._levels[int(np.clip(np.round(np.log2(texels)), 0, len(self._levels) - 1))]
        step_u, step_v = level.shape[1] / (self.width * scale), level.shape[0] / (self.height * scale)
        matrix = np.array([[step_u, 0, (columns.start - left) * step_u - 0.5], [0, step_v, (rows.start - top) * step_v - 0.5]])
        size = columns.stop - columns.start, rows.stop - rows.start
        return np.asarray(cv2.warpAffine(level, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.uint8)


def draw_distance(canvas: Canvas, view: View, rgba: Rgba, labels: Labels) -> None:
    """Sky and skyline: a picture twice the frame's size, that moves with the vanishing point alone."""
    height, width = canvas.labels.shape
    shift = np.array([[1, 0, width - view.centre_u], [0, 1, height - view.centre_v]])
    flags, border = cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    canvas.rgb[...] = cv2.warpAffine(rgba, shift, (width, height), flags=flags | cv2.INTER_LINEAR, borderMode=border)[..., :3]
    canvas.labels[...] = cv2.warpAffine(labels, shift, (width, height), flags=flags | cv2.INTER_NEAREST, borderMode=border)
    canvas.surfaces[...] = SKY_ID


def draw_ground(canvas: Canvas, view: View, ground: Strip) -> None:
    """Everything below the horizon."""
    height, width = canvas.labels.shape
    slope = 1 / (view.focal * view.y)
    canvas.inverse_depth[GROUND_ID] = 0, slope, -slope * view.centre_v
    rows = _span(view.centre_v + 1 / (_HORIZON_DEPTH * slope), height, height)
    if rows is None:
        return
    depth = 1 / (slope * (np.arange(rows.start, rows.stop) - view.centre_v))
    across = view.x + (np.arange(width) - view.centre_u)[None] * (depth / view.focal)[:, None]
    rgba, labels = ground.sample(depth + view.z, depth, across, focal=view.focal, offset=view.y)
    canvas.paint(rows, slice(0, width), rgba, labels, GROUND_ID)


def draw_wall(canvas: Canvas, view: View, wall: Strip, *, x: float, surface: int, begin: float = -np.inf) -> int:
    """A plane along the street at ``x``: an endless one, or one that begins at z = ``begin``. Returns the pixels it claims."""
    height, width = canvas.labels.shape
    slope = 1 / (view.focal * (x - view.x))
    canvas.inverse_depth[surface] = slope, 0, -slope * view.centre_u
    endless = bool(np.isinf(begin))
    nearest, farthest = (NEAR, _HORIZON_DEPTH) if endless else (max(NEAR, begin - view.z), begin - view.z + wall.length)
    low, high = sorted(view.centre_u + 1 / (slope * depth) for depth in (nearest, farthest))
    columns = _span(low, high, width)
    if farthest <= nearest or columns is None:
        return 0
    depth = 1 / (slope * (np.arange(columns.start, columns.stop) - view.centre_u))
    above = [(view.y - wall.stop) * view.focal / end for end in (float(depth.min()), float(depth.max()))]
    rows = _span(view.centre_v + min(above), view.centre_v + view.y * view.focal / float(depth.min()), height)
    if rows is None:
        return 0
    up = view.y - (np.arange(rows.start, rows.stop) - view.centre_v)[None] * (depth / view.focal)[:, None]
    z = depth + view.z - (0.0 if endless else begin)
    rgba, labels = wall.sample(z, depth, up, focal=view.focal, offset=x - view.x)
    rgba[(up < 0) | (up > wall.stop)] = 0
    return canvas.paint(rows, columns, rgba.transpose(1, 0, 2), labels.T, surface)


def draw_thing(canvas: Canvas, view: View, thing: Thing, board: Billboard, *, x: float, z: float, surface: int) -> int:
    """A cut-out standing at (x, z). Returns the pixels it claims."""
    height, width = canvas.labels.shape
    depth = z - view.z
    if depth < NEAR:
        return 0
    scale = view.focal / depth
    canvas.inverse_depth[surface] = 0, 0, 1 / depth
    left = view.centre_u + (x - board.width / 2 - view.x) * scale
    top = view.centre_v + (view.y - thing.base - board.height) * scale
    # A pixel more on each side, where the edge may half cover it.
    columns = _span(left - 1, left + board.width * scale + 1, width)
    rows = _span(top - 1, top + board.height * scale + 1, height)
    if columns is None or rows is None:
        return 0
    return canvas.paint(rows, columns, board.sample(left, top, scale, rows, columns), thing.label, surface)


def _span(low: float, high: float, size: int) -> slice | None:
    """The pixels of 0..size-1 from ``low`` to ``high``, None where there are none."""
    first, last = max(0, int(np.ceil(low))), min(size, int(np.floor(high)) + 1)
    return slice(first, last) if first < last else None
