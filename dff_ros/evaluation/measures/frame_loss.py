"""How much a run loses on one frame: what ranks the worst frames of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import UNLABELLED, Detections, LabelMap
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.report.box_match import f1, unmatched

RULE = (
    "Worst is where most is lost against per-frame: by labels where there are any (share of labelled pixels right), else by boxes "
    "(F1 at IoU .5); without truth, where most pixels, or boxes, differ from per-frame's; without per-frame, where most is wrong."
)


@dataclass(frozen=True, order=True)
class Loss:
    """What one frame loses. Losses by a better measure come first, whatever their size."""

    rank: int
    share: float
    words: str = field(compare=False)


def loss_of(answered: AnsweredFrame, score_threshold: float) -> Loss | None:
    """By the best measure that the frame allows; None where there is nothing to compare with."""
    result, own, truth = answered.result, answered.per_frame, answered.truth
    boxes = None if result.detections is None else result.detections.above(score_threshold)
    own_boxes = None if own is None or own.detections is None else own.detections.above(score_threshold)
    if truth.labels is not None and result.label_map is not None and (truth.labels != UNLABELLED).any():
        own_map = None if own is None else own.label_map
        right, before = share_right(result.label_map, truth.labels), None if own_map is None else share_right(own_map, truth.labels)
        said = f"{right:.1%} of the labelled pixels are right" + ("" if before is None else f", with per-frame {before:.1%}")
        return Loss(3, (1 if before is None else before) - right, said)
    if truth.boxes and boxes is not None:
        found, before = boxes_right(boxes, truth.boxes), None if own_boxes is None else boxes_right(own_boxes, truth.boxes)
        said = f"F1 of the boxes is {found:.2f}" + ("" if before is None else f", with per-frame {before:.2f}")
        return Loss(2, (1 if before is None else before) - found, said)
    if own is not None and result.label_map is not None and own.label_map is not None:
        differ = float((result.label_map.labels != own.label_map.labels).mean())
        return Loss(1, differ, f"{differ:.1%} of the pixels get another class than per-frame gives them")
    if own_boxes is not None and boxes is not None:
        alone, missed = unmatched(boxes.boxes, boxes.labels, own_boxes.boxes, own_boxes.labels)
        same = f1(int((~alone).sum()), int(alone.sum()), int(missed.sum()))
        return Loss(0, 1 - same, f"F1 of the boxes against per-frame's is {same:.2f}")
    return None


def share_right(answer: LabelMap, truth: NDArray[np.uint8]) -> float:
    """The share of labelled pixels (H, W) whose class is the truth's; some pixel should be labelled."""
    known = truth != UNLABELLED
    return float((answer.labels[known] == truth[known]).mean())


def boxes_right(found: Detections, truth: Mapping[int, ClassBoxes]) -> float:
    """F1 of the boxes of the covered classes; what nobody can call wrong neither counts nor punishes."""
    hits = wrong = missed = 0
    for label, known in truth.items():
        boxes = found.boxes[found.labels == label]
        alone, absent = unmatched(boxes, None, known.boxes, None)
        excused = alone & _in_doubt(boxes, known)
        ignored_hits = int((~absent & known.ignored).sum())
        hits += int((~absent).sum()) - ignored_hits
        wrong += int((alone & ~excused).sum())
        missed += int((absent & ~known.ignored).sum())
    return f1(hits, wrong, missed)


def _in_doubt(boxes: NDArray[np.float32], known: ClassBoxes) -> NDArray[np.bool_]:
    """(N,) whether the middle of a box lies in an ignored object, or where nobody knows what is there."""
    across, down = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    doubt = np.zeros(len(boxes), bool)
    for left, top, right, bottom in known.boxes[known.ignored]:
        doubt |= (across >= left) & (across < right) & (down >= top) & (down < bottom)
    if known.unknown is not None and len(boxes):
        rows, columns = known.unknown.shape
        doubt |= known.unknown[down.astype(int).clip(0, rows - 1), across.astype(int).clip(0, columns - 1)]
    return doubt
