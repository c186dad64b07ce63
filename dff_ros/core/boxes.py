"""Boxes: overlap, R-FCN's coding against anchors, anchor grids and non-maximum suppression.

Boxes are x1 y1 x2 y2, continuous, right and bottom edges exclusive: the width is x2 - x1 (the authors' code counts
pixels and adds 1). All functions take float tensors on any device and loop over no box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAXIMUM_LOG_SIZE = math.log(1000.0 / 16.0)
"""Decoded boxes are at most this factor (62.5) larger than their anchor, so that exp cannot overflow."""

SUPPRESSION_BLOCK = 150
"""Boxes compared with each other at a time: 100 of 600 proposals take .3 instead of .9 ms, with 64 or 256 at a time .4."""


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of ``boxes`` (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Areas (N, M) that each of ``boxes`` (N, 4) shares with each of ``others`` (M, 4)."""
    # Contiguous coordinates and (N, M) planes reused in place: several times faster on a CPU than corners (N, M, 2).
    x1, y1, x2, y2 = boxes.t().contiguous().unsqueeze(2)
    u1, v1, u2, v2 = others.t().contiguous().unsqueeze(1)
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    return width.mul_(height)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (N, M) of ``boxes`` (N, 4) and ``others`` (M, 4); 0 where both are empty."""
    shared = box_intersection(boxes, others)
    union = (box_area(boxes).unsqueeze(1) + box_area(others).unsqueeze(0)).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def encode_boxes(boxes: Tensor, anchors: Tensor, stds: Sequence[float]) -> Tensor:
    """Offsets (..., 4) that ``decode_boxes`` turns back into ``boxes``: (dx, dy, dw, dh) / ``stds`` (R-CNN's coding).

    dx and dy are centre offsets in anchor sizes, dw and dh logarithms of size ratios.
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre, size = _centre_and_size(boxes)
    offsets = torch.cat([(centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)], dim=-1)
    return offsets / offsets.new_tensor(stds)


def decode_boxes(offsets: Tensor, anchors: Tensor, stds: Sequence[float]) -> Tensor:
    """Boxes (..., 4) from ``offsets`` (..., 4) against ``anchors`` (..., 4), the inverse of ``encode_boxes``."""
    anchor_centre, anchor_size = _centre_and_size(anchors)
    offsets = offsets * offsets.new_tensor(stds)
    centre = anchor_centre + offsets[..., :2] * anchor_size
    half = anchor_size * torch.exp(offsets[..., 2:].clamp(max=MAXIMUM_LOG_SIZE)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """``boxes`` (..., 4) cut at the edges of a ``height`` x ``width`` image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1)


def make_anchors(
    sizes: Sequence[tuple[float, float]], stride: int, height: int, width: int, *, device: torch.device | None = None
) -> Tensor:
    """Anchors (height * width * A, 4) in image pixels: every (w, h) of ``sizes`` centred on every cell of a feature map.

    The centre of cell (row, column) is ((column + .5) * stride, (row + .5) * stride); anchor a of that cell is row
    (row * width + column) * A + a of the answer.
    """
    return anchors_at(torch.arange(height * width * len(sizes), device=device), sizes, stride, width)


def anchors_at(index: Tensor, sizes: Sequence[tuple[float, float]], stride: int, width: int) -> Tensor:
    """The rows ``index`` (...) of ``make_anchors``, (..., 4): where few are wanted, most of the time goes into the others."""
    cell, kind = index // len(sizes), index % len(sizes)
    centre = (torch.stack([cell % width, cell // width], dim=-1) + 0.5) * stride
    half = torch.tensor(sizes, dtype=centre.dtype, device=index.device)[kind] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes greedy non-maximum suppression keeps, highest score first.

    A box goes when it overlaps a kept box of higher score by an IoU above ``threshold``. Among equal scores the earlier
    box counts as higher, so the answer is the same on every run.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[keep_of_sorted(boxes[order], threshold)]


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """As ``nms``, but only boxes of equal ``labels`` (N,) suppress each other."""
    order = scores.argsort(descending=True, stable=True)
    return order[keep_of_sorted(boxes[order], threshold, labels[order])]


def voted_boxes(kept: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The boxes (K, 4) of the ``kept`` (K,) of ``boxes`` (N, 4), each placed by votes (box voting, Gidaris and Komodakis 2015).

    The mean, weighted by ``scores`` (N,), of all boxes of its own label that overlap it by an IoU of at least ``threshold``, suppressed
    ones among them: they saw the same object from elsewhere, and their errors differ.
    """
    votes = (box_iou(boxes[kept], boxes) >= threshold) & (labels[kept].unsqueeze(1) == labels)
    # A box of no size overlaps nothing, not even itself.
    votes[torch.arange(len(kept), device=kept.device), kept] = True
    weights = votes * scores
    return (weights @ boxes) / weights.sum(dim=1, keepdim=True)


def keep_of_sorted(boxes: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression of ``boxes`` (N, 4), best first: the mask (N,) of those that stay.

    A box stays if no box that stays suppresses it. Iterating that sentence from "all stay" settles the first n boxes
    after n rounds, so it ends in the greedy answer; in practice after as many rounds as the longest chain of
    boxes that suppress one another, which is a handful.
    """
    overlap = box_iou(boxes, boxes) > threshold
    if labels is not None:
        overlap &= labels.unsqueeze(1) == labels.unsqueeze(0)
    suppressed_by = overlap.tril_(-1).to(boxes.dtype)  # (i, j): 1 where the better box j would suppress box i
    keep = torch.ones_like(boxes[:, 0])
    while True:
        settled = (suppressed_by @ keep == 0).to(boxes.dtype)
        if torch.equal(settled, keep):
            return keep.bool()
        keep = settled


def first_kept(boxes: Tensor, threshold: float, count: int) -> Tensor:
    """The first ``count`` of ``boxes`` (N, 4), best first, that greedy non-maximum suppression keeps.

    Block by block: a block's boxes are held against those kept so far, then against each other. All at once would compare each pair of
    boxes, most of them beyond the last one wanted.
    """
    kept = boxes[:0]
    for start in range(0, len(boxes), SUPPRESSION_BLOCK):
        block = boxes[start : start + SUPPRESSION_BLOCK]
        free = block[(box_iou(block, kept) <= threshold).all(dim=1)]
        kept = torch.cat([kept, free[keep_of_sorted(free, threshold)]])
        if len(kept) >= count:
            break
    return kept[:count]
