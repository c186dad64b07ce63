"""The data sets as sources: decoded once into memory, each contributing only what it labels.

How a DATA folder is laid out, where each set is published and under which terms: docs/data.md.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dff_train.clips import Clip
from dff_train.components import boxes_of_labels, components, rare_points
from dff_train.motion import cut_objects, make_pair
from dff_train.samples import DETECTION_CLASS_OF, IGNORED_LABEL, SEGMENTATION_CLASSES
from dff_train.source_pairs import PAPER_OFFSETS, Array, Cutout, SourcePair, Truth, no_boxes

PERSON, CAR = 0, 1


class DataError(ValueError):
    """A data set is not where or what it should be."""


class CamVidStills:
    """CamVid's labelled stills: segmentation, boxes of all classes from connected components, pairs made by motion."""

    name = "camvid"

    def __init__(self, folder: Path, *, still_share: float = 0.5) -> None:
        """``folder`` holds images/*.jpg|png and labels/*.png of the same names; ``still_share`` of the samples have offset 0."""
        self.still_share = still_share
        self.stills: list[Array] = []
        self.truth: list[Truth] = []
        self.cutouts: list[Cutout] = []
        for image_file in _files(folder / "images", (".jpg", ".png"), "the CamVid stills"):
            still = _read_rgb(image_file)
            labels = _read_labels(folder / "labels" / f"{image_file.stem}.png", still.shape[:2])
            self.stills.append(still)
            self.truth.append(camvid_truth(labels))
            self.cutouts += cut_objects(still, labels)

    def __len__(self) -> int:
        return len(self.stills)

    def pair(self, index: int, rng: np.random.Generator, offsets: tuple[int, int] = PAPER_OFFSETS) -> SourcePair:
        """Still ``index`` alone where an offset of 0 is allowed, or a pair made from it."""
        fewest, most = offsets
        still = most == 0 or (fewest == 0 and rng.random() < self.still_share)
        offset = 0 if still else int(rng.integers(max(fewest, 1), most + 1))
        return make_pair(self.stills[index], self.truth[index], offset, self.cutouts, self.name, rng)

    def truths(self) -> list[tuple[tuple[int, int], Truth]]:
        return [((still.shape[0], still.shape[1]), truth) for still, truth in zip(self.stills, self.truth, strict=True)]


def camvid_truth(labels: Array) -> Truth:
    """Truth from a (H, W) map of CamVid ids, of which 11 (void) and above become 255."""
    cleaned = np.where(labels < len(SEGMENTATION_CLASSES), labels, IGNORED_LABEL).astype(np.uint8)
    boxes, box_labels, ignored = boxes_of_labels(cleaned, DETECTION_CLASS_OF)
    return Truth(cleaned, boxes, box_labels, ignored, (True, True, True), rare_points(cleaned))


class PetsFrames(Clip):
    """PETS 2009 S2L1: boxes of people, occluded ones too. People far behind the tape are not labelled and count as background."""

    name = "pets09"
    FRAMES = range(450)

    def __init__(self, folder: Path, frames: range = FRAMES) -> None:
        """``folder`` holds video.mp4 and boxes.csv (frame,id,left,top,width,height); ``frames`` are those to use."""
        boxes = read_boxes(folder / "boxes.csv")
        images = _read_video(folder / "video.mp4", frames)
        labelled = (True, False, False)
        found = [boxes.get(number, no_boxes()) for number in frames]
        truth = [Truth(boxes=item, box_labels=np.full(len(item), PERSON, np.int64), labelled_classes=labelled) for item in found]
        super().__init__(self.name, images, truth)


class HighwayFrames(Clip):
    """CDnet 2014 highway: boxes of moving vehicles, the connected components of the foreground."""

    name = "highway"
    FRAMES = range(470, 1070)

    def __init__(self, folder: Path, frames: range = FRAMES) -> None:
        """``folder`` holds images/inNNNNNN.jpg and labels/gtNNNNNN.png; ``frames`` are the numbers to use."""
        _need(folder / "images", "the frames inNNNNNN.jpg of the highway sequence")
        images = [_read_rgb(folder / "images" / f"in{number:06d}.jpg") for number in frames]
        label_files = [folder / "labels" / f"gt{number:06d}.png" for number in frames]
        maps = (_read_labels(file, image.shape[:2]) for file, image in zip(label_files, images, strict=True))
        super().__init__(self.name, images, [highway_truth(labels) for labels in maps])


def highway_truth(labels: Array) -> Truth:
    """Boxes from a CDnet map: 255 moving, 85 outside the region of interest, 170 unknown, 50 shadow, 0 static.

    Every moving object has a rim of 170: a part of 85 or 170 is ignored as a region only where it touches no moving pixel,
    else the rims' boxes would ignore the whole neighbourhood of every car.
    """
    boxes, box_labels, small = boxes_of_labels(labels, {255: CAR})
    unknown = components((labels == 85) | (labels == 170))
    beside_moving = cv2.dilate((labels == 255).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rims = np.unique(unknown.ids[beside_moving])
    alone = ~np.isin(np.arange(1, len(unknown.boxes) + 1), rims)
    return Truth(None, boxes, box_labels, np.concatenate([small, unknown.boxes[alone]]), (False, True, False))


def read_boxes(file: Path) -> dict[int, Array]:
    """Boxes (K, 4) x1 y1 x2 y2 by frame number, from a CSV file of frame,id,left,top,width,height."""
    _need(file, "a CSV file of frame,id,left,top,width,height")
    rows: dict[int, list[list[float]]] = defaultdict(list)
    with file.open(newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                left, top, width, height = (float(row[name]) for name in ("left", "top", "width", "height"))
                rows[int(row["frame"])].append([left, top, left + width, top + height])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file}:{number}: expected frame,id,left,top,width,height, got {dict(row)}") from error
    return {frame: np.array(boxes, np.float32) for frame, boxes in rows.items()}


def _need(path: Path, what: str) -> None:
    if not path.exists():
        raise DataError(f"{path} does not exist: {what} should be there (docs/data.md says where each data set is published)")


def _files(folder: Path, endings: Sequence[str], what: str) -> list[Path]:
    _need(folder, what)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in endings)
    if not files:
        raise DataError(f"{folder} holds no {' or '.join(endings)} file: {what} should be there")
    return files


def _read_rgb(file: Path) -> Array:
    _need(file, "an image")
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{file} is not an image OpenCV can read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _read_labels(file: Path, size: tuple[int, ...]) -> Array:
    """Ids (H, W) uint8; three equal channels are taken for one, colours are not turned into grey values."""
    _need(file, "the label map of the image of the same name")
    labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f"{file} is not an image OpenCV can read")
    if labels.ndim == 3 and (labels[..., :1] == labels[..., 1:3]).all():
        labels = labels[..., 0]
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.shape != size:
        raise DataError(f"{file} should be a label map of one channel of bytes, {size} (height, width), got {labels.shape} {labels.dtype}")
    return np.asarray(labels)


def _read_video(file: Path, frames: range) -> list[Array]:
    _need(file, "a video")
    video = cv2.VideoCapture(str(file))
    images = []
    for number in range(frames.stop):
        taken, image = video.read()
        if not taken:
            raise DataError(f"{file} ends after {number} frames, expected at least {frames.stop}")
        if number in frames:
            images.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
    video.release()
    return images
