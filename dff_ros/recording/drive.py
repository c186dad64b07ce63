"""A generated drive: a street seen from a moving camera, with the truth about every pixel.

Labels, boxes, flow and visibility are exact by construction: every surface is a plane of known place, and the flow from one frame to
any other follows from the planes and the two views. Frames are a function of the seed and their index alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.recording import drive_art as art
from dff_ros.recording import drive_render as render
from dff_ros.recording import drive_street as street
from dff_ros.recording.drive_render import FENCE_IDS, FIRST_THING_ID, WALL_IDS, Billboard, Canvas, Strip
from dff_ros.recording.frames import RecordingError, StampedFrame, stamp_at

CLASS_NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""Names of the labels, in the order of CamVid's eleven classes."""

BOX_NAMES = ("person", "car", "bicyclist")
"""Names of the box labels."""

_KEPT_FRAMES = 16
_LEAST_SHOWN = 0.3
"""A thing with a smaller share of its pixels in sight has no box."""


@dataclass(frozen=True, eq=False)
class DriveFrame(StampedFrame):
    """A frame and its truth.

    ``labels`` is (H, W) uint8, the eleven classes of CamVid. ``boxes`` is (N, 4) float32, x1 y1 x2 y2 around what is in sight of each
    person, car and bicyclist, right and bottom edges exclusive; ``box_labels`` (N,) int64 (0 person, 1 car, 2 bicyclist); ``box_ids`` (N,)
    int64 are the same for the same thing through the drive. ``surfaces`` (H, W) int32 tells the surfaces apart.
    """

    labels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    box_ids: NDArray[np.int64]
    surfaces: NDArray[np.int32]
    inverse_depth: NDArray[np.float64] = field(repr=False)
    drive: GeneratedDrive = field(repr=False)

    def flow_to(self, key: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where each pixel of this frame is in frame ``key``: flow (H, W, 2) as (dx, dy) in pixels, and whether it can be seen there (H, W).

        A pixel counts as seen where all pixels that bilinear sampling reads show the same surface.
        """
        return self.drive.flow(self.index, key)


class GeneratedDrive:
    """A recording made up from a seed, of any length, size and rate; every frame can be had at random.

    Frames are RGB; the scene, its colours, its layout and the camera's way vary with the seed.
    """

    def __init__(self, seed: int = 0, frames: int = 300, *, width: int = 480, height: int = 360, rate: float = 15.0) -> None:
        if frames < 1 or width < 16 or height < 16 or not rate > 0:
            raise RecordingError(f"a drive should have 1 frame, 16x16 pixels and a rate above 0 or more, got {frames}, {width}x{height}, {rate}")
        self._count, self._size, self._rate, self.seed = frames, (height, width), rate, seed
        rng = np.random.default_rng(seed)
        self._layout = layout = street.choose_layout(rng)
        self._motion = street.Motion(rng, layout, duration=frames / rate, width=width, height=height)
        self._scenery, self._tone = _scenery(rng, layout, width, height), _tone(rng)
        self._things = street.populate(rng, layout, self._motion, frames / rate)
        self._boards = {id(thing.face): Billboard(thing.face) for thing in self._things}
        self._sides = [Strip(thing.side, repeats=False) if thing.side else None for thing in self._things]
        self._table = np.array(
            [(t.x, t.z, t.vx, t.vz, t.begin, t.end, t.ahead, t.length) for t in self._things], np.float64
        ).reshape(-1, 8)
        self._kept: OrderedDict[int, DriveFrame] = OrderedDict()

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self._rate

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"generated drive {self.seed}, {self._count} frames of {self._size[1]}x{self._size[0]} at {self._rate:g} Hz"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[DriveFrame]:
        return (self.frame(index) for index in range(self._count))

    def frame(self, index: int) -> DriveFrame:
        """Frame ``index`` with its truth. The last few are kept; do not write into them."""
        if not 0 <= index < self._count:
            raise RecordingError(f"frame should lie in 0..{self._count - 1}, got {index}")
        if index not in self._kept:
            self._kept[index] = self._draw(index)
            if len(self._kept) > _KEPT_FRAMES:
                self._kept.popitem(last=False)
        return self._kept[index]

    def flow(self, index: int, key: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Exact flow from frame ``index`` to frame ``key`` and visibility there; see ``DriveFrame.flow_to``."""
        here, there = self.frame(index), self.frame(key)
        view, other = (self._motion.view(item / self._rate) for item in (index, key))
        height, width = self._size
        u, v = np.arange(width)[None], np.arange(height)[:, None]
        surfaces = here.surfaces
        a, b, c = (here.inverse_depth[:, item][surfaces] for item in range(3))
        inverse_depth = a * u + b * v + c
        moved_x, moved_z = (moved[surfaces] for moved in self._displacements(index, key))
        nearing = 1 + (moved_z + view.z - other.z) * inverse_depth
        in_front = nearing > 0.01
        ratio = 1 / np.where(in_front, nearing, 1.0)
        flow = np.empty((height, width, 2), np.float32)
        shift_x = (moved_x + view.x - other.x) * view.focal * inverse_depth * ratio
        flow[..., 0] = other.centre_u - view.centre_u + (u - view.centre_u) * (ratio - 1) + shift_x
        flow[..., 1] = other.centre_v - view.centre_v + (v - view.centre_v) * (ratio - 1)
        return flow, in_front & _same_surface(surfaces, there.surfaces, flow)

    def _places(self, index: int) -> NDArray[np.float64]:
        """x and z of all things, (N, 2)."""
        t = index / self._rate
        x, z, vx, vz, begin, _, ahead, _ = self._table.T
        past = np.where(begin > -1e8, t - begin, 0.0)
        return np.stack([x + vx * past, z + vz * past + ahead * self._motion.distance(t)], axis=1)

    def _displacements(self, index: int, key: int) -> NDArray[np.float64]:
        """How far each surface moves by itself from frame ``index`` to ``key``, x and z in metres, (2, surfaces)."""
        moved = np.repeat(self._places(key) - self._places(index), 2, axis=0)
        return np.concatenate([np.zeros((FIRST_THING_ID, 2)), moved]).T

    def _draw(self, index: int) -> DriveFrame:
        canvas, view = self._blank(), self._motion.view(index / self._rate)
        render.draw_distance(canvas, view, self._scenery)
        render.draw_ground(canvas, view, self._scenery)
        claimed = self._draw_standing_and_moving(canvas, view, index)
        labels, boxes, ids = _boxes(canvas, claimed, self._things)
        rgb = cv2.LUT(canvas.rgb, self._tone)
        stamp = stamp_at(index, self._rate)
        return DriveFrame(index, stamp, rgb, "", "camera", canvas.labels, boxes, labels, ids, canvas.surfaces, canvas.inverse_depth, self)

    def _blank(self) -> Canvas:
        surfaces = FIRST_THING_ID + 2 * len(self._things)
        height, width = self._size
        return Canvas(
            np.zeros((height, width, 3), np.uint8), np.zeros(self._size, np.uint8), np.zeros(self._size, np.int32), np.zeros((surfaces, 3))
        )

    def _draw_standing_and_moving(self, canvas: Canvas, view: street.View, index: int) -> dict[int, int]:
        """Things behind the walls, walls, things behind the fences, fences, all others. Returns the pixels claimed by each thing."""
        places, layout = self._places(index), self._layout
        begin, end, length = self._table[:, 4], self._table[:, 5], self._table[:, 7]
        t, depth = index / self._rate, places[:, 1] - view.z
        alive = (t >= begin) & (t <= end) & (depth + length > render.NEAR) & (depth < 2 * street.FAR)
        order = np.flatnonzero(alive)[np.argsort(-depth[alive], kind="stable")]
        beyond = np.abs(places[:, 0])
        fence_at = np.where(places[:, 0] < 0, layout.fence_at[0], layout.fence_at[1])
        group = np.where(beyond > layout.wall, 0, np.where((fence_at > 0) & (beyond > fence_at), 1, 2))
        claimed = self._draw_things(canvas, view, order[group[order] == 0], places)
        for side, strip, surface in zip((-1, 1), self._scenery.walls, WALL_IDS, strict=True):
            render.draw_wall(canvas, view, strip, x=side * layout.wall, surface=surface)
        claimed |= self._draw_things(canvas, view, order[group[order] == 1], places)
        for side, strip, at, surface in zip((-1, 1), self._scenery.fences, layout.fence_at, FENCE_IDS, strict=True):
            if at > 0:
                render.draw_wall(canvas, view, strip, x=side * at, surface=surface)
        return claimed | self._draw_things(canvas, view, order[group[order] == 2], places)

    def _draw_things(self, canvas: Canvas, view: street.View, order: NDArray[np.int64], places: NDArray[np.float64]) -> dict[int, int]:
        claimed = {}
        for item in order.tolist():
            thing, side, place = self._things[item], self._sides[item], (float(places[item, 0]), float(places[item, 1]))
            surface, board = FIRST_THING_ID + 2 * item, self._boards[id(thing.face)]
            claimed[item] = 0
            half = 0.45 * board.width  # a little inside the outline: cabins are narrower than the wheels
            if side is not None and abs(place[0] - view.x) > half:
                near_side = place[0] - np.sign(place[0] - view.x) * half
                claimed[item] += render.draw_wall(canvas, view, side, x=near_side, surface=surface + 1, begin=place[1])
            claimed[item] += render.draw_thing(canvas, view, thing, board, place, surface)
        return claimed


def _scenery(rng: np.random.Generator, layout: street.Layout, width: int, height: int) -> render.Scenery:
    tallest = rng.uniform(5, 15)
    walls = [Strip(art.facades(rng, length=150.0, tallest=tallest, green=rng.uniform(0.0, 0.5)), repeats=True) for _ in range(2)]
    fences = [Strip(art.fence(rng, length=60.0, height=rng.uniform(0.8, 1.6)), repeats=True) for _ in range(2)]
    ground = Strip(art.ground(rng, road=layout.road, kerb=layout.wall + 1, extent=layout.wall + 8, length=48.0), repeats=True)
    distance = art.distance(rng, 2 * width, 2 * height, height)
    return render.Scenery(distance, ground, (walls[0], walls[1]), (fences[0], fences[1]), layout)


def _tone(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The camera's contrast, exposure and white balance: a table (256, 1, 3) for each channel."""
    level = np.arange(256)[:, None] / 255
    gain, tint = rng.uniform(0.7, 1.15), rng.uniform(0.92, 1.08, size=3)
    curve = rng.uniform(0.0, 0.12) + (1 - 0.05) * gain * tint * level ** rng.uniform(0.75, 1.3)
    return (np.clip(curve, 0, 1) * 255).astype(np.uint8).reshape(256, 1, 3)


def _same_surface(here: NDArray[np.int32], there: NDArray[np.int32], flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the pixels around p + flow(p), that bilinear sampling reads, all show the surface that is at p."""
    height, width = here.shape
    nearly = 1e-3
    u, v = np.arange(width)[None] + flow[..., 0], np.arange(height)[:, None] + flow[..., 1]
    inside = (u > -nearly) & (v > -nearly) & (u < width - 1 + nearly) & (v < height - 1 + nearly)
    left, right = (np.clip(edge, 0, width - 1).astype(np.intp) for edge in (np.floor(u + nearly), np.ceil(u - nearly)))
    top, bottom = (np.clip(edge, 0, height - 1).astype(np.intp) for edge in (np.floor(v + nearly), np.ceil(v - nearly)))
    same: NDArray[np.bool_] = inside
    for row in (top, bottom):
        for column in (left, right):
            same = same & (there[row, column] == here)
    return same


def _boxes(
    canvas: Canvas, claimed: dict[int, int], things: list[street.Thing]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Labels (N,), boxes (N, 4) and ids (N,) of the people, cars and bicyclists in sight."""
    height, _ = canvas.labels.shape
    found = []
    owner = (canvas.surfaces - FIRST_THING_ID) >> 1
    for item, drawn in claimed.items():
        if things[item].box_label < 0 or drawn < 12:
            continue
        rows, columns = np.nonzero(owner == item)
        if len(rows) < max(12, _LEAST_SHOWN * drawn):
            continue
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if box[3] - box[1] >= 0.03 * height and box[2] - box[0] >= 3:
            found.append((things[item].box_label, box, item))
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    return np.array([label for label, _, _ in found], np.int64), boxes, np.array([item for _, _, item in found], np.int64)
