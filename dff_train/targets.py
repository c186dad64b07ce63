"""What the detection losses ask of each anchor and each RoI (Faster R-CNN, sec. 3.1; R-FCN, sec. 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dff_ros.core.boxes import box_area, box_intersection, box_iou, clip_boxes

POSITIVE_IOU = 0.7
NEGATIVE_IOU = 0.3
FOREGROUND_IOU = 0.5
SAMPLED_ANCHORS = 256
IGNORED_COVER = 0.5
"""An anchor or RoI with more than this share of its area inside one ignored box is neither positive nor negative."""
MINIMUM_INSIDE = 0.5
"""An anchor with less than this share of its area inside the image is not trained on."""


@dataclass(frozen=True)
class DetectionTargets:
    """The detection truth of one image, in network pixels.

    ``boxes`` (G, 4) and their foreground classes ``box_labels`` (G,), counted from 0; ``ignore_boxes`` (I, 4), where
    detections neither count nor punish; ``labelled_classes`` (C,) bool: which classes this image's data set labels. An
    image without any labelled class carries no detection truth.
    """

    boxes: Tensor
    box_labels: Tensor
    ignore_boxes: Tensor
    labelled_classes: Tensor

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.box_labels), 4) or self.ignore_boxes.shape[1:] != (4,):
            raise ValueError(
                f"boxes, box_labels and ignore_boxes should be (G, 4), (G,) and (I, 4), got {tuple(self.boxes.shape)}, "
                f"{tuple(self.box_labels.shape)} and {tuple(self.ignore_boxes.shape)}"
            )

    @property
    def is_labelled(self) -> bool:
        """Whether the image says anything about detection."""
        return bool(self.labelled_classes.any())

    def to(self, device: torch.device | str) -> DetectionTargets:
        """The same truth on ``device``."""
        return DetectionTargets(
            self.boxes.to(device), self.box_labels.to(device), self.ignore_boxes.to(device), self.labelled_classes.to(device)
        )


@dataclass(frozen=True)
class AnchorTargets:
    """For each of M anchors: ``positive`` and ``negative`` (M,) bool, at most one of them; ``matched`` (M, 4) its truth box."""

    positive: Tensor
    negative: Tensor
    matched: Tensor


@dataclass(frozen=True)
class RoITargets:
    """For R RoIs: ``rois`` (R, 4), ``labels`` (R,) 0 for background, else 1 + class; ``matched`` (R, 4) its truth box."""

    rois: Tensor
    labels: Tensor
    matched: Tensor


def anchor_targets(anchors: Tensor, truth: DetectionTargets, height: int, width: int) -> AnchorTargets:
    """Positive: IoU of at least .7 with a truth box, or none better for that box; negative: IoU under .3 with all.

    Anchors that lie mostly outside the ``height`` x ``width`` image or on an ignored box are neither.
    """
    area = box_area(anchors)
    inside = box_area(clip_boxes(anchors, height, width)) >= MINIMUM_INSIDE * area
    iou = box_iou(anchors, truth.boxes) * inside.unsqueeze(1)
    best, matched = _best_truth(iou, truth.boxes)
    positive = best >= POSITIVE_IOU
    if len(truth.boxes):
        positive |= ((iou == iou.amax(dim=0)) & (iou > 0)).any(dim=1)
    negative = (best < NEGATIVE_IOU) & ~positive & inside & ~_is_ignored(anchors, truth.ignore_boxes)
    return AnchorTargets(positive & inside, negative, matched)


def sample_anchors(targets: AnchorTargets, generator: torch.Generator | None = None) -> AnchorTargets:
    """A random 256 of them, at most half positive; too few positives are filled up with negatives."""
    positive = _random_subset(targets.positive, SAMPLED_ANCHORS // 2, generator)
    negative = _random_subset(targets.negative, SAMPLED_ANCHORS - int(positive.sum()), generator)
    return AnchorTargets(positive, negative, targets.matched)


def roi_targets(proposals: Tensor, truth: DetectionTargets) -> RoITargets:
    """The proposals and the truth boxes themselves as RoIs; foreground from an IoU of .5.

    RoIs of the background that lie mostly on an ignored box are left out.
    """
    rois = torch.cat([proposals, truth.boxes])
    best, matched, index = _best_truth_index(box_iou(rois, truth.boxes), truth.boxes)
    foreground = best >= FOREGROUND_IOU
    labels = torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    labels[foreground] = truth.box_labels[index[foreground]] + 1
    used = foreground | ~_is_ignored(rois, truth.ignore_boxes)
    return RoITargets(rois[used], labels[used], matched[used])


def _best_truth(iou: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    best, matched, _ = _best_truth_index(iou, boxes)
    return best, matched


def _best_truth_index(iou: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of ``iou`` (N, G) the highest IoU (0 without truth), its box (N, 4) and its index (N,)."""
    if not len(boxes):
        return iou.new_zeros(len(iou)), iou.new_zeros(len(iou), 4), torch.zeros(len(iou), dtype=torch.long, device=iou.device)
    best, index = iou.max(dim=1)
    return best, boxes[index], index


def _is_ignored(boxes: Tensor, ignore_boxes: Tensor) -> Tensor:
    """Which of ``boxes`` (N, 4) have most of their area inside one of ``ignore_boxes`` (I, 4)."""
    return (box_intersection(boxes, ignore_boxes) > IGNORED_COVER * box_area(boxes).unsqueeze(1)).any(dim=1)


def _random_subset(mask: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """At most ``count`` random ones of those that ``mask`` (M,) chooses, as a mask."""
    chosen = mask.nonzero().squeeze(1)
    order = torch.randperm(len(chosen), generator=generator).to(chosen.device)
    subset = torch.zeros_like(mask)
    subset[chosen[order[:count]]] = True
    return subset
