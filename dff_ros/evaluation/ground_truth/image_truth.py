"""Ground truth from images: class ids of pixels, and masks whose connected components are boxes.

Images belong to frames by stem, else by the trailing number of the stem (``gt000470.png`` to ``in000470.jpg``);
the number of a frame without a name, as a video's or a bag's, is its source index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, TruthError
from dff_ros.recording.frames import StampedFrame

IMAGE_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".pgm"})
"""Lossless formats: JPEG would invent class ids."""

MOVING = 255
BACKGROUND = (0, 50)
"""CDnet masks: 0 static, 50 shadow, 255 moving object; anything else (85 outside the region, 170 object's rim) is unknown."""

SMALLEST_COMPONENT = 100
"""Mask components with fewer pixels become boxes that neither count nor punish."""


Thing = TypeVar("Thing")


class ByFrame(Generic[Thing]):
    """Things found by the frames they belong to, each with a stem: by the same stem, else by the number it ends in."""

    def __init__(self, things: Iterable[tuple[str, Thing]]) -> None:
        self._by_stem: dict[str, list[Thing]] = {}
        self._by_number: dict[int, list[Thing]] = {}
        for stem, thing in things:
            self._by_stem.setdefault(stem, []).append(thing)
            number = trailing_number(stem)
            if number is not None:
                self._by_number.setdefault(number, []).append(thing)

    def find(self, frame: StampedFrame) -> Thing | None:
        """What belongs to the frame, or None; raises TruthError where two could be meant."""
        number = trailing_number(frame.name) if frame.name else frame.index
        found = self._by_stem.get(frame.name, []) or ([] if number is None else self._by_number.get(number, []))
        if len(found) > 1:
            raise TruthError(f"{found[0]} and {found[1]} could both belong to frame {frame.name or frame.index}")
        return found[0] if found else None


def matched_images(folder: Path) -> ByFrame[Path]:
    """The images of a folder; raises TruthError where there are none."""
    if not folder.is_dir():
        raise TruthError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise TruthError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ByFrame((path.stem, path) for path in paths)


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


class ClassIds:
    """From ids in label images to those of the model."""

    def __init__(self, class_names: Sequence[str], ignored: Sequence[int]) -> None:
        """``ignored`` lists the ids that are not scored; 255 never is."""
        self._classes = len(class_names)
        self._ids = np.arange(256, dtype=np.uint8)
        self._ids[[*ignored, UNLABELLED]] = UNLABELLED
        self._unknown = np.arange(256) >= self._classes
        self._unknown[[*ignored, UNLABELLED]] = False

    def of_the_model(self, raw: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
        """(H, W) uint8 class ids, 255 where not scored; raises TruthError, naming ``source``, for an id that is no class."""
        present = cv2.calcHist([raw], [0], None, [256], (0.0, 256.0)).reshape(-1) > 0
        if (present & self._unknown).any():
            wrong = ", ".join(map(str, np.flatnonzero(present & self._unknown)[:5]))
            raise TruthError(f"{source} has label {wrong}; the model's classes are 0..{self._classes - 1} (see --ignore)")
        return cv2.LUT(raw, self._ids).astype(np.uint8, copy=False)


class LabelImages:
    """Segmentation truth: one image of class ids for each labelled frame."""

    def __init__(self, folder: Path, class_names: Sequence[str], ignored: Sequence[int]) -> None:
        """``ignored`` lists the ids that are not scored; 255 never is."""
        self._images = matched_images(folder)
        self._ids = ClassIds(class_names, ignored)

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8] | None:
        """(H, W) uint8 class ids, 255 where not scored; None for a frame without a label image."""
        path = self._images.find(frame)
        return None if path is None else self._ids.of_the_model(read_class_ids(path, frame), str(path))


class MaskBoxes:
    """Boxes around the connected components (8 neighbours) of value 255 in mask images; touching objects are one box."""

    identified = False
    unusable_ids = ""

    def __init__(self, folder: Path, class_name: str) -> None:
        self.class_name = class_name
        self._images = matched_images(folder)

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
