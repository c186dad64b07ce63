"""Ground truth from files: label images, a table of boxes, and masks whose connected components are boxes.

Images belong to frames by stem, else by the trailing number of the stem (``gt000470.png`` to ``in000470.jpg``);
the number of a frame without a name, as a video's or a bag's, is its source index.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED
from dff_ros.recording.frames import StampedFrame

IMAGE_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".pgm"})
"""Lossless formats: JPEG would invent class ids."""

MOVING = 255
BACKGROUND = (0, 50)
"""CDnet masks: 0 static, 50 shadow, 255 moving object; anything else (85 outside the region, 170 object's rim) is unknown."""

SMALLEST_COMPONENT = 100
"""Mask components with fewer pixels become boxes that neither count nor punish."""


class TruthError(ValueError):
    """Ground truth that cannot be read or does not fit, in one line."""


@dataclass(frozen=True)
class ClassBoxes:
    """All objects of one class in one frame.

    ``boxes`` is (N, 4) float64, x1 y1 x2 y2 in source pixels, right and bottom exclusive; ``ignored`` (N,) bool marks those
    that neither count nor punish; ``unknown`` (H, W) bool marks pixels where an answer cannot be called wrong: nobody knows
    what is there, or it belongs to an ignored object. ``ids`` (N,) int64 are the same for the same object through the
    recording; None where nobody knows which is which.
    """

    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None
    ids: NDArray[np.int64] | None = None


class BoxSource(Protocol):
    """Truth for one detection class."""

    class_name: str
    identified: bool
    """Whether its objects have ids."""

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's objects, possibly none; None where the truth does not cover the frame."""


class LabelSource(Protocol):
    """Truth for segmentation."""

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8] | None:
        """(H, W) uint8 class ids of the model, 255 where not scored; None for a frame without labels."""
        ...


class MatchedImages:
    """The images of a folder, found by the frames they belong to."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise TruthError(f"{folder} is not a folder")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise TruthError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._by_stem = {path.stem: path for path in paths}
        self._by_number: dict[int, list[Path]] = {}
        for path in paths:
            number = trailing_number(path.stem)
            if number is not None:
                self._by_number.setdefault(number, []).append(path)

    def find(self, frame: StampedFrame) -> Path | None:
        """The frame's image, or None; raises TruthError where two could be meant."""
        if frame.name in self._by_stem:
            return self._by_stem[frame.name]
        number = trailing_number(frame.name) if frame.name else frame.index
        found = [] if number is None else self._by_number.get(number, [])
        if len(found) > 1:
            raise TruthError(f"{found[0]} and {found[1].name} could both belong to frame {frame.name or frame.index}")
        return found[0] if found else None


def trailing_number(stem: str) -> int | None:
    """The number at the end of a file's stem: 470 for ``gt000470``; None where there is none."""
    digits = re.search(r"[0-9]+$", stem)
    return int(digits.group()) if digits else None


def read_class_ids(path: Path, frame: StampedFrame) -> NDArray[np.uint8]:
    """An image of ids, (H, W) uint8, of the frame's size; grey images stored with three equal channels are taken."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise TruthError(f"{path} cannot be read as an image")
    if image.ndim == 3 and image.shape[2] >= 3 and (image[..., :1] == image[..., 1:3]).all():
        image = image[..., 0]
    if image.ndim != 2 or image.dtype != np.uint8:
        raise TruthError(f"{path} should hold one channel of 8-bit ids, got {'x'.join(map(str, image.shape))} {image.dtype}")
    if image.shape != frame.frame.shape[:2]:
        have, want = image.shape, frame.frame.shape
        raise TruthError(f"{path} is {have[1]}x{have[0]}, its frame {frame.name or frame.index} is {want[1]}x{want[0]}")
    return image.astype(np.uint8, copy=False)


class LabelImages:
    """Segmentation truth: one image of class ids for each labelled frame."""

    def __init__(self, folder: Path, class_names: Sequence[str], ignored: Sequence[int]) -> None:
        """``ignored`` lists the ids that are not scored; 255 never is."""
        self._images = MatchedImages(folder)
        self._classes = len(class_names)
        self._ids = np.full(256, -1, np.int16)
        self._ids[: self._classes] = np.arange(self._classes)
        self._ids[[*ignored, UNLABELLED]] = UNLABELLED

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8] | None:
        """(H, W) uint8 class ids, 255 where not scored; None for a frame without a label image."""
        path = self._images.find(frame)
        if path is None:
            return None
        raw = read_class_ids(path, frame)
        labels = self._ids[raw]
        if (labels < 0).any():
            wrong = ", ".join(map(str, np.unique(raw[labels < 0])[:5]))
            raise TruthError(f"{path} has label {wrong}; the model's classes are 0..{self._classes - 1} (see --ignore)")
        return labels.astype(np.uint8)


class BoxTable:
    """Boxes from a CSV file with the columns frame, id, left, top, width, height; ``frame`` is the source index.

    The table covers every source frame from its first row to its last. The column ``id`` (any text) may be missing; where it
    is, or has the same id twice in a frame, nobody knows which object is which.
    """

    def __init__(self, path: Path, class_name: str) -> None:
        self.class_name = class_name
        self._boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        self._ids: dict[int, list[int]] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                self._read(csv.DictReader(file), path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TruthError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not self._boxes:
            raise TruthError(f"{path} holds no boxes")
        self._first, self._last = min(self._boxes), max(self._boxes)
        doubtful = [frame for frame, boxes in self._boxes.items() if len(set(self._ids.get(frame, ()))) != len(boxes)]
        self.identified = not doubtful
        self.unusable_ids = self._why(min(doubtful)) if doubtful and self._ids else ""
        """Why the ids that there are tell no object apart, as a clause; empty where they do, or where there are none."""

    def _why(self, frame: int) -> str:
        missing = len(self._ids.get(frame, ())) < len(self._boxes[frame])
        return f"frame {frame} has {'a box without an id' if missing else 'an id twice'}"

    def _read(self, rows: csv.DictReader[str], path: Path) -> None:
        missing = [name for name in ("frame", "left", "top", "width", "height") if name not in (rows.fieldnames or ())]
        if missing:
            raise TruthError(f"{path} lacks the column {', '.join(missing)} (expected frame,id,left,top,width,height)")
        numbers: dict[str, int] = {}
        for row in rows:
            try:
                frame = int(row["frame"])
                left, top, width, height = (float(row[name]) for name in ("left", "top", "width", "height"))
            except TypeError as error:
                raise TruthError(f"{path}, line {rows.line_num}: should hold {len(rows.fieldnames or ())} values") from error
            except ValueError as error:
                raise TruthError(f"{path}, line {rows.line_num}: {error}") from error
            if not np.isfinite((left, top, width, height)).all():
                raise TruthError(f"{path}, line {rows.line_num}: a box should be of finite numbers, got {left},{top},{width},{height}")
            if not (width > 0 and height > 0):
                raise TruthError(f"{path}, line {rows.line_num}: width and height should be positive, got {width} and {height}")
            self._boxes.setdefault(frame, []).append((left, top, left + width, top + height))
            if row.get("id"):
                self._ids.setdefault(frame, []).append(numbers.setdefault(row["id"], len(numbers)))

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's rows; None outside the table's frames."""
        if not self._first <= frame.index <= self._last:
            return None
        boxes = np.array(self._boxes.get(frame.index, []), np.float64).reshape(-1, 4)
        ids = np.array(self._ids.get(frame.index, []), np.int64) if self.identified else None
        return ClassBoxes(boxes, np.zeros(len(boxes), bool), ids=ids)


