"""R-FCN's detection head (Dai et al. 2016) as DFF uses it: RPN on one half of the feature, R-FCN on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dff_ros.core.boxes import anchors_at, batched_nms, clip_boxes, decode_boxes, first_kept, voted_boxes
from dff_ros.core.feature_network import head_blocks
from dff_ros.core.results import MINIMUM_SCORE, Detections, ImageGeometry, Task


class RFCNMaps(NamedTuple):
    """What the head's convolutions say, before any decision; A anchors, C classes, k bins a side."""

    objectness: Tensor
    """(N, A, H, W) logits."""
    anchor_deltas: Tensor
    """(N, 4 A, H, W), four in a row for each anchor, in units of ``RFCNHead.anchor_stds``."""
    class_maps: Tensor
    """(N, (C + 1) k k, H, W) position-sensitive logits, background first; bin (i, j) of class c is map (c k + i) k + j."""
    box_maps: Tensor
    """(N, 4 k k, H, W) position-sensitive box offsets, class-agnostic, in units of ``RFCNHead.box_stds``."""


def position_sensitive_roi_pool(maps: Tensor, rois: Tensor, *, bins: int, stride: int) -> Tensor:
    """Average each bin of each RoI over the map made for that bin (R-FCN, eq. 1): (R, D, bins, bins), at least float32.

    ``maps`` is (N, D * bins * bins, H, W), map (d * bins + i) * bins + j belonging to bin (i, j), i counting downwards.
    ``rois`` is (R, 5): index into the batch, then x1 y1 x2 y2 in image pixels; a cell is ``stride`` pixels wide.
    A bin covers the whole cells from floor(its start) to ceil(its end), clipped to the map; an empty bin gives 0.
    RoIs are at least 0.1 cell wide and high. Differentiable with respect to ``maps``.
    (The authors' code also rounds RoIs to whole pixels, right edges inclusive; here boxes are continuous.)
    """
    batch, channels, height, width = maps.shape
    if channels % bins**2:
        raise ValueError(f"maps should have a multiple of {bins}^2 channels, got {tuple(maps.shape)}")
    depth, count, table_size = channels // bins**2, len(rois), (height + 1) * (width + 1)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    # Sums of maps around their mean stay small, which keeps differences of float32 sums exact to 1e-5 on large maps too.
    # The mean cancels out of the answer, hence takes no part in the gradient.
    level = maps.detach().mean(dim=(2, 3), keepdim=True)
    table = F.pad((maps - level).cumsum(2).cumsum(3), (1, 0, 1, 0)).flatten()

    top, bottom = _bin_edges(rois[:, 2], rois[:, 4], bins, stride, height)
    left, right = _bin_edges(rois[:, 1], rois[:, 3], bins, stride, width)
    image = rois[:, 0].long()
    maps_of_image = torch.arange(channels, device=maps.device).view(1, depth, bins, bins)
    start = (image.view(-1, 1, 1, 1) * channels + maps_of_image) * table_size

    def corner(y: Tensor, x: Tensor) -> Tensor:
        cell = y.view(-1, 1, bins, 1) * (width + 1) + x.view(-1, 1, 1, bins)
        return table.index_select(0, (start + cell).flatten()).view(count, depth, bins, bins)

    sums = (corner(bottom, right) - corner(bottom, left)) - (corner(top, right) - corner(top, left))
    area = ((bottom - top).unsqueeze(2) * (right - left).unsqueeze(1)).unsqueeze(1)
    level = level.view(batch, depth, bins, bins)[image]
    return torch.where(area > 0, sums / area.clamp(min=1) + level, 0.0)


def _bin_edges(low: Tensor, high: Tensor, bins: int, stride: int, limit: int) -> tuple[Tensor, Tensor]:
    """First cell and the one after the last, both (R, bins), of each bin of RoIs from ``low`` to ``high`` (R,) pixels."""
    start = low / stride
    size = (high / stride - start).clamp(min=0.1)
    edges = start.unsqueeze(1) + size.unsqueeze(1) * torch.arange(bins + 1, device=low.device) / bins
    return edges[:, :-1].floor().clamp(0, limit).long(), edges[:, 1:].ceil().clamp(0, limit).long()


