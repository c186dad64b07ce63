"""Generated drives as a source: segmentation, boxes of all classes and real pairs with exact flow, with no data at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dff_ros.recording.drive import BOX_NAMES, DriveFrame, GeneratedDrive
from dff_train.components import rare_points
from dff_train.source_pairs import LONGEST_OFFSET, PAPER_OFFSETS, Array, SourcePair, Truth

SEEDS = range(1000, 1040)
"""Drives to learn from; the demo and the tests use seeds below 1000."""

_RATE = 15.0
_DISTANCES = ((1, 5), (5, 10), (10, LONGEST_OFFSET + 1))
_FARTHEST = 500.0
"""Pixels; longer flow, that of points passing the camera, leads out of the frame anyway."""


@dataclass(frozen=True)
class _Key:
    """A frame some frames before a scene's current one."""

    offset: int
    image: Array
    flow: Array | None
    """(H, W, 2) float16, from the current frame."""
    visible: Array | None


@dataclass(frozen=True)
class _Scene:
    image: Array
    truth: Truth
    keys: tuple[_Key, ...]


class DriveScenes:
    """Scenes out of generated drives, drawn once (about 10 ms a frame): each a labelled frame, a near, a far and a very far key frame."""

    name = "drives"

    def __init__(self, seeds: Iterable[int] = SEEDS, *, scenes: int = 5, width: int = 480, height: int = 360, flow: bool = False) -> None:
        """``scenes`` per drive, five seconds apart; ``flow``: work out flow and visibility too (30 ms a pair, as half floats)."""
        self.scenes: list[_Scene] = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            apart = int(5 * _RATE)
            drive = GeneratedDrive(seed, scenes * apart + LONGEST_OFFSET + 1, width=width, height=height, rate=_RATE)
            for scene in range(scenes):
                offsets = [int(rng.integers(low, high)) for low, high in _DISTANCES]
                self.scenes.append(_scene(drive, LONGEST_OFFSET + scene * apart, offsets, flow))

    def __len__(self) -> int:
        return len(self.scenes)

    def pair(self, index: int, rng: np.random.Generator, offsets: tuple[int, int] = PAPER_OFFSETS) -> SourcePair:
        """Scene ``index`` as a still or with one of its key frames, each as likely; the nearest where ``offsets`` allows none."""
        scene = self.scenes[index]
        fewest, most = offsets
        keys = [None] * (fewest == 0) + [key for key in scene.keys if fewest <= key.offset <= most] or [scene.keys[0]]
        key = keys[rng.integers(len(keys))]
        if key is None:
            return SourcePair(scene.image, scene.image, 0, scene.truth, self.name)
        flow = None if key.flow is None else key.flow.astype(np.float32)
        return SourcePair(key.image, scene.image, key.offset, scene.truth, self.name, flow=flow, visible=key.visible)

    def truths(self) -> list[tuple[tuple[int, int], Truth]]:
        return [((scene.image.shape[0], scene.image.shape[1]), scene.truth) for scene in self.scenes]


def _scene(drive: GeneratedDrive, index: int, offsets: Iterable[int], flow: bool) -> _Scene:
    current = drive.frame(index)
    keys = []
    for offset in offsets:
        moved, visible = current.flow_to(index - offset) if flow else (None, None)
        half = None if moved is None else np.clip(moved, -_FARTHEST, _FARTHEST).astype(np.float16)
        keys.append(_Key(offset, drive.frame(index - offset).frame, half, visible))
    return _Scene(current.frame, drive_truth(current), tuple(keys))


def drive_truth(frame: DriveFrame) -> Truth:
    """The drive's own labels and boxes; things too small or too hidden to have a box are ignored."""
    return Truth(
        labels=frame.labels,
        boxes=frame.boxes,
        box_labels=frame.box_labels,
        ignore_boxes=np.concatenate([frame.unboxed(kind) for kind in range(len(BOX_NAMES))]),
        labelled_classes=(True, True, True),
        points=rare_points(frame.labels),
    )
