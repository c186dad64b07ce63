"""A generated drive: a street seen from a moving camera, with the truth about every pixel.

Labels, boxes, flow and visibility are exact by construction: every surface is a plane of known place, and the flow from one frame to
any other follows from the planes and the two views. Frames are a function of the drive's seed and length and of their index.
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

PIXEL_LABELS = tuple(CLASS_NAMES.index(name) for name in ("pedestrian", "car", "bicyclist"))
"""The label of the pixels of each kind of object that has boxes, in the order of BOX_NAMES."""

_KEPT_FRAMES = 8
_LEAST_IN_SIGHT = 0.3
"""A thing of which others hide more than the rest of this share has no box."""

_LEAST_PIXELS = 12


@dataclass(frozen=True, eq=False)
class DriveFrame(StampedFrame):
    """A frame and its truth.

    ``labels`` is (H, W) uint8, the eleven classes of CamVid. ``boxes`` is (N, 4) float32, x1 y1 x2 y2 around what is in sight of each
    person, car and bicyclist, right and bottom edges exclusive; ``box_labels`` (N,) int64 (0 person, 1 car, 2 bicyclist); ``box_ids``
    (N,) int64 are the same for the same thing through the drive. ``surfaces`` (H, W) int32 tells the surfaces apart, those of thing
    ``id`` being FIRST_THING_ID + 2 id and the next; ``inverse_depth`` holds (a, b, c) for each, 1/m at pixel (u, v) being a u + b v + c.
    """

    labels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    box_ids: NDArray[np.int64]
    surfaces: NDArray[np.int32]
    inverse_depth: NDArray[np.float64] = field(repr=False)
    drive: GeneratedDrive = field(repr=False)

    def flow_to(self, key: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where the pixels of this frame are in frame ``key``: flow (H, W, 2), (dx, dy) in pixels; and which are in sight there (H, W).

        A pixel counts as in sight where all pixels that bilinear sampling reads show the same surface.
        """
        return self.drive.flow(self.index, key)

    def unboxed(self, kind: int) -> NDArray[np.float32]:
        """Boxes (N, 4) around the pixels of a kind (index of BOX_NAMES) that none of its boxes holds: too small or too hidden for one."""
        left_over = self.labels == PIXEL_LABELS[kind]
        for x1, y1, x2, y2 in self.boxes[self.box_labels == kind].astype(int):
            left_over[y1:y2, x1:x2] = False
        _, _, statistics, _ = cv2.connectedComponentsWithStats(left_over.astype(np.uint8), connectivity=8)
        left, top, width, height = statistics[1:, :4].T  # row 0 is the background
        return np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


