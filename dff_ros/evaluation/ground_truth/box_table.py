"""Ground truth from a CSV table of boxes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dff_ros.evaluation.ground_truth.row_boxes import Box, RowBoxes
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, TruthError
from dff_ros.recording.frames import StampedFrame

COLUMNS = ("frame", "left", "top", "width", "height")


class BoxTable(RowBoxes):
    """The boxes of one class; the table covers the source frames from ``first`` to ``last``."""

    first = last = 0

    def boxes_of(self, frame: StampedFrame) -> ClassBoxes | None:
        """The frame's rows; None outside the table's frames."""
        return self.rows_of(frame.index) if self.first <= frame.index <= self.last else None


def read_box_table(path: Path, class_name: str | None = None) -> list[BoxTable]:
    """The classes of a CSV file with the columns frame, id, class, left, top, width, height; ``frame`` is the source index.

    The table covers every source frame from its first row to its last, for all of its classes. The column ``id`` (any text) may be missing;
    where it is, or has the same id twice in a frame, nobody knows which object is which. Without the column ``class`` all boxes are
    ``class_name``'s; with it, those are chosen, or all where ``class_name`` is None. Raises TruthError.
    """
    tables: dict[str, BoxTable] = {}
    frames = set()
    for frame, name, box, identity in _rows(path, class_name):
        tables.setdefault(name, BoxTable(name)).add(frame, box, identity)
        frames.add(frame)
    if not tables:
        raise TruthError(f"{path} holds no boxes")
    if class_name is not None and class_name not in tables:
        raise TruthError(f"{path} holds no boxes of {class_name!r}; its classes are {', '.join(sorted(tables))}")
    for table in tables.values():
        table.first, table.last = min(frames), max(frames)
    return list(tables.values()) if class_name is None else [tables[class_name]]


def _rows(path: Path, class_name: str | None) -> Iterator[tuple[int, str, Box, str | None]]:
    """Frame, class, box and id of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            _check_columns(rows.fieldnames or (), path, class_name)
            for row in rows:
                try:
                    yield _read(row, class_name)
                except TypeError as error:
                    raise TruthError(f"{path}, line {rows.line_num}: should hold {len(rows.fieldnames or ())} values") from error
                except ValueError as error:
                    raise TruthError(f"{path}, line {rows.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TruthError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_columns(names: object, path: Path, class_name: str | None) -> None:
    needed = COLUMNS if class_name is not None else (*COLUMNS, "class")
    missing = [name for name in needed if name not in names]  # type: ignore[operator]
    if missing == ["class"]:
        raise TruthError(f"{path} lacks the column class: name the class of its boxes as {path}:CLASS")
    if missing:
        raise TruthError(f"{path} lacks the column {', '.join(missing)} (expected frame,id,class,left,top,width,height)")


def _read(row: dict[str, str], class_name: str | None) -> tuple[int, str, Box, str | None]:
    frame = int(row["frame"])
    left, top, width, height = (float(row[name]) for name in COLUMNS[1:])
    name = row.get("class", class_name)
    if name is None:
        raise TypeError("the row ends before its class")
    if not name:
        raise ValueError("a box should have a class, got none")
    return frame, name, corners(left, top, width, height), row.get("id") or None


def corners(left: float, top: float, width: float, height: float) -> Box:
    """x1, y1, x2, y2 of a box that is given by its size; raises ValueError where it has none."""
    if not np.isfinite((left, top, width, height)).all():
        raise ValueError(f"a box should be of finite numbers, got {left},{top},{width},{height}")
    if not (width > 0 and height > 0):
        raise ValueError(f"width and height should be positive, got {width} and {height}")
    return left, top, left + width, top + height
