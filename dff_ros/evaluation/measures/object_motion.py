"""How fast objects move, by their boxes: the motion IoU of ImageNet VID's evaluation (Zhu et al., Flow-Guided Feature Aggregation, 2017).

An object's motion IoU is the mean overlap of its box with its own boxes in the ten frames before and after: slow above .9, fast below .7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import Detections
from dff_ros.evaluation.measures.average_precision import ScoredFrame, average_precision, overlap
from dff_ros.evaluation.measures.motion import GROUPS

WINDOW = 10
"""Frames before and after."""

SLOW_ABOVE, FAST_BELOW = 0.9, 0.7

Sighting = tuple[int, int, int]
"""Frame, class and id of an object."""


def motion_ious(frames: Sequence[ScoredFrame]) -> dict[Sighting, float]:
    """The motion IoU of each object with an id, wherever it is seen; an object without a neighbour in time has none."""
    boxes: dict[Sighting, NDArray[np.float64]] = {}
    for frame in frames:
        for label, known in frame.truth.items():
            if known.ids is not None:
                rows = np.flatnonzero(~known.ignored)
                boxes.update({(frame.index, label, int(known.ids[row])): known.boxes[row] for row in rows})
    ious = {}
    for (index, label, identity), box in boxes.items():
        around = ((index + step, label, identity) for step in range(-WINDOW, WINDOW + 1) if step)
        others = [boxes[sighting] for sighting in around if sighting in boxes]
        if others:
            ious[index, label, identity] = float(overlap(box, np.stack(others)).mean())
    return ious


def speed_group(motion_iou: float) -> str:
    """``slow``, ``medium`` or ``fast``."""
    return GROUPS[(motion_iou <= SLOW_ABOVE) + (motion_iou < FAST_BELOW)]


def boxes_by_motion(frames: Sequence[ScoredFrame]) -> dict[str, int] | None:
    """How many boxes are of slow, medium and fast objects; None where no object has an id."""
    counts = Counter(map(speed_group, motion_ious(frames).values()))
    return {group: counts[group] for group in GROUPS} if counts else None


def ap50_by_motion(frames: Sequence[ScoredFrame]) -> dict[str, float | None] | None:
    """AP at IoU .5 of slow, medium and fast objects; None where no object has an id.

    Objects of the other groups are ignored. False boxes belong to no object and count in every group.
    """
    groups = {sighting: speed_group(iou) for sighting, iou in motion_ious(frames).items()}
    if not groups:
        return None
    return {group: average_precision([only(frame, group, groups) for frame in frames], only_half=True).map50 for group in GROUPS}


def only(frame: ScoredFrame, group: str, groups: Mapping[Sighting, str]) -> ScoredFrame:
    """The frame with every object ignored that is not of ``group``; classes whose objects have no ids are left out."""
    truth = {}
    for label, known in frame.truth.items():
        if known.ids is not None:
            others = [groups.get((frame.index, label, int(identity))) != group for identity in known.ids]
            truth[label] = replace(known, ignored=known.ignored | np.array(others, bool))
    found = frame.detections
    kept = np.isin(found.labels, list(truth))
    return replace(frame, detections=Detections(found.boxes[kept], found.scores[kept], found.labels[kept]), truth=truth)
