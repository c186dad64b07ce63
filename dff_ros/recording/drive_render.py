"""Draws one view of the generated street, and knows for every pixel which surface it shows and how deep that lies.

Every surface is a plane parallel to an image axis, so that its inverse depth is affine in the pixel: w = a u + b v + c. The ground has
depth constant along rows, walls along columns, things everywhere, and the sky has w = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.recording.drive_art import Labels, Rgba, Surface
from dff_ros.recording.drive_street import Cutout, Layout, Thing, View

SKY_ID, GROUND_ID, WALL_IDS, FENCE_IDS, FIRST_THING_ID = 0, 1, (2, 3), (4, 5), 6
NEAR = 0.5
"""Metres in front of the camera where things begin to be drawn."""
_HORIZON_DEPTH = 250.0
"""The ground and the walls end here, metres ahead."""
_OPAQUE = 128


@dataclass(eq=False)
class Canvas:
    """The picture in the making. ``surfaces`` are ids that stay the same through the drive; ``inverse_depth`` has a row (a, b, c) for each."""

    rgb: NDArray[np.uint8]
    labels: Labels
    surfaces: NDArray[np.int32]
    inverse_depth: NDArray[np.float64]

    def paint(self, rows: slice, columns: slice, rgba: Rgba, labels: Any, surface: int) -> int:
        """Lay ``rgba`` over a region; returns how many pixels it claims (half opaque or more)."""
        alpha = rgba[..., 3]
        solid = alpha >= _OPAQUE
        under = self.rgb[rows, columns]
        rest = (255 - alpha.astype(np.uint16))[..., None]
        np.add(rgba[..., :3], ((under * rest + 127) // 255).astype(np.uint8), out=under)
        np.copyto(self.labels[rows, columns], labels, where=solid)
        np.copyto(self.surfaces[rows, columns], np.int32(surface), where=solid)
        return int(np.count_nonzero(solid))


class Strip:
    """A plane along the street, ready to be sampled at any distance: the texture shrunk by powers of two along and across."""

    def __init__(self, surface: Surface, *, repeats: bool) -> None:
        self.cell, self.start = surface.cell, surface.start
        self.length = len(surface.rgba) * surface.cell
        self._border = cv2.BORDER_WRAP if repeats else cv2.BORDER_CONSTANT
        self._levels: dict[tuple[int, int], tuple[Rgba, Labels]] = {(0, 0): (surface.rgba, surface.labels)}

    def _level(self, along: int, across: int) -> tuple[Rgba, Labels]:
        if (along, across) not in self._levels:
            rgba, labels = self._levels[0, 0]
            size = max(1, rgba.shape[1] >> across), max(1, rgba.shape[0] >> along)
            shrunk = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
            self._levels[along, across] = shrunk, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        return self._levels[along, across]

    def sample(self, z: NDArray[Any], depth: NDArray[Any], across: NDArray[Any], *, focal: float, offset: float) -> tuple[Rgba, Labels]:
        """Texture at strips of pixels: ``z`` and ``depth`` (S,) for each strip, ``across`` (S, N) the coordinate along it, in metres.

        ``offset`` is the camera's distance from the plane. A strip is read from the shrunk texture whose texels are about a pixel large there.
        """
        along = np.clip(np.round(np.log2(depth**2 / (focal * abs(offset) * self.cell))), 0, 6).astype(int)
        rgba, labels = np.empty((*across.shape, 4), np.uint8), np.empty(across.shape, np.uint8)
        for level in np.unique(along):
            chosen = np.flatnonzero(along == level)
            strips = slice(chosen[0], chosen[-1] + 1)
            typical = np.sqrt(focal * abs(offset) * self.cell * 2.0**level)
            shrink = int(np.clip(np.round(np.log2(typical / (focal * self.cell))), 0, 4))
            texture, classes = self._level(int(level), shrink)
            at_z = z[strips] / self.length * len(texture) - 0.5
            at_across = (across[strips] - self.start) / self.cell * (texture.shape[1] / self._levels[0, 0][0].shape[1]) - 0.5
            map_across = np.clip(at_across, 0, texture.shape[1] - 1).astype(np.float32)
            map_z = np.ascontiguousarray(np.broadcast_to(at_z[:, None], map_across.shape), np.float32)
            rgba[strips] = cv2.remap(texture, map_across, map_z, cv2.INTER_LINEAR, borderMode=self._border)
            labels[strips] = cv2.remap(classes, map_across, map_z, cv2.INTER_NEAREST, borderMode=self._border)
        return rgba, labels


class Billboard:
    """A cut-out, shrunk by powers of two."""

    def __init__(self, cutout: Cutout) -> None:
        self.width, self.height = cutout.width, cutout.height
        self._levels = [cutout.rgba]
        while min(self._levels[-1].shape[:2]) > 3:
            rows, columns = self._levels[-1].shape[:2]
            self._levels.append(cv2.resize(self._levels[-1], (columns // 2, rows // 2), interpolation=cv2.INTER_AREA))

    def sample(self, left: float, top: float, scale: float, rows: slice, columns: slice) -> Rgba:
        """The region of the picture, with the upper left corner of the cut-out at (left, top) and ``scale`` pixels to a metre."""
        texels = self._levels[0].shape[0] / (self.height * scale)
        level = self._levels[int(np.clip(np.round(np.log2(max(texels, 1e-6))), 0, len(self._levels) - 1))]
        step_u, step_v = level.shape[1] / (self.width * scale), level.shape[0] / (self.height * scale)
        matrix = np.array([[step_u, 0, (columns.start - left) * step_u - 0.5], [0, step_v, (rows.start - top) * step_v - 0.5]])
        size = columns.stop - columns.start, rows.stop - rows.start
        sampled: Rgba = cv2.warpAffine(level, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return sampled


@dataclass(frozen=True)
class Scenery:
    """What stands still everywhere: the far distance, the ground, walls and fences left and right."""

    distance: tuple[Rgba, Labels]
    ground: Strip
    walls: tuple[Strip, Strip]
    fences: tuple[Strip, Strip]
    layout: Layout


def draw_distance(canvas: Canvas, view: View, scenery: Scenery) -> None:
    """Sky and skyline: a picture twice the frame's size, that only moves with the vanishing point."""
    rgba, labels = scenery.distance
    height, width = canvas.labels.shape
    shift = np.array([[1, 0, width - view.centre_u], [0, 1, height - view.centre_v]])
    flags, border = cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    canvas.rgb[...] = cv2.warpAffine(rgba, shift, (width, height), flags=flags | cv2.INTER_LINEAR, borderMode=border)[..., :3]
    canvas.labels[...] = cv2.warpAffine(labels, shift, (width, height), flags=flags | cv2.INTER_NEAREST, borderMode=border)
    canvas.surfaces[...] = SKY_ID


