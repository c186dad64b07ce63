"""Which detection of a frame shows the same object as one of the frame before: an IoU tracker (Bochinski et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import Detections
from dff_ros.evaluation.measures.average_precision import overlap

LEAST_OVERLAP = 0.3
"""IoU from which a box goes on a track. A person who walks past at 7 Hz overlaps by less than a half."""

PATIENCE = 15
"""Frames without a detection after which a track has ended."""


class IouTracker:
    """Gives detections ids; told of a recording's frames in order.

    A detection, the highest score first, goes on that free track of its class whose last box it overlaps most, by an IoU of at least
    ``LEAST_OVERLAP``; otherwise it begins a track. Nothing predicts where an object goes.
    """

    def __init__(self) -> None:
        self._frame = 0
        self._next = 0
        self._open: dict[int, tuple[int, NDArray[np.float64], int]] = {}
        """By id: class, last box, and the frame it was seen in."""

    def ids_of(self, detections: Detections) -> NDArray[np.int64]:
        """(N,) ids of the next frame's detections."""
        self._frame += 1
        self._open = {identity: track for identity, track in self._open.items() if self._frame - track[2] <= PATIENCE}
        ids = np.empty(len(detections), np.int64)
        for row, (box, label) in enumerate(zip(detections.boxes.astype(np.float64), detections.labels.tolist(), strict=True)):
            ids[row] = identity = self._track_of(box, label)
            self._open[identity] = label, box, self._frame
        return ids

    def _track_of(self, box: NDArray[np.float64], label: int) -> int:
        """The track that a box goes on, or a new one."""
        free = {identity: last for identity, (kind, last, seen) in self._open.items() if kind == label and seen < self._frame}
        if free:
            shared = overlap(box, np.stack(list(free.values())))
            if shared.max() >= LEAST_OVERLAP:
                return list(free)[int(shared.argmax())]
        self._next += 1
        return self._next - 1
