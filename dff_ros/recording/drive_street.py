"""The world of the generated drive: a camera moving along a street, and the things that stand, drive and walk there.

x is to the right, y up from the ground, z along the street, in metres; t in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dff_ros.recording import drive_art as art
from dff_ros.recording import drive_things as things
from dff_ros.recording.drive_art import Generator, Rgba, Surface

FAR = 110.0
"""Metres ahead at which things come into being."""

STRETCHES = ((0.0, 0.0), (1.5, 4.0), (6.0, 10.0), (11.0, 16.0))
"""Speeds of the four kinds of stretches of a drive, m/s: still, slow, cruising, fast."""


@dataclass(frozen=True)
class View:
    """Where the camera is: its place in metres, the focal length and the vanishing point of the street in pixels."""

    x: float
    y: float
    z: float
    focal: float
    centre_u: float
    centre_v: float


@dataclass(frozen=True, eq=False)
class Cutout:
    """A flat thing facing the camera, ``width`` x ``height`` metres."""

    rgba: Rgba
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Thing:
    """Something in the street. The near face stands at (x, z); ``side`` runs back from it.

    It is there from ``begin`` to ``end`` and moves by (vx, vz) a second; where it keeps ``ahead`` of the camera, z counts from the camera.
    ``box_label`` is -1 for what has no box.
    """

    face: Cutout
    label: int
    x: float
    z: float
    base: float = 0.0
    box_label: int = -1
    vx: float = 0.0
    vz: float = 0.0
    begin: float = -np.inf
    end: float = np.inf
    ahead: bool = False
    side: Surface | None = None

    @property
    def length(self) -> float:
        """Metres from the near face to the far end."""
        return self.side.length if self.side else 0.0

    def place(self, t: float, driven: float) -> tuple[float, float]:
        """x and z at time ``t``, with the camera at z = ``driven``."""
        since = t - self.begin if self.vx or self.vz else 0.0
        return self.x + self.vx * since, self.z + self.vz * since + (driven if self.ahead else 0.0)


@dataclass(frozen=True)
class Layout:
    """Cross-section of the street and the traffic in it, drawn from a seed. ``hand`` is 1 where traffic keeps right, -1 left."""

    road: float
    wall: float
    fence_at: tuple[float, float]
    hand: int
    parked: float
    watching: bool
    people: float
    traffic: float

    def behind_fence(self, x: float) -> bool:
        """Whether a fence stands between the street and ``x``."""
        at = self.fence_at[0 if x < 0 else 1]
        return 0 < at < abs(x)


def choose_layout(rng: Generator) -> Layout:
    """A street with a camera driving along it, or, one time in four, a place watched from above by a camera that stands still."""
    watching = bool(rng.random() < 0.25)
    road = rng.uniform(3.4, 6.0)
    wall = road + (rng.uniform(6, 14) if watching else rng.uniform(2.2, 5.5))
    left, right = (road + rng.uniform(0.5, wall - road - 0.8) if rng.random() < 0.35 else 0.0 for _ in range(2))
    parked = rng.uniform(0.1, 0.7) if road > 4.2 and rng.random() < 0.6 else 0.0
    people = rng.uniform(1.0, 2.5) if watching else rng.uniform(0.4, 1.5)
    return Layout(road, wall, (left, right), int(rng.choice([-1, 1])), parked, watching, people, rng.uniform(0.1, 0.4))


class Motion:
    """The camera's way: still, slow, cruising and fast stretches in changing order; sway and bounce follow the distance driven."""

    def __init__(self, rng: Generator, layout: Layout, *, duration: float, width: int, height: int) -> None:
        self._width, self._height = width, height
        speeds = [0.0] if layout.watching else list(_speeds(rng, duration))
        knots = [0.0]
        for _ in speeds[1:]:
            knots.append(knots[-1] + (rng.uniform(0.8, 1.5) if len(knots) % 2 == 0 else rng.uniform(1.5, 4.0)))
        self._times, self._speeds = np.array(knots), np.array(speeds)
        steps = np.diff(self._times) * (self._speeds[1:] + self._speeds[:-1]) / 2
        self._distances = np.concatenate([[0.0], np.cumsum(steps)])
        self._focal = rng.uniform(0.85, 1.2) * width
        self._lane = layout.hand * max(0.0, layout.road - 2.2 * (layout.parked > 0)) * rng.uniform(0.35, 0.55)
        self._camera_height = rng.uniform(3.0, 6.0) if layout.watching else rng.uniform(1.15, 1.9)
        self._horizon = rng.uniform(-0.32, -0.15) if layout.watching else rng.uniform(-0.12, 0.06)
        self._waves = [(rng.uniform(0.03, 0.09), rng.uniform(40, 110), rng.uniform(0, 6.3)) for _ in range(2)]
        self._sway = rng.uniform(0.1, 0.5), rng.uniform(25, 60), rng.uniform(0, 6.3)
        self._bounce = rng.uniform(0.001, 0.006), rng.uniform(5, 14), rng.uniform(0, 6.3)

    def distance(self, t: float) -> float:
        """Metres driven at time ``t``; the speed is linear between knots and the first and last speeds go on forever."""
        item = int(np.clip(np.searchsorted(self._times, t, side="right") - 1, 0, len(self._times) - 1))
        past, speed = t - self._times[item], self._speeds[item]
        if item + 1 == len(self._times) or past < 0:
            return float(self._distances[item] + speed * past)
        slope = (self._speeds[item + 1] - speed) / (self._times[item + 1] - self._times[item])
        return float(self._distances[item] + speed * past + slope * past * past / 2)

    def view(self, t: float) -> View:
        """The camera at time ``t``."""
        z = self.distance(t)
        turn = sum(size * np.sin(2 * np.pi * z / period + phase) for size, period, phase in self._waves)
        sway, bounce = (size * np.sin(2 * np.pi * z / period + phase) for size, period, phase in (self._sway, self._bounce))
        centre_u = (self._width - 1) / 2 + turn * self._width
        centre_v = (self._height - 1) / 2 + (self._horizon + bounce) * self._height
        return View(float(self._lane + sway), self._camera_height, z, self._focal, float(centre_u), float(centre_v))


