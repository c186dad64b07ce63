"""The losses of both heads; images without truth for a head add nothing to that head's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.boxes import encode_boxes, make_anchors
from dff_ros.core.results import UNLABELLED, ImageGeometry
from dff_ros.core.rfcn import RFCNHead, RFCNMaps, flatten_anchors
from dff_train.targets import SAMPLED_ANCHORS, AnchorTargets, DetectionTargets, RoITargets, anchor_targets, roi_targets, sample_anchors

HARD_ROIS = 128
"""R-FCN's online hard example mining: so many RoIs of each image, those of the highest loss, are learned from."""

SURE_SCORE = 0.5
"""From this score on, what a teacher detects of a class that an image does not label is taken for an object."""


def smooth_l1(difference: Tensor, sigma: float) -> Tensor:
    """Fast R-CNN's loss: (sigma x)^2 / 2 where |x| < 1 / sigma^2, else |x| - .5 / sigma^2."""
    size = difference.abs()
    edge = 1.0 / sigma**2
    return torch.where(size < edge, 0.5 * sigma**2 * difference**2, size - 0.5 * edge)


def segmentation_loss(logits: Tensor, labels: Tensor, *, ignore: int = UNLABELLED, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of ``logits`` (N, C, h, w), upsampled bilinearly to ``labels`` (N, H, W), over the labelled pixels.

    ``weights`` (C,) weighs the classes; the mean is then the weighted one. 0 where every pixel is ``ignore``.
    """
    labels = labels.long()
    scores = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(scores, labels, weight=weights, ignore_index=ignore, reduction="sum")
    labelled = labels[labels != ignore]
    count = float(labelled.numel()) if weights is None else weights[labelled].sum()
    return total / count if len(labelled) else total


def lovasz_loss(scores: Tensor, labels: Tensor, *, ignore: int = UNLABELLED) -> Tensor:
    """Lovasz-softmax (Berman et al. 2018), the convex stand-in for 1 - mIoU, over the classes in the batch's truth.

    ``scores`` is (N, C, h, w), ``labels`` (N, H, W) with H and W the same multiple of h and w; it is taken at the
    resolution of the scores, from the label in the middle of each cell. 0 where every pixel is ``ignore``.
    """
    step = labels.shape[1] // scores.shape[2]
    middle = labels[:, step // 2 :: step, step // 2 :: step].long()
    known = middle != ignore
    truth = middle[known]
    shares = scores.float().softmax(dim=1).permute(0, 2, 3, 1)[known]
    losses = []
    for index in torch.unique(truth):
        foreground = (truth == index).float()
        errors, order = (foreground - shares[:, index]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_steps(foreground[order]))
    return torch.stack(losses).mean() if losses else scores.float().sum() * 0.0


def _jaccard_steps(foreground: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each further error, of pixels (P,) sorted by falling error."""
    count = foreground.sum()
    intersection = count - foreground.cumsum(0)
    union = count + (1.0 - foreground).cumsum(0)
    jaccard = 1.0 - intersection / union
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def detection_loss(
    head: RFCNHead,
    maps: RFCNMaps,
    targets: Sequence[DetectionTargets],
    image_height: int,
    image_width: int,
    *,
    taught: RFCNMaps | None = None,
) -> dict[str, Tensor]:
    """The four losses of R-FCN, each the mean over the images that carry detection truth.

    ``targets`` is one for each of the N images of ``maps``, in pixels of the ``image_height`` x ``image_width`` network
    image. Without truth in any image all four are 0 with zero gradient. ``taught`` are a teacher's maps of the same images: objects that
    it sees of classes that an image does not label are then no background for the RPN.
    """
    if len(targets) != len(maps.objectness):
        raise ValueError(f"targets should be one for each of {len(maps.objectness)} images, got {len(targets)}")
    labelled = [index for index, truth in enumerate(targets) if truth.is_labelled]
    truths = [targets[index] for index in labelled]
    chosen = RFCNMaps(*(each[labelled] for each in maps))
    unlabelled = None
    if taught is not None:
        unlabelled = unlabelled_objects(head, RFCNMaps(*(each[labelled] for each in taught)), truths, image_height, image_width)
    rpn_class, rpn_box = rpn_loss(head, chosen, truths, image_height, image_width, unlabelled=unlabelled)
    rfcn_class, rfcn_box = rfcn_loss(head, chosen, truths, image_height, image_width)
    return {"rpn_class": rpn_class, "rpn_box": rpn_box, "rfcn_class": rfcn_class, "rfcn_box": rfcn_box}


def unlabelled_objects(
    head: RFCNHead, taught: RFCNMaps, truths: Sequence[DetectionTargets], height: int, width: int
) -> list[Tensor]:
    """Of each image the boxes (K, 4) that a teacher's maps are sure of, of classes that the image's data set does not label."""
    geometry = ImageGeometry(height, width, height, width, height, width)
    found = []
    for image, truth in enumerate(truths):
        boxes = truth.boxes.new_zeros(0, 4)
        if not bool(truth.labelled_classes.all()):
            seen = head.decode(RFCNMaps(*(each[image : image + 1].detach() for each in taught)), geometry).above(SURE_SCORE)
            other = ~truth.labelled_classes.cpu().numpy()[seen.labels]
            boxes = torch.from_numpy(seen.boxes[other]).to(boxes)
        found.append(boxes)
    return found


def rpn_loss(
    head: RFCNHead,
    maps: RFCNMaps,
    truths: Sequence[DetectionTargets],
    height: int,
    width: int,
    *,
    unlabelled: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss over 256 sampled anchors of each image.

    Objectness knows no classes: in a data set that labels only some of them an object of another class counts as background here, unless
    its box is among the image's ``unlabelled`` (K, 4). Anchors that would not be negative if that were labelled are left out.
    """
    rows, columns = maps.objectness.shape[2:]
    anchors = make_anchors(head.anchors, head.stride, rows, columns, device=maps.objectness.device)
    logits, deltas = flatten_anchors(maps.objectness, maps.anchor_deltas)
    class_loss, box_loss = logits[:0].sum(), deltas[:0].sum()
    for image, truth in enumerate(truths):
        targets = anchor_targets(anchors, truth, height, width)
        if unlabelled is not None and len(unlabelled[image]):
            boxes = unlabelled[image]
            others = replace(truth, boxes=boxes, box_labels=torch.zeros(len(boxes), dtype=torch.long, device=boxes.device))
            targets = replace(targets, negative=targets.negative & anchor_targets(anchors, others, height, width).negative)
        sample = sample_anchors(targets)
        class_loss = class_loss + _objectness_loss(logits[image], sample)
        chosen = sample.positive
        wanted = encode_boxes(sample.matched[chosen], anchors[chosen], head.anchor_stds)
        box_loss = box_loss + smooth_l1(deltas[image][chosen] - wanted, 3.0).sum() / SAMPLED_ANCHORS
    return class_loss / max(1, len(truths)), box_loss / max(1, len(truths))


def _objectness_loss(logits: Tensor, sample: AnchorTargets) -> Tensor:
    chosen = sample.positive | sample.negative
    total = F.binary_cross_entropy_with_logits(logits[chosen], sample.positive[chosen].float(), reduction="sum")
    return total / chosen.sum().clamp(min=1)


def rfcn_loss(head: RFCNHead, maps: RFCNMaps, truths: Sequence[DetectionTargets], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Class and box loss over the hardest RoIs of each image."""
    class_loss, box_loss = maps.class_maps[:0].float().sum(), maps.box_maps[:0].float().sum()
    if not truths:
        return class_loss, box_loss
    proposals = head.propose(maps, height, width)
    targets = [roi_targets(boxes, truth) for boxes, truth in zip(proposals, truths, strict=True)]
    rois = torch.cat([F.pad(target.rois, (1, 0), value=image) for image, target in enumerate(targets)])
    counts = [len(target.rois) for target in targets]
    logits, offsets = (torch.split(each, counts) for each in head.pool(maps, rois))
    for target, truth, scores, deltas in zip(targets, truths, logits, offsets, strict=True):
        classes = class_losses(scores, target.labels, truth.labelled_classes)
        boxes = box_losses(deltas, target, head.box_stds)
        hardest = (classes + boxes).detach().topk(min(HARD_ROIS, len(classes))).indices
        class_loss = class_loss + classes[hardest].sum() / max(1, len(hardest))
        box_loss = box_loss + boxes[hardest].sum() / max(1, len(hardest))
    return class_loss / len(targets), box_loss / len(targets)


def class_losses(logits: Tensor, labels: Tensor, labelled_classes: Tensor) -> Tensor:
    """The class loss (R,) of each RoI from ``logits`` (R, C + 1), background first, and ``labels`` (R,), 0 background.

    What is background in a data set that labels only some classes (``labelled_classes``, (C,) bool) may be an object of
    any other: there the loss is -log of the summed probability of background and all classes it does not label.
    """
    unlabelled = F.pad(~labelled_classes, (1, 0), value=True)
    allowed = F.one_hot(labels, logits.shape[1]).bool() | ((labels == 0).unsqueeze(1) & unlabelled)
    right = logits.masked_fill(~allowed, float("-inf")).logsumexp(dim=1)
    return logits.logsumexp(dim=1) - right


def box_losses(offsets: Tensor, targets: RoITargets, stds: Sequence[float]) -> Tensor:
    """The box loss (R,) of each RoI from ``offsets`` (R, 4): smooth L1 summed over the four, 0 for background."""
    foreground = targets.labels > 0
    wanted = encode_boxes(targets.matched[foreground], targets.rois[foreground], stds)
    losses = offsets.new_zeros(len(offsets))
    losses[foreground] = smooth_l1(offsets[foreground] - wanted, 1.0).sum(dim=1)
    return losses
