"""Generated drives as a source: segmentation, boxes of all classes and real pairs with exact flow, with no data at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dff_ros.recording.drive import BOX_NAMES, DriveFrame, GeneratedDrive
from dff_train.components import rare_points
from dff_train.source_pairs import LONGEST_OFFSET, PAPER_OFFSETS, Array, SourcePair, Truth

SEEDS = range(1000, 1040)
"""Drives to learn from; the demo and the tests use seeds below 1000."""

_RATE = 15.0
_DISTANCES = ((1, 5), (5, 10), (10, LONGEST_OFFSET + 1))
_QUALITY = 95
"""Of the JPEG that frames between are held as: a twelfth of the memory (100 MB for the 200 scenes), and 40 dB from what was drawn."""

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
    before: tuple[Array, ...]
    """The frames 1, 2, ... frames before, up to the one after the farthest key frame, as JPEG; none where they are not wanted."""


class DriveScenes:
    """Scenes out of generated drives, drawn once (about 10 ms a frame): each a labelled frame, a near, a far and a very far key frame.

    On demand with the frames between, a dozen more a scene, which take 6 ms to decode for the longest pairs.
    """

    name = "drives"

    def __init__(
        self,
        seeds: Iterable[int] = SEEDS,
        *,
        scenes: int = 5,
        width: int = 480,
        height: int = 360,
        flow: bool = False,
        between: bool = False,
    ) -> None:
        """``scenes`` per drive, five seconds apart.

        ``flow``: work out flow and visibility too (30 ms a pair, as half floats). ``between``: hold the frames between too.
        """
        self.scenes: list[_Scene] = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            apart = int(5 * _RATE)
            drive = GeneratedDrive(seed, scenes * apart + LONGEST_OFFSET + 1, width=width, height=height, rate=_RATE)
            for scene in range(scenes):
                offsets = [int(rng.integers(low, high)) for low, high in _DISTANCES]
                self.scenes.append(_scene(drive, LONGEST_OFFSET + scene * apart, offsets, flow, between))

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
        between = tuple(map(_decoded, reversed(scene.before[: key.offset - 1]))) if scene.before else None
        return SourcePair(
            key.image, scene.image, key.offset, scene.truth, self.name, flow=flow, visible=key.visible, between=between
        )

    def truths(self) -> list[tuple[tuple[int, int], Truth]]:
        return [((scene.image.shape[0], scene.image.shape[1]), scene.truth) for scene in self.scenes]


def _scene(drive: GeneratedDrive, index: int, offsets: Sequence[int], flow: bool, between: bool) -> _Scene:
    current = drive.frame(index)
    keys = []
    for offset in offsets:
        moved, visible = current.flow_to(index - offset) if flow else (None, None)
        half = None if moved is None else np.clip(moved, -_FARTHEST, _FARTHEST).astype(np.float16)
        keys.append(_Key(offset, drive.frame(index - offset).frame, half, visible))
    before = tuple(_encoded(drive.frame(index - offset).frame) for offset in range(1, max(offsets))) if between else ()
    return _Scene(current.frame, drive_truth(current), tuple(keys), before)


def _encoded(image: Array) -> Array:
    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def _decoded(encoded: Array) -> Array:
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))  # red and blue change places on both ways


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
