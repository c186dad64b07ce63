"""How results are spelt in messages, whoever makes the messages: the live node, and replays that write bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED
from dff_ros.engine.stream import FrameResult

UNLABELLED_NAME = "UNLABELED"
"""The name that vision_msgs gives to the largest class id."""


def label_names(names: Sequence[str]) -> list[tuple[int, str]]:
    """The class map of a LabelInfo: the classes of one task, and the id of pixels of none."""
    return [*enumerate(names), (UNLABELLED, UNLABELLED_NAME)]


def centre_and_size(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Centre x and y, width and height of a box x1 y1 x2 y2."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def boxes_of(message: Any) -> NDArray[np.float64]:
    """The boxes of a Detection2DArray, (N, 4) as x1 y1 x2 y2."""
    centred = [
        (item.bbox.center.position.x, item.bbox.center.position.y, item.bbox.size_x, item.bbox.size_y) for item in message.detections
    ]
    boxes = np.array(centred, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def frame_info_values(result: FrameResult, times: Mapping[str, float | None]) -> dict[str, str]:
    """The values of a frame_info: key or propagated, why made a key, how old its key is and what that took, and ``times`` in milliseconds.

    What was not computed has an empty value.
    """
    return {
        "kind": result.kind,
        "key_age_frames": str(result.key_age_frames),
        "key_age_ms": f"{result.key_age_ms:.3f}",
        "key_ms": f"{result.key_ms:.3f}",
        "reason": result.reason,
        "motion_px": _number(result.motion_px),
        "disagreement": _number(result.disagreement),
        **{key: "" if value is None else f"{value:.3f}" for key, value in times.items()},
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def caption(kind: str, age_frames: int, age_ms: float) -> str:
    """What stands in the corner of an overlay."""
    return "key frame" if kind == "key" else f"propagated, age {age_frames} ({age_ms:.0f} ms)"
