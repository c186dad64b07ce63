"""How fast the picture moves, from frame to frame: the same for every schedule and model, so that figures can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.recording.frames import StampedFrame

PICTURE_WIDTH = 320
"""Flow is measured on pictures of this width: DIS takes a millisecond there."""

SMALLEST_SIDE = 16
"""DIS needs a patch and a pyramid; smaller pictures have no flow."""

GROUPS = ("slow", "medium", "fast")

MEDIUM_FROM, FAST_FROM = 0.02, 0.1
"""Picture widths per second. A drive through a town moves at .05 to .15, a turn faster, the people of a still camera at .005."""


def group_of(speed: float) -> str:
    """One of ``GROUPS``, for a speed in picture widths per second."""
    return GROUPS[(speed >= MEDIUM_FROM) + (speed >= FAST_FROM)]


@dataclass(frozen=True)
class Motion:
    """From one frame back to the one before it."""

    flow: NDArray[np.float32]
    """(h, w, 2), (dx, dy) in pixels of the small picture."""
    speed: float | None
    """Mean length of the flow in picture widths per second; None where a stamp is unknown."""

    @property
    def group(self) -> str | None:
        """``slow``, ``medium`` or ``fast``."""
        return None if self.speed is None else group_of(self.speed)


class MotionMeter:
    """Measures the motion of a recording's frames, told of them in order. The latest frame may be asked for again."""

    def __init__(self) -> None:
        self._item: StampedFrame | None = None
        self._picture: NDArray[np.uint8] | None = None
        self._motion: Motion | None = None
        self._dis: Any = None
        """One for each size of pictures: on a small one it changes its own scales for good."""

    def of(self, item: StampedFrame) -> Motion | None:
        """The motion from the frame before; None for the first frame, and the first of another size."""
        if item is self._item:
            return self._motion
        picture, before, stamp = small_picture(item.frame), self._picture, 0 if self._item is None else self._item.stamp
        self._item, self._picture, self._motion = item, picture, None
        if before is None or before.shape != picture.shape:
            self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
        elif min(picture.shape) >= SMALLEST_SIDE:
            self._motion = self._between(picture, before, item.stamp - stamp if item.stamp and stamp else 0)
        return self._motion

    def _between(self, picture: NDArray[np.uint8], before: NDArray[np.uint8], passed_ns: int) -> Motion:
        flow: NDArray[np.float32] = self._dis.calc(picture, before, None)
        lengths = float(cv2.magnitude(flow[..., 0], flow[..., 1]).mean())
        return Motion(flow, lengths / picture.shape[1] / (passed_ns / 1e9) if passed_ns > 0 else None)


def small_picture(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The green of a frame (H, W, 3), nearly its brightness, at most ``PICTURE_WIDTH`` wide."""
    green = np.ascontiguousarray(frame[..., 1])
    height, width = green.shape
    if width <= PICTURE_WIDTH:
        return green
    size = (PICTURE_WIDTH, max(1, round(height * PICTURE_WIDTH / width)))
    return np.asarray(cv2.resize(green, size, interpolation=cv2.INTER_AREA), np.uint8)
