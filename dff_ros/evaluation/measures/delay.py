"""Detection delay: how many frames later than per-frame a propagated run finds an object that appears.

Pure propagation cannot show what the last key frame did not see, so this is what a key frame interval costs in reaction time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import Detections
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.average_precision import overlap
from dff_ros.evaluation.measures.metrics import Curve

MATCH_IOU = 0.5

REAPPEARANCE_GAP = 15
"""Frames without a box after which an object that comes back has appeared anew. Boxes of the generated drives flicker for up to about
ten frames where an object is almost hidden or almost too small. Where keys are further apart the gap is their interval: within it a
key from before the gap may still show the object."""

LEAST_SEEN = 3
"""Frames in which per-frame has to see an object for it to have appeared, where its detections alone say what is there: single ones are
mistakes more often than objects."""

Identity = tuple[int, int]
"""Class and id of an object."""


@dataclass(frozen=True)
class DelayFigures:
    """Delays in frames, against per-frame, over all appearances and key phases; negative where propagation was first.

    ``appearances`` counts what per-frame detected, each of which was met by every phase; ``missed`` is the share of these meetings
    in which propagation never detected it: they count as delayed until the frame after its last. ``by_age[a]`` is the mean
    delay where the key was a frames old when per-frame first detected the object, and ``histogram`` counts the delays.
    """

    mean: float | None
    p90: float | None
    appearances: int
    missed: float | None
    by_age: Curve
    histogram: Mapping[int, int]


@dataclass
class _Appearance:
    """One stay of an object: when it was last there, and when it was first detected, by per-frame and in each key phase."""

    counts: bool
    """Not so where the object was there before the truth began."""
    last: int
    per_frame: int | None
    seen: int
    """In how many frames per-frame detected it."""
    propagated: list[int | None]


class DetectionDelay:
    """Follows the objects of a recording, frame by frame, in all key phases of ``fixed:interval`` at once.

    In phase p frames p, p + interval, ... are keys, and frame 0, as the first frame of any run. Only objects in sight are held.
    """

    def __init__(self, interval: int, *, score_threshold: float, least_seen: int = 1) -> None:
        """Detections with a lower score than ``score_threshold`` are not published, so they do not count.

        An appearance counts where per-frame detected the object in at least ``least_seen`` frames.
        """
        self._interval = interval
        self._gap = max(REAPPEARANCE_GAP, interval)
        self._threshold = score_threshold
        self._least_seen = least_seen
        self._frame = -1
        self._open: dict[Identity, _Appearance] = {}
        self._covered: frozenset[int] = frozenset()
        """Classes whose truth covered the frame before: only of these an object can be seen to appear."""
        self._appearances = 0
        self._missed = 0
        self._delays: Counter[int] = Counter()
        self._by_age: list[list[int]] = [[] for _ in range(interval)]

    def add(self, truth: Mapping[int, ClassBoxes], answers: Sequence[Detections]) -> None:
        """Take the next frame: its objects by class, and its detections from the keys 0, 1, ... frames back.

        There are ``interval`` answers, near the beginning one for each frame so far; the first of them is per-frame's.
        Raises ValueError for another number of answers.
        """
        self._frame += 1
        if len(answers) != min(self._frame + 1, self._interval):
            raise ValueError(f"answers should be {min(self._frame + 1, self._interval)}, got {len(answers)}")
        identified = {label: known for label, known in truth.items() if known.ids is not None}
        here = self._meet(identified)
        found = [detected(identified, answer.above(self._threshold)) for answer in answers]
        for identity in here:
            self._note(identity, found)
        for identity in [key for key, stay in self._open.items() if self._frame - stay.last >= self._gap]:
            self._close(identity)
        self._covered = frozenset(identified)

    def figures(self) -> DelayFigures:
        """The delays so far; objects still in sight are taken to leave after the last frame, so call it at the end."""
        for identity in list(self._open):
            self._close(identity)
        values = np.fromiter(self._delays.elements(), np.int64)
        return DelayFigures(
            mean=float(values.mean()) if values.size else None,
            p90=float(np.percentile(values, 90)) if values.size else None,
            appearances=self._appearances,
            missed=self._missed / values.size if values.size else None,
            by_age=[float(np.mean(delays)) if delays else None for delays in self._by_age],
            histogram=dict(sorted(self._delays.items())),
        )

    def _meet(self, truth: Mapping[int, ClassBoxes]) -> list[Identity]:
        """The objects of this frame, entered where they are new."""
        here = [(label, int(known.ids[row])) for label, known in truth.items() if known.ids is not None for row in countable(known)]
        for identity in here:
            if identity not in self._open:
                self._open[identity] = _Appearance(identity[0] in self._covered, self._frame, None, 0, [None] * self._interval)
            self._open[identity].last = self._frame
        return here

    def _note(self, identity: Identity, found: Sequence[frozenset[Identity]]) -> None:
        """Remember the first detections."""
        stay = self._open[identity]
        stay.seen += identity in found[0]
        if stay.per_frame is None and identity in found[0]:
            stay.per_frame = self._frame
        for phase, first in enumerate(stay.propagated):
            if first is None and identity in found[self._age(self._frame, phase)]:
                stay.propagated[phase] = self._frame

    def _age(self, frame: int, phase: int) -> int:
        """How old the key is at ``frame``, in one phase."""
        return min((frame - phase) % self._interval, frame)

    def _close(self, identity: Identity) -> None:
        """Count an appearance that has ended."""
        stay = self._open.pop(identity)
        if not stay.counts or stay.per_frame is None or stay.seen < self._least_seen:
            return
        self._appearances += 1
        for phase, first in enumerate(stay.propagated):
            delay = (stay.last + 1 if first is None else first) - stay.per_frame
            self._missed += first is None
            self._delays[delay] += 1
            self._by_age[self._age(stay.per_frame, phase)].append(delay)


def countable(known: ClassBoxes) -> NDArray[np.intp]:
    """Rows of the objects that count."""
    return np.flatnonzero(~known.ignored)


def detected(truth: Mapping[int, ClassBoxes], detections: Detections) -> frozenset[Identity]:
    """The objects that detections of their class meet, each detection one object: the best that is free, the highest score first."""
    found: set[Identity] = set()
    for label, known in truth.items():
        if known.ids is None:
            continue
        rows = countable(known)
        boxes, ids = known.boxes[rows], known.ids[rows]
        free = np.ones(len(rows), bool)
        for box in detections.boxes[detections.labels == label].astype(np.float64):
            shared = np.where(free, overlap(box, boxes), 0.0)
            if shared.size and shared.max() >= MATCH_IOU:
                best = int(shared.argmax())
                free[best] = False
                found.add((label, int(ids[best])))
    return frozenset(found)
