"""The worst frames as pictures side by side: per-frame, the run, where they differ, and the truth. numpy and OpenCV only."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.overlay import Colour, Frame, draw_overlay
from dff_ros.report.box_match import unmatched

LOST: Colour = (255, 77, 94)
GAINED: Colour = (46, 204, 230)
OTHER: Colour = (255, 190, 60)
UNLABELLED = 255
QUALITY = 74
"""Of WebP: ten rows of four pictures stay below 3 MB."""


@dataclass(frozen=True)
class Answer:
    """What is drawn of one answer, or of the truth; arrays fit the frame they are drawn on, and are None where there is nothing.

    ``labels`` (H, W) uint8; ``boxes`` (N, 4) x1 y1 x2 y2 in pixels with ``classes`` (N,), and ``scores`` (N,) where there are any.
    """

    labels: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None
    classes: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Palette:
    """Names and colours of a bundle's classes."""

    class_names: Sequence[str]
    """Of boxes."""
    colours: Sequence[Colour]
    """Of labels."""


@dataclass(frozen=True)
class Picture:
    """A picture for the page: ``uri`` holds all of it."""

    title: str
    alt: str
    uri: str


@dataclass(frozen=True)
class WorstFrame:
    """One row of the worst frames."""

    title: str
    details: str
    pictures: Sequence[Picture]


def pictures_of(frame: Frame, run: Answer, per_frame: Answer | None, truth: Answer | None, palette: Palette, *, name: str) -> list[Picture]:
    """The row of pictures of one frame; ``name`` is what the run's answer is called. What is not there has no picture."""
    found = []
    if per_frame is not None:
        found.append(Picture("per-frame", f"what per-frame says, drawn on {name}", _encode(_drawn(frame, per_frame, palette))))
    found.append(Picture("this run", f"what this run says, drawn on {name}", _encode(_drawn(frame, run, palette))))
    if per_frame is not None or (truth is not None and truth.labels is not None):
        where = difference(frame, run, per_frame, truth)
        found.append(Picture("difference", f"where the answers for {name} differ", _encode(where)))
    if truth is not None:
        found.append(Picture("truth", f"ground truth of {name}", _encode(_drawn(frame, truth, palette))))
    return found


def difference(frame: Frame, run: Answer, per_frame: Answer | None, truth: Answer | None) -> Frame:
    """The frame in dark grey, and on it what the run lost in ``LOST``, what it gained in ``GAINED``, and what else differs in ``OTHER``.

    A pixel is lost that per-frame has right, by the truth, and the run has not; without truth all that differ are ``OTHER``. A box is lost
    that only per-frame has. Without per-frame every wrong pixel is lost.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    picture = np.asarray(cv2.merge([grey // 2 + 20] * 3), np.uint8)
    _paint_labels(picture, run.labels, None if per_frame is None else per_frame.labels, None if truth is None else truth.labels)
    if per_frame is not None and run.boxes is not None and per_frame.boxes is not None:
        lost, gained = unmatched(per_frame.boxes, per_frame.classes, run.boxes, run.classes)
        _outline(picture, per_frame.boxes[lost], LOST)
        _outline(picture, run.boxes[gained], GAINED)
    return picture


def _paint_labels(
    picture: Frame, run: NDArray[np.uint8] | None, own: NDArray[np.uint8] | None, truth: NDArray[np.uint8] | None
) -> None:
    if run is None:
        return
    known = np.zeros(run.shape, bool) if truth is None else truth != UNLABELLED
    right = known if truth is None else known & (run == truth)
    if own is None:
        picture[known & ~right] = LOST
        return
    own_right = known if truth is None else known & (own == truth)
    differs = run != own
    picture[differs] = OTHER
    picture[differs & own_right & ~right] = LOST
    picture[differs & right & ~own_right] = GAINED


def _outline(picture: Frame, boxes: NDArray[np.float32], colour: Colour) -> None:
    for box in boxes:
        left, top, right, bottom = (round(float(edge)) for edge in np.clip(box, -1e6, 1e6))
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 2)


def _drawn(frame: Frame, answer: Answer, palette: Palette) -> Frame:
    return draw_overlay(
        frame,
        boxes=answer.boxes,
        scores=answer.scores,
        labels=answer.classes,
        class_names=palette.class_names,
        label_map=answer.labels,
        palette=palette.colours,
    )


def _encode(picture: Frame) -> str:
    written, content = cv2.imencode(".webp", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not written:
        raise ValueError(f"OpenCV cannot encode a picture of {picture.shape} as WebP")
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode("ascii")
