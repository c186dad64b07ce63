"""Boxes against slow, obvious references and cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dff_ros.core.boxes import (
    SUPPRESSION_BLOCK,
    anchors_at,
    batched_nms,
    box_intersection,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    first_kept,
    make_anchors,
    nms,
    voted_boxes,
)


def random_boxes(count: int, generator: torch.Generator, *, image: float = 100.0, largest: float = 40.0) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * image
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * largest], dim=1)


def slow_iou(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def greedy_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Take the best box, strike out what overlaps it, repeat."""
    iou = box_iou(boxes, boxes)
    left = sorted(range(len(boxes)), key=lambda i: -scores[i].item())  # sorted() is stable: ties keep their order
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if not iou[best, i] > threshold]
    return kept


def test_iou_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]])
    expected = torch.tensor([1.0, 50 / 150, 0.0, 4 / 100])
    assert torch.allclose(box_iou(boxes[:1], boxes)[0], expected)
    assert box_intersection(boxes[:1], boxes)[0].tolist() == [100, 50, 0, 4]


def test_iou_equals_the_slow_one() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = random_boxes(30, generator), random_boxes(20, generator)
    expected = torch.tensor([[slow_iou(x, y) for y in b.tolist()] for x in a.tolist()])
    assert torch.allclose(box_iou(a, b), expected, atol=1e-6)


def test_iou_of_empty_boxes_is_zero() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert box_iou(point, point).item() == 0
    assert box_iou(point, torch.zeros(0, 4)).shape == (1, 0)
    assert box_iou(torch.zeros(0, 4), point).shape == (0, 1)


def test_coding_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0, 10, 20]])
    box = torch.tensor([[5.0, 0, 15, 40]])  # centre (10, 20), twice as high
    offsets = encode_boxes(box, anchor, (0.1, 0.1, 0.2, 0.2))
    assert torch.allclose(offsets, torch.tensor([[5.0, 5.0, 0.0, math.log(2) / 0.2]]))
    assert torch.equal(decode_boxes(torch.zeros(1, 4), anchor, (1, 1, 1, 1)), anchor)


def test_decoding_undoes_encoding() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, anchors = random_boxes(200, generator), random_boxes(200, generator)
    stds = (0.1, 0.1, 0.4, 0.4)
    assert torch.allclose(decode_boxes(encode_boxes(boxes, anchors, stds), anchors, stds), boxes, atol=1e-3)


def test_decoding_bounds_the_growth() -> None:
    box = decode_boxes(torch.tensor([[0.0, 0, 1e6, 1e6]]), torch.tensor([[0.0, 0, 16, 16]]), (1, 1, 1, 1))
    assert torch.isfinite(box).all()
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(1000, rel=1e-5)


def test_clipping_cuts_at_each_edge() -> None:
    boxes = torch.tensor([[-5.0, -6, 500, 600], [10, 20, 30, 40]])
    assert clip_boxes(boxes, 100, 200).tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]


def test_anchors_by_hand() -> None:
    anchors = make_anchors([(8, 8), (4, 16)], 8, 2, 3)
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [0, 0, 8, 8]
    assert anchors[1].tolist() == [2, -4, 6, 12]
    assert anchors[2].tolist() == [8, 0, 16, 8]  # the next column
    assert anchors[6].tolist() == [0, 8, 8, 16]  # the next row


def test_anchors_equal_the_slow_ones() -> None:
    sizes, stride = [(20.0, 60.0), (33.0, 17.0), (5.0, 5.0)], 16
    expected = [
        [(x + 0.5) * stride - w / 2, (y + 0.5) * stride - h / 2, (x + 0.5) * stride + w / 2, (y + 0.5) * stride + h / 2]
        for y in range(4)
        for x in range(5)
        for w, h in sizes
    ]
    assert make_anchors(sizes, stride, 4, 5).tolist() == expected


