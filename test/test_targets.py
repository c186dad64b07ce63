"""Anchor and RoI targets against plain loops, and the rules on ignored boxes and borders by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dff_ros.core.boxes import box_area, box_intersection, box_iou, clip_boxes, make_anchors
from dff_train.targets import AnchorTargets, DetectionTargets, anchor_targets, roi_targets, sample_anchors

HEIGHT, WIDTH = 96, 128


def truth(
    boxes: list[list[float]], labels: list[int] | None = None, *, ignore: list[list[float]] | None = None, classes: int = 3
) -> DetectionTargets:
    return DetectionTargets(
        torch.tensor(boxes).view(-1, 4).float(),
        torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.long),
        torch.tensor(ignore or []).view(-1, 4).float(),
        torch.ones(classes, dtype=torch.bool),
    )


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH - 12.0, HEIGHT - 12.0])
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    return clip_boxes(boxes, HEIGHT, WIDTH)


def slow_anchor_targets(anchors: Tensor, target: DetectionTargets) -> tuple[list[bool], list[bool]]:
    """Faster R-CNN, section 3.1, anchor by anchor."""
    iou = box_iou(anchors, target.boxes)
    inside = [box_area(clip_boxes(a, HEIGHT, WIDTH)) >= 0.5 * box_area(a) for a in anchors]
    usable = [i for i in range(len(anchors)) if inside[i]]
    positive, negative = [False] * len(anchors), [False] * len(anchors)
    for i in usable:
        best_for_some = any(iou[i, g] > 0 and all(iou[i, g] >= iou[o, g] for o in usable) for g in range(len(target.boxes)))
        positive[i] = best_for_some or any(iou[i, g] >= 0.7 for g in range(len(target.boxes)))
        covered = any(box_intersection(anchors[i : i + 1], b[None]) > 0.5 * box_area(anchors[i]) for b in target.ignore_boxes)
        negative[i] = not positive[i] and not covered and all(iou[i, g] < 0.3 for g in range(len(target.boxes)))
    return positive, negative


@pytest.mark.parametrize("seed", range(4))
def test_anchor_targets_are_the_papers(seed: int) -> None:
    anchors = make_anchors([(20, 40), (40, 20)], 16, 6, 8)
    boxes, ignored = random_boxes(5, seed), random_boxes(2, seed + 100)
    target = DetectionTargets(boxes, torch.zeros(5, dtype=torch.long), ignored, torch.ones(1, dtype=torch.bool))
    found = anchor_targets(anchors, target, HEIGHT, WIDTH)
    positive, negative = slow_anchor_targets(anchors, target)
    assert found.positive.tolist() == positive
    assert found.negative.tolist() == negative
    best = box_iou(anchors, boxes).argmax(dim=1)
    assert torch.equal(found.matched[found.positive], boxes[best[found.positive]])


def test_every_truth_box_has_an_anchor_however_poor() -> None:
    anchors = make_anchors([(16, 16)], 16, 6, 8)
    found = anchor_targets(anchors, truth([[30, 30, 90, 90]]), HEIGHT, WIDTH)
    assert found.positive.sum() > 0
    assert torch.equal(found.matched[found.positive][0], torch.tensor([30.0, 30, 90, 90]))


def test_without_truth_boxes_all_anchors_are_negative() -> None:
    anchors = make_anchors([(16, 16)], 16, 6, 8)
    found = anchor_targets(anchors, truth([]), HEIGHT, WIDTH)
    assert found.negative.all()
    assert not found.positive.any()


def test_anchors_on_ignored_boxes_are_not_negative() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 4, 10, 14], [0, 6, 10, 16], [50, 50, 60, 60]])  # covered by 10, 6, 4 and 0 rows
    found = anchor_targets(anchors, truth([], ignore=[[0, 0, 20, 10]]), HEIGHT, WIDTH)
    assert found.negative.tolist() == [False, False, True, True]


def test_a_truth_box_on_an_ignored_one_is_still_found() -> None:
    anchors = torch.tensor([[10.0, 10, 30, 50]])
    found = anchor_targets(anchors, truth([[10, 10, 30, 50]], ignore=[[0, 0, 100, 90]]), HEIGHT, WIDTH)
    assert found.positive.tolist() == [True]


def test_anchors_mostly_outside_are_neither() -> None:
    anchors = torch.tensor([[-12.0, 0, 8, 10], [-8, 0, 12, 10], [120, 90, 140, 110]])
    found = anchor_targets(anchors, truth([[0, 0, 8, 10]]), HEIGHT, WIDTH)
    assert found.positive.tolist() == [False, True, False]
    assert found.negative.tolist() == [False, False, False]


@pytest.mark.parametrize(("positives", "negatives", "expected"), [(500, 2000, (128, 128)), (10, 2000, (10, 246)), (0, 30, (0, 30))])
def test_a_sample_is_at_most_half_positive(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    count = positives + negatives + 100
    index = torch.arange(count)
    targets = AnchorTargets(index < positives, (index >= positives) & (index < positives + negatives), torch.zeros(count, 4))
    sample = sample_anchors(targets, torch.Generator().manual_seed(0))
    assert (int(sample.positive.sum()), int(sample.negative.sum())) == expected
    assert not (sample.positive & ~targets.positive).any()
    assert not (sample.negative & ~targets.negative).any()


def test_samples_differ() -> None:
    targets = AnchorTargets(torch.zeros(2000, dtype=torch.bool), torch.ones(2000, dtype=torch.bool), torch.zeros(2000, 4))
    assert not torch.equal(sample_anchors(targets).negative, sample_anchors(targets).negative)


def test_rois_are_the_proposals_and_the_truth() -> None:
    proposals = torch.tensor([[10.0, 10, 30, 50], [10, 10, 30, 32], [12, 10, 32, 50], [90, 60, 120, 90]])
    target = truth([[10, 10, 30, 50], [60, 10, 80, 30]], [2, 0])
    found = roi_targets(proposals, target)
    assert found.labels.tolist() == [3, 3, 3, 0, 3, 1]  # the second covers 22 of 40 rows
    assert torch.equal(found.rois[4:], target.boxes)
    foreground = found.labels > 0
    assert torch.equal(found.matched[foreground], target.boxes[[0, 0, 0, 0, 1]])


def test_background_on_ignored_boxes_is_left_out() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [30, 30, 50, 70]])
    found = roi_targets(proposals, truth([[30, 30, 50, 70]], [1], ignore=[[0, 0, 10, 10], [20, 20, 60, 80]]))
    assert found.rois.tolist() == [[5, 5, 15, 15], [30, 30, 50, 70], [30, 30, 50, 70]]
    assert found.labels.tolist() == [0, 2, 2]


def test_rois_without_truth_are_background() -> None:
    found = roi_targets(random_boxes(7, 0), truth([]))
    assert found.labels.tolist() == [0] * 7


def test_targets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"should be \(G, 4\), \(G,\) and \(I, 4\), got \(2, 4\), \(1,\)"):
        DetectionTargets(torch.zeros(2, 4), torch.zeros(1), torch.zeros(0, 4), torch.ones(1, dtype=torch.bool))
