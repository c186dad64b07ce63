"""Ground truth from topics of the bag: detections and label images, which belong to frames by their stamps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dff_ros.evaluation.ground_truth.image_truth import ClassIds
from dff_ros.evaluation.ground_truth.matched_messages import MatchedMessages
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, TruthError
from dff_ros.image_encoding import EncodingError, to_frame
from dff_ros.recording.bag_reader import BagReader
from dff_ros.recording.bag_types import DETECTIONS, IMAGE
from dff_ros.recording.frames import StampedFrame


@dataclass(frozen=True)
class _Object:
    box: tuple[float, float, float, float]
    identity: str


class TopicDetections:
    """Detection2DArray messages as the truth of one box source for each class."""

    def __init__(self, bag: BagReader, topic: str, detection_classes: Sequence[str], covered: Sequence[str] = ()) -> None:
        """``covered`` are the classes that the topic tells of, all of the model's where none are given.

        Raises TruthError for another topic, a class that the model does not have, and a topic that begins with none of its classes.
        """
        self.messages = MatchedMessages(bag, topic, DETECTIONS)
        self._classes = tuple(detection_classes)
        for name in covered:
            if name not in self._classes:
                raise TruthError(f"{topic} cannot be truth of {name!r}: {self._known}")
        self._labels = {name.casefold(): name for name in self._classes}
        self.unknown: Counter[str] = Counter()
        """Detections of classes that the model does not have, by what they are called."""
        self._index = -1
        self._found: dict[str, list[_Object]] | None = None
        told = [self._objects(message) for message in self.messages.first()]
        if self.unknown and not any(told):
            raise TruthError(f"{topic} has detections of {', '.join(map(repr, self.unknown))}: {self._known}")
        self.unknown.clear()
        # Objects are told apart by their ids only where each has one.
        identified = any(told) and all(_have_ids(objects) for found in told for objects in found.values())
        self.sources = [TopicBoxes(self, name, identified=identified) for name in covered or self._classes]

    @property
    def notes(self) -> list[str]:
        """What a person should know after the replay, one line each."""
        left_out = ", ".join(f"{count} of {name!r}" for name, count in sorted(self.unknown.items()))
        notes = [f"{self.messages.topic}: detections of unknown classes are left out ({left_out}): {self._known}"] if left_out else []
        return [*notes, *filter(None, [self.messages.note])]

    @property
    def _known(self) -> str:
        return f"the model's detection classes are {', '.join(self._classes) or 'none'}"

    def of(self, frame: StampedFrame) -> dict[str, list[_Object]] | None:
        """The frame's objects by class; None where no message belongs to it."""
        if frame.index < self._index:
            self.unknown.clear()
        if frame.index != self._index:
            message = self.messages.of(frame)
            self._index, self._found = frame.index, None if message is None else self._objects(message)
        return self._found

    def _objects(self, message: Any) -> dict[str, list[_Object]]:
        found: dict[str, list[_Object]] = {}
        for item in message.detections:
            if not len(item.results):
                raise TruthError(f"a detection on {self.messages.topic} should have a class, got one without results")
            # Before vision_msgs 4 a class was "id", before 3 without "hypothesis".
            best = max((getattr(result, "hypothesis", result) for result in item.results), key=lambda result: float(result.score))
            said = str(getattr(best, "class_id", getattr(best, "id", "")))
            name = self._class_of(said)
            if name is None:
                self.unknown[said] += 1
            else:
                found.setdefault(name, []).append(_Object(_edges(item.bbox), str(getattr(item, "id", ""))))
        return found

    def _class_of(self, said: str) -> str | None:
        """The model's class by name or by index."""
        if said.isdecimal() and said not in self._labels:
            return self._classes[int(said)] if int(said) < len(self._classes) else None
        return self._labels.get(said.casefold())


class TopicBoxes:
    """Truth for one class, from a topic."""

    unusable_ids = ""

    def __init__(self, detections: TopicDetections, class_name: str, *, identified: bool) -> None:
        self.class_name = class_name
        self.identified = identified
        self._detections = detections
        self._numbers: dict[str, int] = {}

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's objects of the class, possibly none; None where no message belongs to the frame."""
        found = self._detections.of(frame)
        if found is None:
            return None
        objects = found.get(self.class_name, [])
        boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
        ids = None
        if self.identified and _have_ids(objects):
            ids = np.array([self._numbers.setdefault(item.identity, len(self._numbers)) for item in objects], np.int64)
        return ClassBoxes(boxes, np.zeros(len(boxes), bool), ids=ids)


class TopicLabels:
    """Segmentation truth: mono8 images of class ids on a topic."""

    def __init__(self, bag: BagReader, topic: str, class_names: Sequence[str], ignored: Sequence[int]) -> None:
        """``ignored`` lists the ids that are not scored; 255 never is. Raises TruthError for another topic."""
        self.messages = MatchedMessages(bag, topic, IMAGE)
        self._ids = ClassIds(class_names, ignored)
        for message in islice(self.messages.first(), 1):
            self._read(message)

    @property
    def notes(self) -> list[str]:
        """What a person should know after the replay, one line each."""
        return [note for note in [self.messages.note] if note]

    def labels_of(self, frame: StampedFrame) -> NDArray[np.uint8] | None:
        """(H, W) uint8 class ids, 255 where not scored; None for a frame without a label image."""
        message = self.messages.of(frame)
        if message is None:
            return None
        raw = self._read(message)
        if raw.shape != frame.frame.shape[:2]:
            (height, width), want = raw.shape, frame.frame.shape
            raise TruthError(f"a label image on {self.messages.topic} is {width}x{height}, its frame {frame.index} {want[1]}x{want[0]}")
        return self._ids.of_the_model(raw, f"the label image of frame {frame.index} on {self.messages.topic}")

    def _read(self, message: Any) -> NDArray[np.uint8]:
        if message.encoding not in ("mono8", "8UC1"):
            raise TruthError(f"label images on {self.messages.topic} should be mono8, got {message.encoding}")
        try:
            grey = to_frame(message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data)
        except EncodingError as error:
            raise TruthError(f"a label image on {self.messages.topic}: {error}") from None
        return np.ascontiguousarray(grey[..., 0])  # as OpenCV wants it


def _have_ids(objects: Sequence[_Object]) -> bool:
    identities = {item.identity for item in objects}
    return "" not in identities and len(identities) == len(objects)


def _edges(box: Any) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 around a BoundingBox2D, which may be turned; before vision_msgs 4 its centre had no ``position``."""
    centre = getattr(box.center, "position", box.center)
    across, down = abs(math.cos(box.center.theta)), abs(math.sin(box.center.theta))
    width, height = across * box.size_x + down * box.size_y, down * box.size_x + across * box.size_y
    return centre.x - width / 2, centre.y - height / 2, centre.x + width / 2, centre.y + height / 2