class MaskBoxes:
    """Boxes around the connected components (8 neighbours) of value 255 in mask images; touching objects are one box."""

    identified = False

    def __init__(self, folder: Path, class_name: str) -> None:
        self.class_name = class_name
        self._images = MatchedImages(folder)

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's components, the small ones ignored; None for a frame without a mask."""
        path = self._images.find(frame)
        return None if path is None else component_boxes(read_class_ids(path, frame))


def component_boxes(mask: NDArray[np.uint8]) -> ClassBoxes:
    """The components of a CDnet-style mask (H, W) as boxes."""
    moving = (mask == MOVING).astype(np.uint8)
    _, component, stats, _ = cv2.connectedComponentsWithStats(moving, connectivity=8)
    objects = stats[1:].astype(np.float64)  # row 0 is the background
    left, top, width, height, pixels = objects.T
    small = pixels < SMALLEST_COMPONENT
    unknown = ~np.isin(mask, (*BACKGROUND, MOVING)) | np.isin(component, np.flatnonzero(small) + 1)
    return ClassBoxes(np.stack([left, top, left + width, top + height], axis=1), small, unknown)


@dataclass(frozen=True)
class FrameTruth:
    """What is known about one frame: class ids (or None) and, for each covered detection class, its objects."""

    labels: NDArray[np.uint8] | None
    boxes: Mapping[int, ClassBoxes]


class Truth:
    """All ground truth of a run."""

    def __init__(self, labels: LabelSource | None, boxes: Sequence[BoxSource], detection_classes: Sequence[str]) -> None:
        """Raises TruthError where a box source's class is not among the model's ``detection_classes``, or given twice."""
        self.labels = labels
        self._boxes: dict[int, BoxSource] = {}
        for source in boxes:
            if source.class_name not in detection_classes:
                known = ", ".join(detection_classes) or "none"
                raise TruthError(f"boxes of {source.class_name!r}: the model's detection classes are {known}")
            index = list(detection_classes).index(source.class_name)
            if index in self._boxes:
                raise TruthError(f"boxes of {source.class_name!r} are given twice")
            self._boxes[index] = source

    @property
    def unusable_ids(self) -> list[str]:
        """The classes whose boxes come with ids that tell no object apart, and why not."""
        tables = [source for source in self._boxes.values() if isinstance(source, BoxTable) and source.unusable_ids]
        return [f"{table.class_name!r}: {table.unusable_ids}" for table in tables]

    @property
    def identified(self) -> bool:
        """Whether some objects have ids."""
        return any(source.identified for source in self._boxes.values())

    def of(self, frame: StampedFrame) -> FrameTruth:
        """The frame's truth; classes that do not cover the frame are absent."""
        found = {index: source.boxes_of(frame) for index, source in self._boxes.items()}
        labels = None if self.labels is None else self.labels.labels_of(frame)
        return FrameTruth(labels, {index: boxes for index, boxes in found.items() if boxes is not None})