def flatten_anchors(objectness: Tensor, anchor_deltas: Tensor) -> tuple[Tensor, Tensor]:
    """The RPN's maps in the order of ``make_anchors``: logits (N, H * W * A) and offsets (N, H * W * A, 4), float32."""
    batch, count, height, width = objectness.shape
    deltas = anchor_deltas.view(batch, count, 4, height, width).permute(0, 3, 4, 1, 2)
    return objectness.permute(0, 2, 3, 1).flatten(1).float(), deltas.flatten(1, 3).float()


class RFCNHead(nn.Module):
    """R-FCN on a feature of ``channels`` channels (DFF, sec. 4.1): the first half feeds the RPN, the second half R-FCN.

    ``classes`` counts the foreground classes; ``anchors`` are (w, h) in pixels of the network's image, ``stride`` the pixels
    of a feature cell. ``rpn_channels`` > 0 puts a 3x3 convolution and ReLU before the RPN (Faster R-CNN's; the paper has
    none), and ``blocks`` > 0 residual blocks on the whole feature before both halves are read, see
    :func:`dff_ros.core.feature_network.head_blocks`. The defaults are the authors'.
    """

    task = Task.DETECTION

    def __init__(
        self,
        channels: int,
        *,
        classes: int,
        anchors: Sequence[tuple[float, float]],
        stride: int,
        bins: int = 7,
        rpn_channels: int = 0,
        blocks: int = 0,
        pre_nms: int = 6000,
        proposals: int = 300,
        proposal_nms: float = 0.7,
        detection_nms: float = 0.3,
        box_voting: float = 0.0,
        maximum_detections: int = 100,
        minimum_size: float = 2.0,
        anchor_stds: Sequence[float] = (0.1, 0.1, 0.4, 0.4),
        box_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__()
        if classes < 1 or not anchors:
            raise ValueError(f"classes and anchors should be at least one each, got {classes} and {len(anchors)}")
        self.classes, self.stride, self.bins = classes, stride, bins
        if not 0.0 <= box_voting < 1.0:
            raise ValueError(f"box_voting should be an IoU in 0..1 (0: none), got {box_voting}")
        for name, count in {"bins": bins, "pre_nms": pre_nms, "proposals": proposals, "maximum_detections": maximum_detections}.items():
            if count < 1:
                raise ValueError(f"{name} should be at least 1, got {count}")
        for name, overlap in {"proposal_nms": proposal_nms, "detection_nms": detection_nms}.items():
            if not 0.0 <= overlap <= 1.0:
                raise ValueError(f"{name} should be an IoU in 0..1, got {overlap}")
        self.box_voting = box_voting
        self.anchors = tuple((float(w), float(h)) for w, h in anchors)
        self.pre_nms, self.proposals, self.maximum_detections = pre_nms, proposals, maximum_detections
        self.proposal_nms, self.detection_nms, self.minimum_size = proposal_nms, detection_nms, minimum_size
        self.anchor_stds, self.box_stds = tuple(anchor_stds), tuple(box_stds)
        self.rpn_inputs, rest = channels // 2, channels - channels // 2
        self.rpn_hidden = nn.Conv2d(self.rpn_inputs, rpn_channels, 3, padding=1) if rpn_channels else None
        self.objectness = nn.Conv2d(rpn_channels or self.rpn_inputs, len(anchors), 1)
        self.anchor_deltas = nn.Conv2d(rpn_channels or self.rpn_inputs, 4 * len(anchors), 1)
        self.class_maps = nn.Conv2d(rest, (classes + 1) * bins**2, 1)
        self.box_maps = nn.Conv2d(rest, 4 * bins**2, 1)
        self._initialise()
        self.blocks = head_blocks(channels, blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        # Few anchors show an object; starting there keeps the first steps from being spent on unlearning one half.
        nn.init.constant_(self.objectness.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> RFCNMaps:
        """``feature`` (N, channels, H, W) -> the raw maps, in the dtype of the weights."""
        feature = self.blocks(feature.to(self.class_maps.weight.dtype))
        first, second = feature[:, : self.rpn_inputs], feature[:, self.rpn_inputs :]
        if self.rpn_hidden is not None:
            first = F.relu(self.rpn_hidden(first))
        return RFCNMaps(self.objectness(first), self.anchor_deltas(first), self.class_maps(second), self.box_maps(second))

    @torch.no_grad()
    def propose(self, maps: RFCNMaps, height: int, width: int) -> list[Tensor]:
        """The RPN's proposals of each image, (P, 4) float32 network pixels, best first.

        ``height`` and ``width`` bound the image's content: anchors centred outside (on padding) propose nothing.
        """
        rows = _cells_inside(height, self.stride, maps.objectness.shape[2])
        columns = _cells_inside(width, self.stride, maps.objectness.shape[3])
        inside = (..., slice(rows), slice(columns))
        logits, deltas = flatten_anchors(maps.objectness[inside], maps.anchor_deltas[inside])
        best = logits.topk(min(self.pre_nms, logits.shape[1])).indices
        chosen = deltas.gather(1, best.unsqueeze(2).expand(-1, -1, 4))
        anchors = anchors_at(best, self.anchors, self.stride, columns)
        boxes = clip_boxes(decode_boxes(chosen, anchors, self.anchor_stds), height, width)
        return [self._suppress(candidates) for candidates in boxes]

    def _suppress(self, boxes: Tensor) -> Tensor:
        """The first ``proposals`` of ``boxes`` (P, 4), best first, that are large enough and survive suppression."""
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= self.minimum_size]
        return first_kept(boxes, self.proposal_nms, self.proposals)

    def pool(self, maps: RFCNMaps, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, C + 1), background first, and box offsets (R, 4) of ``rois`` (R, 5): the bins' average vote."""
        both = torch.cat([maps.class_maps, maps.box_maps], dim=1)
        votes = position_sensitive_roi_pool(both, rois, bins=self.bins, stride=self.stride).mean(dim=(2, 3))
        return votes[:, : self.classes + 1], votes[:, self.classes + 1 :]

    @torch.no_grad()
    def decode(self, maps: RFCNMaps, geometry: ImageGeometry) -> Detections:
        """The detections of one image (N = 1) in source pixels, highest score first, none below ``MINIMUM_SCORE``."""
        if len(maps.objectness) != 1:
            raise ValueError(f"maps should be of one image, got {len(maps.objectness)}")
        proposals = self.propose(maps, geometry.height, geometry.width)[0]
        logits, offsets = self.pool(maps, F.pad(proposals, (1, 0)))
        boxes = clip_boxes(decode_boxes(offsets, proposals, self.box_stds), geometry.height, geometry.width)
        probabilities = logits.softmax(dim=1)[:, 1:]
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
        roi, label = ((probabilities >= MINIMUM_SCORE) & solid).nonzero(as_tuple=True)
        boxes, scores = boxes[roi], probabilities[roi, label]
        best = batched_nms(boxes, scores, label, self.detection_nms)[: self.maximum_detections]
        placed = voted_boxes(best, boxes, scores, label, self.box_voting) if self.box_voting else boxes[best]
        to_source = boxes.new_tensor([geometry.scale_x, geometry.scale_y] * 2)
        boxes = clip_boxes(placed / to_source, geometry.source_height, geometry.source_width)
        return Detections(boxes.cpu().numpy(), scores[best].cpu().numpy(), label[best].cpu().numpy())


def _cells_inside(size: int, stride: int, cells: int) -> int:
    """How many of ``cells`` cells have their centre within the first ``size`` pixels."""
    return max(1, min(cells, math.ceil(size / stride - 0.5)))
