"""How far the propagated path is from the per-frame path, its teacher: of the feature, and of what each head makes of it.

No label takes part, so any recording can be learned from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.rfcn import RFCNHead, RFCNMaps, flatten_anchors
from dff_train.losses import smooth_l1

QUIET_CHANNELS = 0.1
"""A channel counts as if it had at least this share of the feature's mean energy: nearly dead ones must not rule the loss."""

LEAST_OBJECTS = 0.05
"""RoIs, as a share of them, that count as objects where the teacher sees none: what it does not see must not be seen either."""


def feature_loss(feature: Tensor, taught: Tensor) -> Tensor:
    """Squared distance of ``feature`` and ``taught`` (N, C, h, w), each channel in units of its own energy: about 1 for zeros."""
    taught = taught.detach()
    energy = taught.square().mean(dim=(0, 2, 3), keepdim=True)
    unit = (energy + QUIET_CHANNELS * energy.mean()).clamp(min=1e-12)
    return ((feature - taught).square() / unit).mean()


def segmentation_distillation(scores: Tensor, taught: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the teacher's class shares from ours, the mean over the cells of (N, C, h, w) scores.

    ``weights`` (C,) weighs each cell by the classes the teacher sees in it; the mean is then the weighted one.
    """
    wanted = taught.detach().float().log_softmax(dim=1)
    divergence = F.kl_div(scores.float().log_softmax(dim=1), wanted, log_target=True, reduction="none").sum(dim=1)
    if weights is None:
        return divergence.mean()
    weight = torch.einsum("nchw,c->nhw", wanted.exp(), weights)
    return (divergence * weight).sum() / weight.sum()


def detection_distillation(head: RFCNHead, maps: RFCNMaps, taught: RFCNMaps, height: int, width: int) -> Tensor:
    """Divergence of the RPN's and R-FCN's answers from the teacher's, in units of about one object.

    Position-sensitive maps mean something only where an RoI reads them, so both are read at the teacher's proposals
    in the ``height`` x ``width`` image. Boxes count as far as the teacher sees an object there.
    """
    taught = RFCNMaps(*(each.detach() for each in taught))
    return _rpn_distillation(maps, taught) + _rfcn_distillation(head, maps, taught, height, width)


def _rpn_distillation(maps: RFCNMaps, taught: RFCNMaps) -> Tensor:
    logits, deltas = flatten_anchors(maps.objectness, maps.anchor_deltas)
    taught_logits, taught_deltas = flatten_anchors(taught.objectness, taught.anchor_deltas)
    share = taught_logits.sigmoid()
    objects = share.sum() + len(share)  # about one for each image where the teacher sees none
    entropy = F.binary_cross_entropy_with_logits(taught_logits, share, reduction="sum")
    divergence = F.binary_cross_entropy_with_logits(logits, share, reduction="sum") - entropy
    boxes = (share * smooth_l1(deltas - taught_deltas, 3.0).sum(dim=2)).sum()
    return (divergence + boxes) / objects


def _rfcn_distillation(head: RFCNHead, maps: RFCNMaps, taught: RFCNMaps, height: int, width: int) -> Tensor:
    proposals = head.propose(taught, height, width)
    rois = torch.cat([F.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(proposals)])
    if not len(rois):
        return maps.class_maps[:0].float().sum()
    logits, offsets = head.pool(maps, rois)
    taught_logits, taught_offsets = head.pool(taught, rois)
    wanted = taught_logits.log_softmax(dim=1)
    foreground = 1.0 - wanted[:, 0].exp()
    objects = foreground.sum() + LEAST_OBJECTS * len(rois)
    divergence = F.kl_div(logits.log_softmax(dim=1), wanted, log_target=True, reduction="sum")
    boxes = (foreground * smooth_l1(offsets - taught_offsets, 1.0).sum(dim=1)).sum()
    return (divergence + boxes) / objects
