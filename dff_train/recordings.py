"""Unlabelled recordings as sources: decoded once into memory at the size the network sees, the last fifth held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from dff_ros.recording.frames import Recording, RecordingError, StampedFrame
from dff_ros.recording.opening import open_recording
from dff_train.augment import NETWORK_PIXELS, nominal_scale
from dff_train.clips import Clip
from dff_train.source_pairs import Array, Truth

MOST_FRAMES = 1500
"""Frames of one recording that are kept: 780 MB at 480x360."""

RUN_LENGTH = 60
"""Consecutive frames that stay together where a longer recording is thinned out; more for key frame intervals above 20."""

STANDING = 0.1
"""Share of the pairs in which nothing moves: a recording may hold no such stretch, and propagation must not harm where it is exact."""

HELD_OUT = 5
"""One frame in so many, those at the end, is not trained on."""

_BAG_ENDINGS = (".mcap", ".db3")


@dataclass
class _Run:
    """Consecutive frames of one size."""

    size: tuple[int, ...]
    """Shape of the recording's frames; those kept are no larger than the network sees them."""
    frames: list[Array] = field(default_factory=list)


def open_unlabelled(path: Path) -> Recording:
    """A video file, a folder of images or a bag, whatever ``path`` is; raises RecordingError where it is none of them."""
    if path.suffix in _BAG_ENDINGS or (path / "metadata.yaml").is_file():
        return open_recording(bag=path)
    return open_recording(frames=path) if path.is_dir() else open_recording(video=path)


def decode(
    name: str,
    recording: Iterable[StampedFrame],
    *,
    pixels: int = NETWORK_PIXELS,
    most: int = MOST_FRAMES,
    run_length: int = RUN_LENGTH,
) -> Clip:
    """The frames, none larger than ``pixels``, as an unlabelled clip called ``name``.

    Of more than ``most`` frames evenly spread runs of ``run_length`` are kept, at least half as many. A change of size starts
    a new run, as it would start with a key frame. Raises RecordingError where there is no frame at all.
    """
    runs: list[_Run] = []
    kept_of, kept, number, size = 1, 0, -1, (0, 0, 0)
    for index, item in enumerate(recording):
        if index % run_length == 0 or item.frame.shape != size:
            number, size = number + 1, item.frame.shape
            if number % kept_of == 0:
                runs.append(_Run(size))
        if number % kept_of == 0:
            runs[-1].frames.append(_shrunk(item.frame, pixels))
            kept += 1
        if kept > most:
            runs, kept_of = runs[::2], 2 * kept_of
            kept = sum(len(run.frames) for run in runs)
    if not runs:
        raise RecordingError(f"{name} should hold frames, got none")
    return _joined(name, runs, adjacent=kept_of == 1)


def _shrunk(frame: Array, pixels: int) -> Array:
    height, width = frame.shape[:2]
    scale = nominal_scale(height, width, pixels)
    if scale >= 1.0:
        return np.ascontiguousarray(frame)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA))


def _joined(name: str, runs: list[_Run], *, adjacent: bool) -> Clip:
    """One clip of several runs, of which adjacent ones of one size are one."""
    frames: list[Array] = []
    firsts: list[int] = []
    for before, run in zip([None, *runs], runs, strict=False):
        goes_on = adjacent and before is not None and before.size == run.size
        first = firsts[-1] if goes_on else len(frames)
        frames += run.frames
        firsts += [first] * len(run.frames)
    return Clip(name, frames, [Truth()] * len(frames), firsts=firsts)


def split(clip: Clip) -> tuple[Clip, Clip]:
    """The part to learn from and the part held out, the clip's last fifth."""
    border = len(clip) - len(clip) // HELD_OUT
    learned = Clip(clip.name, clip.frames[:border], clip.truth[:border], firsts=clip.firsts[:border], standing=STANDING)
    firsts = [max(first - border, 0) for first in clip.firsts[border:]]
    return learned, Clip(clip.name, clip.frames[border:], clip.truth[border:], firsts=firsts)


def unlabelled_source(data: Path, name: str, *, pixels: int = NETWORK_PIXELS) -> Clip:
    """What a recipe learns from the recording at ``name`` in the DATA folder: all but the last fifth, for pairs alone."""
    return split(decode(name, open_unlabelled(data / name), pixels=pixels))[0]