def _speeds(rng: Generator, duration: float) -> Iterator[float]:
    """Pairs of equal speeds (a stretch), one pair after another (a ramp between), long enough for ``duration``."""
    for _ in range(int(duration / 8) + 1):
        for kind in rng.permutation(len(STRETCHES)):
            speed = rng.uniform(*STRETCHES[kind])
            yield speed
            yield speed


@dataclass(frozen=True, eq=False)
class Car:
    """Pictures of one car: its ends, its side as seen by somebody whose way it crosses, and its side along the street either way round."""

    rear: Cutout
    front: Cutout
    side: Cutout
    going: Surface
    coming: Surface


class Cast:
    """A fixed company of cut-outs that the things of a street are played by."""

    def __init__(self, rng: Generator) -> None:
        self.people = [self._cut(things.person, rng, rng.uniform(0.3, 0.42), rng.uniform(1.5, 1.92)) for _ in range(14)]
        self.riders = [self._cut(things.bicyclist, rng, 0.62, rng.uniform(1.65, 1.85)) for _ in range(4)]
        self.passing_riders = [self._cut(things.bicyclist, rng, 1.75, rng.uniform(1.65, 1.85)) for _ in range(4)]
        self.trees = [self._cut(things.tree, rng, 0.0, rng.uniform(3.5, 8.5)) for _ in range(5)]
        self.poles = [self._cut(things.pole, rng, rng.uniform(0.1, 0.2) * 10, rng.uniform(3.0, 7.0)) for _ in range(3)]
        self.signs = [self._cut(things.sign, rng, *rng.choice([(0.6, 0.6), (0.7, 0.7), (0.36, 1.0)])) for _ in range(4)]
        self.cars = [self._car(rng) for _ in range(7)]

    @staticmethod
    def _cut(paint: things.Painter, rng: Generator, width: float, height: float) -> Cutout:
        if paint is things.person:
            width *= height
        elif paint is things.tree:
            width = height * rng.uniform(0.55, 0.85)
        elif paint is things.pole:
            width /= 10
        return Cutout(paint(rng, width, height), width, height)

    @staticmethod
    def _car(rng: Generator) -> Car:
        width, height, length = rng.uniform(1.65, 1.9), rng.uniform(1.35, 1.75), rng.uniform(3.6, 4.8)
        paint = art.vivid(rng) if rng.random() < 0.6 else art.shade((200, 200, 205), rng.uniform(0.15, 1.2))
        rear, front = (Cutout(things.car_end(rng, width, height, paint, front=front), width, height) for front in (False, True))
        side, flank = (Cutout(things.car_side(rng, length, height, paint, steep=steep), length, height) for steep in (False, True))
        return Car(rear, front, side, _along(flank, facing=False), _along(flank, facing=True))


def _along(side: Cutout, *, facing: bool) -> Surface:
    """A car's side as a plane along the street; ``facing`` where its front is the near end."""
    rgba = side.rgba[::-1].transpose(1, 0, 2)
    rgba = np.ascontiguousarray(rgba[::-1] if facing else rgba)
    return Surface(rgba, np.full(rgba.shape[:2], art.CAR, np.uint8), side.height / rgba.shape[1])


def populate(rng: Generator, layout: Layout, motion: Motion, duration: float) -> list[Thing]:
    """Everything that stands or moves in the street during ``duration`` seconds."""
    cast, end = Cast(rng), motion.distance(duration) + FAR
    standing = [*_furniture(rng, layout, cast, end), *_parked(rng, layout, cast, end)]
    return [*standing, *_walkers(rng, layout, cast, motion, duration), *_traffic(rng, layout, cast, motion, duration)]


def _some(rng: Generator, rate: float, duration: float) -> NDArray[np.float64]:
    """Times of random events, ``rate`` a second."""
    return rng.uniform(0, max(duration, 1e-3), size=rng.poisson(rate * duration))