def test_chosen_anchors_are_those_of_the_grid() -> None:
    sizes = [(20.0, 60.0), (33.0, 17.0), (5.0, 5.0)]
    index = torch.randint(0, 4 * 5 * 3, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(anchors_at(index, sizes, 16, 5), make_anchors(sizes, 16, 4, 5)[index])


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # neighbours overlap by 6/14, ends by 2/18
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms(boxes, scores, 0.3).tolist() == [0, 2]
    assert nms(boxes, scores, 0.5).tolist() == [0, 1, 2]
    assert nms(boxes, scores, 0.1).tolist() == [0]


def test_a_long_chain_is_resolved_alternately() -> None:
    x = torch.arange(50.0) * 4
    boxes = torch.stack([x, torch.zeros(50), x + 10, torch.full((50,), 10.0)], dim=1)
    assert nms(boxes, torch.linspace(1, 0, 50), 0.3).tolist() == list(range(0, 50, 2))


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_nms_is_the_greedy_one(threshold: float) -> None:
    generator = torch.Generator().manual_seed(2)
    for trial in range(40):
        image = (20.0, 60.0, 200.0)[trial % 3]  # from everything overlapping to little
        boxes = random_boxes(1 + 4 * trial, generator, image=image)
        scores = torch.rand(len(boxes), generator=generator)
        if trial % 2:
            scores = (scores * 8).round() / 8  # many ties
        assert nms(boxes, scores, threshold).tolist() == greedy_nms(boxes, scores, threshold)


@pytest.mark.parametrize("count", [1, 40, 1000])
@pytest.mark.parametrize("image", [20.0, 60.0, 400.0])
def test_the_first_kept_are_the_first_that_suppression_keeps(count: int, image: float) -> None:
    boxes = random_boxes(3 * SUPPRESSION_BLOCK + 7, torch.Generator().manual_seed(4), image=image)
    for threshold in (0.1, 0.5, 0.7):
        expected = boxes[nms(boxes, torch.linspace(1, 0, len(boxes)), threshold)][:count]
        assert torch.equal(first_kept(boxes, threshold, count), expected)


def test_the_first_kept_of_nothing_are_none() -> None:
    assert first_kept(torch.zeros(0, 4), 0.5, 3).shape == (0, 4)


def test_of_equal_boxes_with_equal_scores_the_first_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(20, 1)
    assert nms(boxes, torch.full((20,), 0.5), 0.5).tolist() == [0]


def test_nms_of_nothing_is_nothing() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5).shape == (0,)


def test_classes_do_not_suppress_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        boxes, scores = random_boxes(80, generator, image=30), torch.rand(80, generator=generator)
        labels = torch.randint(0, 4, (80,), generator=generator)
        expected = []
        for label in range(4):
            chosen = (labels == label).nonzero().squeeze(1)
            expected += chosen[greedy_nms(boxes[chosen], scores[chosen], 0.3)].tolist()
        expected.sort(key=lambda i: -scores[i].item())
        assert batched_nms(boxes, scores, labels, 0.3).tolist() == expected


def test_boxes_are_placed_by_votes_as_a_slow_mean_places_them() -> None:
    generator = torch.Generator().manual_seed(3)
    boxes, scores = random_boxes(60, generator, image=30.0), torch.rand(60, generator=generator)
    labels = torch.randint(0, 2, (60,), generator=generator)
    kept = batched_nms(boxes, scores, labels, 0.5)
    placed = voted_boxes(kept, boxes, scores, labels, 0.4)
    moved = 0
    for index, found in zip(kept.tolist(), placed, strict=True):
        near = [i for i in range(60) if labels[i] == labels[index] and slow_iou(boxes[i].tolist(), boxes[index].tolist()) >= 0.4]
        total = sum(scores[i] for i in near)
        torch.testing.assert_close(found, sum(boxes[i] * scores[i] for i in near) / total)
        moved += len(near) > 1
    assert moved > 5


def test_a_box_that_nothing_overlaps_stays_where_it_is() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 50, 50]])
    placed = voted_boxes(torch.tensor([1, 0]), boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 0]), 0.5)
    assert torch.equal(placed, boxes[[1, 0]])
    assert voted_boxes(torch.zeros(0, dtype=torch.long), boxes, torch.ones(2), torch.zeros(2), 0.5).shape == (0, 4)
