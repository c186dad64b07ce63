"""Draws what was found onto the frame it was found in: a tinted mask, named boxes, a caption. numpy and OpenCV only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Colour = tuple[int, int, int]

BOX_COLOURS: tuple[Colour, ...] = ((255, 82, 82), (64, 196, 255), (255, 214, 64), (150, 255, 120), (255, 140, 255), (255, 170, 80))
"""Colours of the boxes by label; brighter than the mask, so that they stand out from it."""

MASK_OPACITY = 0.45

OVERLAY_JPEG_QUALITY = 85
"""Of the compressed picture, where nobody says."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK: Colour = (16, 16, 16)
_WHITE: Colour = (255, 255, 255)


class Boxes(Protocol):
    """What is drawn of detections; the engine's own have these fields."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...


class Mask(Protocol):
    """What is drawn of a class map."""

    @property
    def labels(self) -> NDArray[np.uint8]: ...


def draw_results(
    frame: Frame,
    detections: Boxes | None,
    label_map: Mask | None,
    *,
    class_names: Sequence[str],
    palette: Sequence[Colour],
    caption: str,
) -> Frame:
    """``draw_overlay`` with what the heads returned, either of which may not have run."""
    return draw_overlay(
        frame,
        boxes=None if detections is None else detections.boxes,
        scores=None if detections is None else detections.scores,
        labels=None if detections is None else detections.labels,
        class_names=class_names,
        label_map=None if label_map is None else label_map.labels,
        palette=palette,
        caption=caption,
    )


def colour_map(labels: NDArray[np.uint8], palette: Sequence[Colour]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) uint8 of class ids (H, W) uint8; ids without a colour in ``palette``, 255 among them, are black."""
    table = np.zeros((256, 1, 3), np.uint8)
    if palette:
        table[: len(palette), 0] = palette
    return np.asarray(cv2.LUT(cv2.merge([labels] * 3), table), np.uint8)


def draw_overlay(
    frame: Frame,
    *,
    boxes: NDArray[np.float32] | None = None,
    scores: NDArray[np.float32] | None = None,
    labels: NDArray[np.int64] | None = None,
    class_names: Sequence[str] = (),
    label_map: NDArray[np.uint8] | None = None,
    palette: Sequence[Colour] = (),
    caption: str = "",
) -> Frame:
    """A new RGB frame (H, W, 3) uint8 with mask, boxes and caption drawn; ``frame`` itself, of any strides, is left as it is.

    ``boxes`` (N, 4) are x1 y1 x2 y2 in pixels with ``scores`` (N,) and ``labels`` (N,), indices into ``class_names``; ``label_map`` (H, W)
    holds indices into ``palette``, others are left untinted. Lines and letters grow with the frame.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"frame should be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    picture = np.array(frame, order="C")
    if label_map is not None and palette:
        if label_map.shape != frame.shape[:2]:
            raise ValueError(f"label_map should be {frame.shape[:2]}, got {label_map.shape}")
        picture = _tint(picture, label_map, palette)
    if boxes is not None:
        _draw_boxes(picture, boxes, scores, labels, class_names)
    if caption:
        _draw_caption(picture, caption)
    return picture


def _tint(picture: Frame, label_map: NDArray[np.uint8], palette: Sequence[Colour]) -> Frame:
    tinted = cv2.addWeighted(picture, 1 - MASK_OPACITY, colour_map(label_map, palette), MASK_OPACITY, 0)
    return np.where((label_map < len(palette))[..., None], tinted, picture).astype(np.uint8, copy=False)


def _draw_boxes(picture: Frame, boxes: Any, scores: Any, labels: Any, class_names: Sequence[str]) -> None:
    """All outlines first, then all names, the best detection last and so on top."""
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable").tolist()
    chosen = [(item, *_inside(picture, boxes[item])) for item in order]
    width = _line_width(picture)
    colours = {item: BOX_COLOURS[0 if labels is None else int(labels[item]) % len(BOX_COLOURS)] for item in order}
    for item, *corners in chosen:
        cv2.rectangle(picture, corners[:2], corners[2:], _DARK, width + 2)
        cv2.rectangle(picture, corners[:2], corners[2:], colours[item], width)
    for item, *corners in chosen:
        name = "" if labels is None or int(labels[item]) >= len(class_names) else class_names[int(labels[item])]
        score = "" if scores is None else f"{float(scores[item]):.2f}"
        _draw_name(picture, f"{name} {score}".strip(), (corners[0], corners[1]), colours[item])


def _inside(picture: Frame, box: Any) -> tuple[int, int, int, int]:
    """First and last pixel of a box (its right and bottom edges are exclusive), within the picture."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = np.nan_to_num(np.asarray(box, np.float64)).clip(-1e6, 1e6).tolist()
    left, top = int(np.clip(round(x1), 0, width - 1)), int(np.clip(round(y1), 0, height - 1))
    return left, top, int(np.clip(round(x2) - 1, left, width - 1)), int(np.clip(round(y2) - 1, top, height - 1))


def _draw_name(picture: Frame, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """``text`` on a plate standing on the box's upper edge, or hanging from it at the top of the picture."""
    if not text:
        return
    scale, thickness = _letters(picture, 0.8)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = max(1, round(4 * scale))
    plate = width + 2 * margin, height + below + margin
    left = max(0, min(corner[0], picture.shape[1] - plate[0]))
    top = corner[1] - plate[1] if corner[1] >= plate[1] else min(corner[1], max(0, picture.shape[0] - plate[1]))
    cv2.rectangle(picture, (left, top), (left + plate[0], top + plate[1] - 1), colour, -1)
    cv2.putText(picture, text, (left + margin, top + height + margin // 2 + 1), _FONT, scale, _DARK, thickness, cv2.LINE_AA)


def _draw_caption(picture: Frame, caption: str) -> None:
    """``caption`` in white on a dark bar along the bottom, smaller where it would not fit."""
    scale, thickness = _letters(picture, 1.0)
    (width, _), _ = cv2.getTextSize(caption, _FONT, scale, thickness)
    scale *= min(1.0, 0.96 * picture.shape[1] / width)
    (_, height), below = cv2.getTextSize(caption, _FONT, scale, thickness)
    margin = max(2, round(8 * scale))
    bar = picture[max(0, picture.shape[0] - height - below - margin) :]
    bar[...] = bar // 4
    cv2.putText(picture, caption, (margin, picture.shape[0] - below - margin // 2 + 1), _FONT, scale, _WHITE, thickness, cv2.LINE_AA)


def _letters(picture: Frame, size: float) -> tuple[float, int]:
    """Scale and stroke of letters: legible at 320x240, a fortieth of the height at 1080 rows."""
    scale = size * max(0.44, 0.22 + 0.00085 * min(picture.shape[:2]))
    return scale, 2 if scale > 0.75 else 1


def _line_width(picture: Frame) -> int:
    shorter: int = min(picture.shape[:2])
    return max(1, round(shorter / 300))