def draw_ground(canvas: Canvas, view: View, scenery: Scenery) -> None:
    """Everything below the horizon."""
    height, width = canvas.labels.shape
    slope = 1 / (view.focal * view.y)
    canvas.inverse_depth[GROUND_ID] = 0, slope, -slope * view.centre_v
    first = max(0, int(np.ceil(view.centre_v + 1 / (_HORIZON_DEPTH * slope))))
    if first >= height:
        return
    depth = 1 / (slope * (np.arange(first, height) - view.centre_v))
    across = view.x + (np.arange(width) - view.centre_u)[None] * (depth / view.focal)[:, None]
    rgba, labels = scenery.ground.sample(depth + view.z, depth, across, focal=view.focal, offset=view.y)
    canvas.paint(slice(first, height), slice(0, width), rgba, labels, GROUND_ID)


def draw_wall(canvas: Canvas, view: View, strip: Strip, *, x: float, surface: int, begin: float = -np.inf, base: float = 0.0) -> int:
    """A plane along the street at ``x``, from the ground up; ``begin`` is where a finite one begins. Returns the pixels it claims."""
    height, width = canvas.labels.shape
    offset = x - view.x
    if abs(offset) < 0.05:
        return 0
    slope = 1 / (view.focal * offset)
    canvas.inverse_depth[surface] = slope, 0, -slope * view.centre_u
    nearest, farthest = (NEAR, _HORIZON_DEPTH) if np.isinf(begin) else (max(NEAR, begin - view.z), begin - view.z + strip.length)
    if farthest <= nearest:
        return 0
    low, high = sorted(view.centre_u + 1 / (slope * depth) for depth in (nearest, farthest))
    first, last = max(0, int(np.ceil(low))), min(width, int(np.floor(high)) + 1)
    if first >= last:
        return 0
    depth = 1 / (slope * (np.arange(first, last) - view.centre_u))
    top = strip.start + strip.cell * strip._levels[0, 0][0].shape[1]
    closest = float(depth.min())
    rows = slice(
        max(0, int(np.floor(view.centre_v + view.focal * min((view.y - top) / closest, (view.y - top) / float(depth.max()))))),
        min(height, int(np.ceil(view.centre_v + view.focal * view.y / closest)) + 1),
    )
    if rows.start >= rows.stop:
        return 0
    up = view.y - (np.arange(rows.start, rows.stop) - view.centre_v)[None] * (depth / view.focal)[:, None]
    z = depth + view.z - (0.0 if np.isinf(begin) else begin)
    rgba, labels = strip.sample(z, depth, up, focal=view.focal, offset=offset)
    rgba[(up < 0) | (up > top)] = 0
    return canvas.paint(rows, slice(first, last), rgba.transpose(1, 0, 2), labels.T, surface)


def draw_thing(canvas: Canvas, view: View, thing: Thing, board: Billboard, place: tuple[float, float], surface: int) -> int:
    """A cut-out standing at ``place`` (x, z). Returns the pixels it claims."""
    height, width = canvas.labels.shape
    depth = place[1] - view.z
    if depth < NEAR:
        return 0
    scale = view.focal / depth
    canvas.inverse_depth[surface] = 0, 0, 1 / depth
    left = view.centre_u + (place[0] - board.width / 2 - view.x) * scale
    top = view.centre_v + (view.y - thing.base - board.height) * scale
    columns = slice(max(0, int(np.ceil(left - 1))), min(width, int(left + board.width * scale) + 2))
    rows = slice(max(0, int(np.ceil(top - 1))), min(height, int(top + board.height * scale) + 2))
    if columns.start >= columns.stop or rows.start >= rows.stop or board.height * scale < 1.5:
        return 0
    return canvas.paint(rows, columns, board.sample(left, top, scale, rows, columns), thing.label, surface)
