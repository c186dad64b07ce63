"""Ground truth from a COCO json file: boxes of several classes, read with pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from dff_ros.evaluation.ground_truth.box_table import corners
from dff_ros.evaluation.ground_truth.image_truth import ByFrame
from dff_ros.evaluation.ground_truth.row_boxes import Box, RowBoxes
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, TruthError
from dff_ros.recording.frames import StampedFrame

IDENTITIES = ("track_id", "instance_id")
"""Where annotations, or their ``attributes``, tell objects apart."""


@dataclass(frozen=True)
class CocoImage:
    """An image of the file."""

    number: int
    """Its id."""
    file_name: str
    size: tuple[int, int] | None
    """Width and height, where the file tells."""

    def __str__(self) -> str:
        return self.file_name


class CocoBoxes(RowBoxes):
    """One category. It covers the frames whose image the file lists, those without an annotation too."""

    unit = "image"

    def __init__(self, class_name: str, images: ByFrame[CocoImage]) -> None:
        super().__init__(class_name)
        self._images = images

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's objects; None for a frame whose image is not in the file. Raises TruthError where that has another size."""
        image = self._images.find(frame)
        if image is None:
            return None
        height, width = frame.frame.shape[:2]
        if image.size is not None and image.size != (width, height):
            have = "x".join(map(str, image.size))
            raise TruthError(f"image {image} of the COCO file is {have}, its frame {frame.name or frame.index} is {width}x{height}")
        return self.rows_of(image.number)


def read_coco(path: Path) -> list[CocoBoxes]:
    """The categories of a COCO file: ``bbox`` (left, top, width, height) is read, masks are not; crowds (``iscrowd``) are ignored.

    Images belong to frames by the stem of ``file_name``, else by the number it ends in. Objects are told apart by ``track_id`` or
    ``instance_id``. Raises TruthError.
    """
    coco = _load(path)
    try:
        images = [_image(entry) for entry in coco.imgs.values()]
        by_frame = ByFrame((Path(image.file_name).stem, image) for image in images)
        categories = {number: CocoBoxes(str(entry["name"]), by_frame) for number, entry in coco.cats.items()}
        known = {image.number for image in images}
        for annotation in coco.dataset.get("annotations", ()):
            if annotation["image_id"] not in known:
                raise ValueError(f"annotation {annotation['id']} belongs to image {annotation['image_id']}, which the file does not list")
            if annotation["category_id"] not in categories:
                raise ValueError(f"annotation {annotation['id']} is of category {annotation['category_id']}, which the file does not list")
            crowd = bool(annotation.get("iscrowd", 0))
            boxes = categories[annotation["category_id"]]
            boxes.add(annotation["image_id"], _box(annotation), None if crowd else _identity(annotation), ignored=crowd)
    except KeyError as error:
        raise TruthError(f"{path} is not a COCO file of boxes: {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise TruthError(f"{path} is not a COCO file of boxes: {error}") from error
    if not (images and categories):
        raise TruthError(f"{path} should list images and categories, got {len(images)} and {len(categories)}")
    return list(categories.values())


def _load(path: Path) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            return COCO(str(path))
    except OSError as error:
        raise TruthError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TruthError(f"{path} is not JSON: {error}") from error
    except KeyError as error:
        raise TruthError(f"{path} is not a COCO file of boxes: {error} is missing") from error
    except (AssertionError, TypeError) as error:
        raise TruthError(f"{path} is not a COCO file of boxes: {error}") from error


def _image(entry: Mapping[str, Any]) -> CocoImage:
    size = (int(entry["width"]), int(entry["height"])) if entry.get("width") and entry.get("height") else None
    return CocoImage(entry["id"], str(entry["file_name"]), size)


def _box(annotation: Mapping[str, Any]) -> Box:
    box = annotation["bbox"]
    try:
        left, top, width, height = map(float, box)
        return corners(left, top, width, height)
    except (TypeError, ValueError) as error:
        raise ValueError(f"annotation {annotation['id']}: bbox should be left, top, width, height with a size, got {box}") from error


def _identity(annotation: Mapping[str, Any]) -> object:
    places = (annotation, annotation.get("attributes") or {})
    return next((place[name] for place in places for name in IDENTITIES if place.get(name) is not None), None)