def _furniture(rng: Generator, layout: Layout, cast: Cast, end: float) -> Iterator[Thing]:
    """Poles, signs and trees on both sides."""
    for side in (-1, 1):
        green, spacing = rng.uniform(0.2, 0.9), rng.uniform(9, 25)
        for z in np.arange(4.0, end, spacing):
            place, at = z + rng.uniform(0, 4), side * (layout.road + rng.uniform(0.4, 0.9))
            if rng.random() < 0.7:
                post = cast.poles[rng.integers(len(cast.poles))]
                yield Thing(post, art.POLE, at, place)
                if rng.random() < 0.6:
                    base = min(rng.uniform(1.9, 2.8), post.height - 1)
                    yield Thing(cast.signs[rng.integers(len(cast.signs))], art.SIGN, at, place - 0.1, base=base)
            if rng.random() < green:
                away = side * rng.uniform(layout.road + 1.2, layout.wall + 3)
                yield Thing(cast.trees[rng.integers(len(cast.trees))], art.TREE, away, place + rng.uniform(2, spacing))


def _parked(rng: Generator, layout: Layout, cast: Cast, end: float) -> Iterator[Thing]:
    for side in (-1, 1):
        for z in np.arange(6.0, end, 6.5):
            if rng.random() < layout.parked:
                yield _car(rng, cast, x=side * (layout.road - 1.0), z=z + rng.uniform(0, 1), facing=side != layout.hand)


def _car(rng: Generator, cast: Cast, *, x: float, z: float, facing: bool) -> Thing:
    car = cast.cars[rng.integers(len(cast.cars))]
    face, side = (car.front, car.coming) if facing else (car.rear, car.going)
    return Thing(face, art.CAR, x, z, box_label=1, side=side)


def _walkers(rng: Generator, layout: Layout, cast: Cast, motion: Motion, duration: float) -> Iterator[Thing]:
    """People and a few bicyclists, on the pavements and crossing the street."""
    for begin in _some(rng, layout.people, duration + 20) - 20:
        rider, pace, side = rng.random() < 0.15, rng.uniform(0.8, 1.8), float(rng.choice([-1, 1]))
        pace, label, box_label = (3 * pace, art.BICYCLIST, 2) if rider else (pace, art.PEDESTRIAN, 0)
        ahead = rng.uniform(7, 30) if layout.watching else rng.uniform(9, 45)
        z = motion.distance(begin) + ahead
        reach = 0.75 * ahead + 1
        if rng.random() < (0.7 if layout.watching else 0.35) and _free(motion, begin, 2 * reach / pace, z):
            faces = cast.passing_riders if rider else cast.people
            face = _turned(faces[rng.integers(len(faces))], side)
            walker = Thing(face, label, side * reach, z, box_label=box_label, vx=-side * pace, vz=rng.uniform(-0.3, 0.3))
            yield replace(walker, begin=begin, end=begin + 2 * reach / pace)
        else:
            low, high = (layout.road - 1.2, layout.road) if rider else (layout.road + 0.4, max(layout.road + 0.6, layout.wall - 0.5))
            faces = cast.riders if rider else cast.people
            face, x = faces[rng.integers(len(faces))], side * rng.uniform(low, high)
            walker = Thing(face, label, x, z, box_label=box_label, vz=pace * rng.choice([-1, 1]))
            yield replace(walker, begin=begin, end=begin + rng.uniform(8, 30))


def _free(motion: Motion, begin: float, life: float, z: float) -> bool:
    """Whether the camera stays 4 metres short of ``z`` for ``life`` seconds."""
    return motion.distance(begin + life) < z - 4


def _turned(face: Cutout, side: float) -> Cutout:
    """Drawn facing right: turned round for what comes from the right."""
    return face if side < 0 else Cutout(np.ascontiguousarray(face.rgba[:, ::-1]), face.width, face.height)


def _traffic(rng: Generator, layout: Layout, cast: Cast, motion: Motion, duration: float) -> Iterator[Thing]:
    """Cars coming towards the camera, crossing before it and, often, one ahead of it."""
    lane = layout.road * 0.45
    for begin in _some(rng, layout.traffic, duration + 12) - 12:
        pace, z = rng.uniform(5, 13), motion.distance(begin) + FAR
        coming = _car(rng, cast, x=-layout.hand * lane, z=z, facing=True)
        yield replace(coming, vz=-pace, begin=begin, end=begin + 2 * FAR / pace)
    for begin in _some(rng, layout.traffic, duration + 4) - 4:
        side, pace, ahead = float(rng.choice([-1, 1])), rng.uniform(4, 9), rng.uniform(10, 30)
        z, reach = motion.distance(begin) + ahead, 0.75 * ahead + 4
        if _free(motion, begin, 2 * reach / pace, z):
            face = _turned(cast.cars[rng.integers(len(cast.cars))].side, side)
            crossing = Thing(face, art.CAR, side * reach, z, box_label=1, vx=-side * pace)
            yield replace(crossing, begin=begin, end=begin + 2 * reach / pace)
    if not layout.watching and rng.random() < 0.6:
        leading = _car(rng, cast, x=layout.hand * lane, z=rng.uniform(9, 30), facing=False)
        yield replace(leading, vz=rng.uniform(0.0, 0.3), begin=0.0, ahead=True)
