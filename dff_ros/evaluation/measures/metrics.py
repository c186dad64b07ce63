"""Scores of pixels, each with one meaning: mIoU and agreement; and summaries of times. Those of boxes are in ``average_precision``.

Scores are kept by age (frames since the key), so that one pass gives the overall figure and the curve over age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Curve = list["float | None"]
"""One score for each age; None where nothing was scored."""


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """The mean of those values that were measured."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


class ConfusionMatrix:
    """Counts of pixels: rows are true classes, columns the answers, the last column for pixels left unlabelled."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: NDArray[np.uint8], answer: NDArray[np.uint8]) -> None:
        """Count one frame, both (H, W); pixels whose truth is none of the classes, as 255, are left out."""
        if truth.shape != answer.shape:
            raise ValueError(f"truth and answer should have one shape, got {truth.shape} and {answer.shape}")
        classes, columns = self.counts.shape
        # OpenCV's joint histogram takes half of the time of numpy's; it counts whole pixels, and float32 holds 16 million of a kind.
        answers = np.minimum(answer, classes)
        counts = cv2.calcHist([truth, answers], [0, 1], None, [classes, columns], [0, classes, 0, columns])
        self.counts += counts.astype(np.int64)

    def pixels(self) -> list[int]:
        """How many pixels of each class the truth has."""
        return [int(count) for count in self.counts.sum(axis=1)]

    def iou(self) -> Curve:
        """Intersection over union of each class; None for classes that do not occur in the truth."""
        hits, true = self._hits_and_true()
        union = true + self.counts.sum(axis=0)[:-1] - hits
        return [float(hits[k] / union[k]) if true[k] else None for k in range(len(true))]

    def recall(self) -> Curve:
        """The share of each class's pixels that were given that class; None for classes that do not occur in the truth."""
        hits, true = self._hits_and_true()
        return [float(hits[k] / true[k]) if true[k] else None for k in range(len(true))]

    def _hits_and_true(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.diagonal(self.counts), self.counts.sum(axis=1)


class SegmentationScore:
    """mIoU of a run: one confusion matrix over all frames, one for each age and one for each group of motion."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._by_age: dict[int, ConfusionMatrix] = {}
        self._by_motion: dict[str, ConfusionMatrix] = {}

    def add(self, age: int, truth: NDArray[np.uint8], answer: NDArray[np.uint8], *, motion: str | None = None) -> None:
        """Score one frame's class ids against its truth; ``motion`` is the group of motion that it belongs to, where that is known."""
        matrix = ConfusionMatrix(len(self._names))
        matrix.add(truth, answer)
        self._by_age.setdefault(age, ConfusionMatrix(len(self._names))).counts += matrix.counts
        if motion is not None:
            self._by_motion.setdefault(motion, ConfusionMatrix(len(self._names))).counts += matrix.counts

    def by_age(self) -> Curve:
        """mIoU at each age."""
        return curve({age: mean_or_none(matrix.iou()) for age, matrix in self._by_age.items()})

    def by_motion(self) -> dict[str, float | None]:
        """mIoU of the frames of each group of motion, all ages together."""
        return {group: mean_or_none(matrix.iou()) for group, matrix in self._by_motion.items()}

    def iou(self, *, average_ages: bool) -> dict[str, float | None]:
        """IoU by class name, of all frames together or, with ``average_ages``, the mean over the ages."""
        return self._by_class(ConfusionMatrix.iou, average_ages=average_ages)

    def recall(self, *, average_ages: bool) -> dict[str, float | None]:
        """The share of each class's pixels that were given that class, averaged as :meth:`iou`."""
        return self._by_class(ConfusionMatrix.recall, average_ages=average_ages)

    def pixels(self, *, average_ages: bool) -> dict[str, int]:
        """True pixels by class name; with ``average_ages`` every age has seen the same frames, and they count once."""
        times = len(self._by_age) if average_ages else 1
        return {name: count // times for name, count in zip(self._names, self._total().pixels(), strict=True)}

    def _by_class(self, figure: Callable[[ConfusionMatrix], Curve], *, average_ages: bool) -> dict[str, float | None]:
        if not average_ages:
            return dict(zip(self._names, figure(self._total()), strict=True))
        columns = zip(*map(figure, self._by_age.values()), strict=True)
        return dict(zip(self._names, map(mean_or_none, columns), strict=True))

    def _total(self) -> ConfusionMatrix:
        total = ConfusionMatrix(len(self._names))
        for matrix in self._by_age.values():
            total.counts += matrix.counts
        return total

    def __bool__(self) -> bool:
        return bool(self._by_age)


@dataclass
class Agreement:
    """The share of pixels whose class equals another answer's."""

    equal: int = 0
    pixels: int = 0

    def add(self, answer: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
        """Compare two label maps (H, W) of one frame."""
        self.equal += int(np.count_nonzero(answer == other))
        self.pixels += answer.size

    @property
    def share(self) -> float | None:
        """0..1; None where nothing was compared."""
        return self.equal / self.pixels if self.pixels else None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.equal + other.equal, self.pixels + other.pixels)


def curve(by_age: Mapping[int, float | None]) -> Curve:
    """A list whose index is the age."""
    return [by_age.get(age) for age in range(max(by_age, default=-1) + 1)]


def difference(minuend: Curve, subtrahend: Curve) -> Curve:
    """Age by age; None where either is."""
    return [None if a is None or b is None else a - b for a, b in zip(minuend, subtrahend, strict=True)]


def describe(times: Sequence[float]) -> dict[str, float | None]:
    """mean, p50, p95, p99 and max of some times; None each where there are none."""
    if not times:
        return dict.fromkeys(("mean", "p50", "p95", "p99", "max"))
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    return {"mean": float(np.mean(times)), "p50": p50, "p95": p95, "p99": p99, "max": float(np.max(times))}
