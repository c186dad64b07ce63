"""Boxes that are known row by row, as those of tables and COCO files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dff_ros.evaluation.ground_truth.truth import ClassBoxes, TruthError
from dff_ros.recording.frames import StampedFrame

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in source pixels, right and bottom exclusive."""


class RowBoxes(ABC):
    """Boxes of one class that are known row by row, each with the number of its frame or image."""

    unit = "frame"
    """What the numbers count."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self._rows: dict[int, list[tuple[Box, int | None, bool]]] = {}
        """Boxes with id and whether they are ignored."""
        self._numbers: dict[object, int] = {}

    def add(self, number: int, box: Box, identity: object = None, *, ignored: bool = False) -> None:
        """Take one object: x1, y1, x2, y2, and anything that tells it from others, None where nothing does."""
        known = None if identity is None else self._numbers.setdefault(identity, len(self._numbers))
        self._rows.setdefault(number, []).append((box, known, ignored))

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    @cached_property
    def identified(self) -> bool:
        """Whether ids tell the objects apart, once all are there."""
        return self._first_doubt is None

    @property
    def unusable_ids(self) -> str:
        """Why the ids that there are tell no object apart, as a clause; empty where they do, or where there are none."""
        if self._first_doubt is None or not self._numbers:
            return ""
        missing = None in self._ids_of(self._first_doubt)
        return f"{self.unit} {self._first_doubt} has {'a box without an id' if missing else 'an id twice'}"

    @cached_property
    def _first_doubt(self) -> int | None:
        doubtful = (number for number in self._rows if len(set(ids := self._ids_of(number)) - {None}) != len(ids))
        return min(doubtful, default=None)

    def _ids_of(self, number: int) -> list[int | None]:
        return [identity for _, identity, ignored in self._rows[number] if not ignored]

    @abstractmethod
    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's objects, possibly none; None where the truth does not cover the frame."""

    def rows_of(self, number: int) -> ClassBoxes:
        """The objects of one frame or image, possibly none."""
        rows = self._rows.get(number, [])
        boxes = np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4)
        ids = np.array([-1 if identity is None else identity for _, identity, _ in rows], np.int64) if self.identified else None
        return ClassBoxes(boxes, np.array([ignored for _, _, ignored in rows], bool), ids=ids)


def of_the_model(sources: Sequence[RowBoxes], detection_classes: Sequence[str], path: Path) -> tuple[list[RowBoxes], str]:
    """Those sources of a file whose class the model has, under the model's own name, and a clause that names the others ("" without any).

    Names are compared without case. Raises TruthError where the model has none of the classes.
    """
    names = {name.casefold(): name for name in detection_classes}
    kept = [source for source in sources if source.class_name.casefold() in names]
    others = ", ".join(sorted({repr(source.class_name) for source in sources if source not in kept and (len(source) or not kept)}))
    reason = f"{path}: boxes of {others} are left out: the model's detection classes are {', '.join(detection_classes) or 'none'}"
    if not kept:
        raise TruthError(reason)
    for source in kept:
        source.class_name = names[source.class_name.casefold()]
    return kept, reason if others else ""