class GeneratedDrive:
    """A recording made up from a seed, of any length, size and rate; its frames can be had in any order.

    The street, its colours and traffic and the camera's way vary with the seed; one seed in four gives a place watched by a camera that
    stands still, the others still, slow, cruising and fast stretches of a drive.
    """

    def __init__(self, seed: int = 0, frames: int = 300, *, width: int = 480, height: int = 360, rate: float = 15.0) -> None:
        if frames < 1 or width < 16 or height < 16 or not 0 < rate < 1e6:
            given = f"{frames} of {width}x{height} at {rate:g}"
            raise RecordingError(f"drive should have at least 1 frame of 16x16 pixels at a rate above 0 Hz, got {given}")
        self._seed, self._count, self._rate, self._height, self._width = seed, frames, rate, height, width
        ways, looks, people = (np.random.default_rng([seed, part]) for part in range(3))
        self._layout = street.choose_layout(ways)
        self._motion = street.Motion(ways, self._layout, duration=frames / rate, width=width, height=height)
        self._scenery = _Scenery(looks, self._layout, width, height)
        self._things = street.populate(people, self._layout, self._motion, frames / rate)
        self._boards = {id(thing.face): Billboard(thing.face) for thing in self._things}
        self._sides = {id(thing.side): Strip(thing.side, repeats=False) for thing in self._things if thing.side}
        self._kept: OrderedDict[int, DriveFrame] = OrderedDict()

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self._rate

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"generated drive {self._seed}, {self._count} frames of {self._width}x{self._height} at {self._rate:g} Hz"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[DriveFrame]:
        return (self.frame(index) for index in range(self._count))

    def frame(self, index: int) -> DriveFrame:
        """Frame ``index`` with its truth. The last few drawn are kept: do not write into them."""
        if not 0 <= index < self._count:
            raise RecordingError(f"frame should lie in 0..{self._count - 1}, got {index}")
        if index not in self._kept:
            self._kept[index] = self._draw(index)
            if len(self._kept) > _KEPT_FRAMES:
                self._kept.popitem(last=False)
        return self._kept[index]

    def flow(self, index: int, key: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Exact flow from frame ``index`` to frame ``key`` and what is in sight there; see ``DriveFrame.flow_to``.

        A point at (x, z) from the camera with w = 1/z is then at (x + dx, z + dz), so its inverse depth becomes w ratio with
        ratio = 1 / (1 + dz w), and its pixel u = centre + focal x w moves to centre' + (u - centre) ratio + focal dx w ratio.
        """
        here, there = self.frame(index), self.frame(key)
        view, other = (self._motion.view(item / self._rate) for item in (index, key))
        u, v = np.arange(self._width)[None], np.arange(self._height)[:, None]
        a, b, c = (here.inverse_depth[:, item][here.surfaces] for item in range(3))
        w = a * u + b * v + c
        moved_x, moved_z = (moved[here.surfaces] for moved in self._displacements(index, key))
        nearing = 1 + (moved_z + view.z - other.z) * w
        in_front = nearing > 0.01
        ratio = 1 / np.where(in_front, nearing, 1.0)
        flow = np.empty((self._height, self._width, 2), np.float32)
        flow[..., 0] = other.centre_u - view.centre_u + (u - view.centre_u) * (ratio - 1)
        flow[..., 0] += (moved_x + view.x - other.x) * view.focal * w * ratio
        flow[..., 1] = other.centre_v - view.centre_v + (v - view.centre_v) * (ratio - 1)
        return flow, in_front & _same_surface(here.surfaces, there.surfaces, flow)

    def _displacements(self, index: int, key: int) -> NDArray[np.float64]:
        """How far each surface moves by itself from frame ``index`` to ``key``, x and z in metres, (2, surfaces)."""
        moved = np.repeat(self._places(key) - self._places(index), 2, axis=0)
        return np.asarray(np.vstack([np.zeros((FIRST_THING_ID, 2)), moved]).T)

    def _places(self, index: int) -> NDArray[np.float64]:
        """x and z of all things, (N, 2)."""
        t = index / self._rate
        driven = self._motion.distance(t)
        return np.array([thing.place(t, driven) for thing in self._things], np.float64).reshape(-1, 2)

    def _draw(self, index: int) -> DriveFrame:
        view = self._motion.view(index / self._rate)
        canvas = Canvas.blank(self._height, self._width, FIRST_THING_ID + 2 * len(self._things))
        render.draw_distance(canvas, view, *self._scenery.distance)
        render.draw_ground(canvas, view, self._scenery.ground)
        claimed = self._draw_from_far_to_near(canvas, view, index)
        labels, boxes, ids = _boxes(canvas, claimed, self._things)
        frame = np.asarray(cv2.LUT(canvas.rgb, self._scenery.tone), np.uint8)
        stamp = stamp_at(index, self._rate)
        return DriveFrame(index, stamp, frame, "", "camera", canvas.labels, boxes, labels, ids, canvas.surfaces, canvas.inverse_depth, self)

    def _draw_from_far_to_near(self, canvas: Canvas, view: street.View, index: int) -> dict[int, int]:
        """Things beyond the walls, walls, things behind the fences, fences, all others. Returns the pixels claimed by each thing."""
        layout, places, t = self._layout, self._places(index), index / self._rate
        groups: tuple[list[int], list[int], list[int]] = ([], [], [])
        for item in np.argsort(-places[:, 1], kind="stable").tolist():
            thing, x, depth = self._things[item], places[item, 0], places[item, 1] - view.z
            if thing.begin <= t <= thing.end and render.NEAR - thing.length < depth < 2 * street.FAR:
                groups[0 if abs(x) > layout.wall else 1 if layout.behind_fence(x) else 2].append(item)
        claimed = self._draw_things(canvas, view, groups[0], places)
        for side, wall, surface in zip((-1, 1), self._scenery.walls, WALL_IDS, strict=True):
            render.draw_wall(canvas, view, wall, x=side * layout.wall, surface=surface)
        claimed |= self._draw_things(canvas, view, groups[1], places)
        for side, fence, at, surface in zip((-1, 1), self._scenery.fences, layout.fence_at, FENCE_IDS, strict=True):
            if at > 0:
                render.draw_wall(canvas, view, fence, x=side * at, surface=surface)
        return claimed | self._draw_things(canvas, view, groups[2], places)

    def _draw_things(self, canvas: Canvas, view: street.View, items: list[int], places: NDArray[np.float64]) -> dict[int, int]:
        claimed = {}
        for item in items:
            thing, (x, z), surface = self._things[item], places[item].tolist(), FIRST_THING_ID + 2 * item
            claimed[item] = 0
            inside = 0.45 * thing.face.width  # cars are narrower above their wheels
            if thing.side is not None and abs(x - view.x) > inside + 0.01:
                near_side = x - inside if x > view.x else x + inside
                side = self._sides[id(thing.side)]
                claimed[item] += render.draw_wall(canvas, view, side, x=near_side, surface=surface + 1, begin=z)
            claimed[item] += render.draw_thing(canvas, view, thing, self._boards[id(thing.face)], x=x, z=z, surface=surface)
        return claimed


class _Scenery:
    """What is there all along the street, and the tone of the picture."""

    def __init__(self, rng: np.random.Generator, layout: street.Layout, width: int, height: int) -> None:
        tallest, green, lights = rng.uniform(5, 15), rng.uniform(0.0, 0.5), rng.uniform(0.55, 1.0, size=2)
        left, right = (art.facades(rng, length=150.0, tallest=tallest, green=green, light=light) for light in lights)
        self.walls = Strip(left, repeats=True), Strip(right, repeats=True)
        left, right = (art.fence(rng, length=60.0, height=rng.uniform(0.8, 1.6)) for _ in range(2))
        self.fences = Strip(left, repeats=True), Strip(right, repeats=True)
        surface = art.ground(rng, road=layout.road, kerb=layout.wall + 1, extent=layout.wall + 8, length=48.0)
        self.ground = Strip(surface, repeats=True)
        self.tone = _tone(rng)
        self.distance = art.distance(rng, 2 * width, 2 * height, height)


def _tone(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The camera's contrast, exposure and white balance: a table (256, 1, 3) for the channels."""
    level = np.arange(256)[:, None] / 255
    gain, tint = rng.uniform(0.6, 1.15), rng.uniform(0.92, 1.08, size=3)
    curve = rng.uniform(0.0, 0.12) + 0.95 * gain * tint * level ** rng.uniform(0.75, 1.5)
    return (np.clip(curve, 0, 1) * 255).astype(np.uint8).reshape(256, 1, 3)


def _same_surface(here: NDArray[np.int32], there: NDArray[np.int32], flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the pixels around p + flow(p), that bilinear sampling reads, all show the surface that is at p."""
    height, width = here.shape
    nearly = 1e-3  # a pixel: what rounding may add to a flow of whole pixels
    u, v = np.arange(width)[None] + flow[..., 0], np.arange(height)[:, None] + flow[..., 1]
    same: NDArray[np.bool_] = (u > -nearly) & (v > -nearly) & (u < width - 1 + nearly) & (v < height - 1 + nearly)
    columns = [np.clip(edge, 0, width - 1).astype(np.intp) for edge in (np.floor(u + nearly), np.ceil(u - nearly))]
    rows = [np.clip(edge, 0, height - 1).astype(np.intp) for edge in (np.floor(v + nearly), np.ceil(v - nearly))]
    for row in rows:
        for column in columns:
            same &= there[row, column] == here
    return same


def _boxes(
    canvas: Canvas, claimed: dict[int, int], things: list[street.Thing]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Labels (N,), boxes (N, 4) and ids (N,) of the people, cars and bicyclists in sight."""
    height = len(canvas.labels)
    owner = (canvas.surfaces - FIRST_THING_ID) >> 1
    found = []
    for item, drawn in claimed.items():
        if things[item].box_label < 0 or drawn < _LEAST_PIXELS:
            continue
        rows, columns = np.nonzero(owner == item)
        if len(rows) < max(_LEAST_PIXELS, _LEAST_IN_SIGHT * drawn):
            continue
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if box[3] - box[1] >= 0.03 * height and box[2] - box[0] >= 3:
            found.append((things[item].box_label, box, item))
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    return np.array([label for label, _, _ in found], np.int64), boxes, np.array([item for _, _, item in found], np.int64)
