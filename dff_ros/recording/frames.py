"""What every recording is: a sequence of stamped frames, read lazily."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""H x W x 3 uint8, RGB, any strides."""

FIRST_STAMP = 1_000_000_000
"""Stamp of frame 0 where a recording has none of its own: one second, since 0 means unknown."""

DEFAULT_RATE = 30.0
"""Hz of an image folder that was given no rate."""


class RecordingError(ValueError):
    """A recording that cannot be read; one line that says which and why."""


@dataclass(frozen=True, eq=False)
class StampedFrame:
    """One frame of a recording.

    ``index`` counts the frames of the source from 0, ``stamp`` is in nanoseconds, ``frame`` is H x W x 3 uint8 RGB,
    ``name`` is the stem of the image's file ("" where there is none), ``frame_id`` the camera's coordinate frame.
    """

    index: int
    stamp: int
    frame: Frame
    name: str
    frame_id: str


class Recording(Protocol):
    """Frames in source order. Iterating again starts again; only one frame is held at a time."""

    @property
    def rate(self) -> float | None:
        """Frames per second, None where the stamps alone say."""

    @property
    def description(self) -> str:
        """One line for logs and reports."""

    def __len__(self) -> int:
        """Number of frames; for videos and bags what their headers claim."""

    def __iter__(self) -> Iterator[StampedFrame]: ...


def stamp_at(index: int, rate: float) -> int:
    """Stamp in nanoseconds of frame ``index`` at ``rate`` Hz."""
    return FIRST_STAMP + round(index * 1e9 / rate)
