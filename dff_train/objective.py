"""What training minimises on one batch: the forward passes of both paths, and the losses of what the heads say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain, propagate
from dff_ros.core.results import Task
from dff_ros.core.rfcn import RFCNMaps
from dff_train.distillation import detection_distillation, feature_loss, segmentation_distillation
from dff_train.flow_losses import flow_loss
from dff_train.losses import detection_loss, lovasz_loss, segmentation_loss
from dff_train.parts import is_frozen
from dff_train.precision import mixed_precision
from dff_train.samples import Batch
from dff_train.targets import DetectionTargets

SEGMENTATION_LOSSES = ("segmentation", "lovasz")
DETECTION_LOSSES = ("rpn_class", "rpn_box", "rfcn_class", "rfcn_box")
DISTILLATION_LOSSES = ("feature", "distil_segmentation", "distil_detection")
DEFAULT_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys((*SEGMENTATION_LOSSES, *DETECTION_LOSSES), 1.0),
    **dict.fromkeys((*DISTILLATION_LOSSES, "flow"), 0.0),
}
"""Name of every loss -> its weight where nothing else is said. What weighs 0 is not computed."""


def batch_losses(
    model: DeepFeatureFlow,
    batch: Batch,
    device: torch.device,
    *,
    pairs: bool,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    teacher: DeepFeatureFlow | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses, unweighted, of the current frames, whose features are computed or, with ``pairs``, propagated.

    Losses that ``weights`` (as in DEFAULT_WEIGHTS) gives 0 are left out, and so are those against the ``teacher``'s per-frame path
    where there is none; ``flow`` alone needs no feature at all. ``class_weights`` (classes,) weighs the classes of segmentation.
    """
    image = network_image(batch.images, device)
    key_image = network_image(batch.key_images, device) if pairs or weights["flow"] else image
    losses: dict[str, Tensor] = {}
    if weights["flow"]:
        losses["flow"] = flow_loss(model.flow_network, image, key_image, batch.flow, batch.visible, stride=model.stride)
    if not any(weight for name, weight in weights.items() if name != "flow"):
        return losses
    if pairs:
        between = [network_image(frames, device) for frames in batch.between] if model.chains_flow else []
        feature, taught = pair_features(model, teacher, image, key_image, batch.offsets.to(device), between)
    else:
        feature, taught = extract(model.feature_network, image), None if teacher is None else extract(teacher.feature_network, image)
    if taught is not None and weights["feature"]:
        losses["feature"] = feature_loss(feature, taught)
    if Task.SEGMENTATION in model.tasks:
        wanted = _taught_maps(teacher, taught, Task.SEGMENTATION) if weights["distil_segmentation"] else None
        losses |= _segmentation_losses(model, batch, feature, wanted, weights, class_weights)
    if Task.DETECTION in model.tasks:
        compared = any(weights[name] for name in (*DETECTION_LOSSES, "distil_detection"))
        losses |= _detection_losses(model, batch, feature, _taught_maps(teacher, taught, Task.DETECTION) if compared else None, weights)
    return losses


def pair_features(
    model: DeepFeatureFlow,
    teacher: DeepFeatureFlow | None,
    image: Tensor,
    key_image: Tensor,
    offsets: Tensor,
    between: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor | None]:
    """The current frames' features (N, C, h, w) as propagation gives them and, with a teacher, as its feature network gives them.

    Arguments as for :func:`propagated`.
    """
    network = model.feature_network
    if teacher is None or teacher.feature_network is not network:
        taught = None if teacher is None else extract(teacher.feature_network, image)
        return propagated(model, extract(network, key_image), image, key_image, offsets, between), taught
    # Frozen, the network answers for the key frames and, as the teacher, for those current frames that are others, at once.
    moved = (offsets > 0).nonzero().squeeze(1)
    both = extract(network, torch.cat([key_image, image[moved]]))
    key_feature, current = both[: len(key_image)], both[len(key_image) :]
    return propagated(model, key_feature, image, key_image, offsets, between), key_feature.index_copy(0, moved, current)


def propagated(
    model: DeepFeatureFlow, key_feature: Tensor, image: Tensor, key_image: Tensor, offsets: Tensor, between: Sequence[Tensor] = ()
) -> Tensor:
    """Features of the current frames; at offset 0 the unwarped one, which keeps the per-frame path trained (DFF, sec. 3.4).

    The others are carried by the flow and then corrected by the branch on the current frame, where the model has one. Images are
    (N, 3, H, W) in 0..1; ``between`` holds the N pairs' frames between, each (B, 3, H, W), as :func:`way_back` wants them.
    """
    moved = (offsets > 0).nonzero().squeeze(1)
    if not len(moved):
        return key_feature
    image, key_image = image[moved], key_image[moved]
    fields = way_back(model, image, key_image, [between[index] for index in moved.tolist()] if between else ())
    return key_feature.index_copy(0, moved, carried(model, model.carried_map(key_feature[moved]), image, key_image, offsets[moved], fields))


def carried(
    model: DeepFeatureFlow, key_map: Tensor, image: Tensor, key_image: Tensor, offsets: Tensor, fields: FlowFields
) -> Tensor:
    """Features of frames ``offsets`` > 0 frames after their key frames: carried by ``fields``, then corrected by the branch, if any.

    ``key_map`` is the model's ``carried_map`` of the key frames' features. ``image`` may be one frame for all key frames.
    """
    fields = replace(fields, fine=None).each(lambda member: member.to(key_map.device))
    feature = propagate(key_map, fields)
    refine = model.refine_network
    if refine is None:
        return feature
    with mixed_precision(image.device):
        corrected: Tensor = refine(refine.prepare(image), refine.prepare(key_image), feature, fields, offsets)
    return corrected.float()


def way_back(model: DeepFeatureFlow, image: Tensor, key_image: Tensor, between: Sequence[Tensor] = ()) -> FlowFields:
    """Flow and scale from N current frames back to their key frames.

    Measured at once, as in the paper, or by a model that chains over the frames ``between``, N times (B, 3, H, W), the key frame's
    neighbour first; B may be another, or 0, for each. Every frame is prepared once, and all steps of all ways are measured in one call.
    """
    network = model.flow_network
    if not model.chains_flow or not any(map(len, between)):
        direct: FlowFields = network(network.prepare(image), network.prepare(key_image))
        return direct
    prepared = network.prepare(torch.cat([key_image, *between, image]))
    ways = _ways(len(image), [len(frames) for frames in between])
    now = [frame for way in ways for frame in way[1:]]
    before = [frame for way in ways for frame in way[:-1]]
    return _chained(network(prepared[now], prepared[before]), [len(way) - 1 for way in ways])


def _ways(count: int, between: Sequence[int]) -> list[list[int]]:
    """Each pair's frames from key to current, by their places in a row of all key frames, all ``between`` and all current ones."""
    ways, place = [], count
    for pair, frames in enumerate(between):
        ways.append([pair, *range(place, place + frames), count + sum(between) + pair])
        place += frames
    return ways


def _chained(steps: FlowFields, lengths: Sequence[int]) -> FlowFields:
    """The fields of N ways from those of their steps, which stand one way after the other, the key frame's neighbour first."""
    device = steps.flow.device
    count = torch.tensor(lengths, device=device)
    first = count.cumsum(0) - count
    fields = steps.rows(first)
    for number in range(1, max(lengths)):
        longer = (count > number).nonzero().squeeze(1)
        further = chain(steps.rows(first[longer] + number), fields.rows(longer))
        fields = fields.with_other(further, partial(_with_rows, longer))
    return fields


def _with_rows(rows: Tensor, every: Tensor, changed: Tensor) -> Tensor:
    return every.index_copy(0, rows, changed)


def extract(network: nn.Module, image: Tensor) -> Tensor:
    """The network's feature, float32; nothing is kept for a backward pass that a frozen network will not have."""
    without_graph = torch.no_grad() if is_frozen(network) else nullcontext()
    with without_graph, mixed_precision(image.device):
        feature: Tensor = network(image)
    return feature.float()


@torch.no_grad()
def _taught_maps(teacher: DeepFeatureFlow | None, taught: Tensor | None, task: Task) -> Any:
    """What the teacher's head makes of the teacher's feature; None without a teacher."""
    return None if teacher is None or taught is None else teacher.head(task)(taught)


def _segmentation_losses(
    model: DeepFeatureFlow,
    batch: Batch,
    feature: Tensor,
    wanted: Tensor | None,
    weights: Mapping[str, float],
    class_weights: Tensor | None,
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    if wanted is None and not any(weights[name] for name in SEGMENTATION_LOSSES):
        return losses
    scores, labels = model.head(Task.SEGMENTATION)(feature), batch.labels.to(feature.device)
    if weights["segmentation"]:
        losses["segmentation"] = segmentation_loss(scores, labels, weights=class_weights)
    if weights["lovasz"]:
        losses["lovasz"] = lovasz_loss(scores, labels)
    if wanted is not None:
        losses["distil_segmentation"] = segmentation_distillation(scores, wanted, weights=class_weights)
    return losses


def _detection_losses(
    model: DeepFeatureFlow, batch: Batch, feature: Tensor, taught: RFCNMaps | None, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    labelled = any(weights[name] for name in DETECTION_LOSSES)
    wanted = taught if weights["distil_detection"] else None
    if wanted is None and not labelled:
        return losses
    head, size = model.head(Task.DETECTION), batch.images.shape[2:]
    maps = head(feature)
    if labelled:
        found = detection_loss(head, maps, _targets(batch, feature.device), *size, taught=taught)
        losses = {name: loss for name, loss in found.items() if weights[name]}
    if wanted is not None:
        losses["distil_detection"] = detection_distillation(head, maps, wanted, *size)
    return losses


def network_image(pixels: Tensor, device: torch.device) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 in 0..1 on the device."""
    return pixels.to(device, non_blocking=True).to(memory_format=torch.channels_last).float() / 255.0


def _targets(batch: Batch, device: torch.device) -> list[DetectionTargets]:
    return [
        DetectionTargets(boxes.to(device), labels.to(device), ignored.to(device), labelled.to(device))
        for boxes, labels, ignored, labelled in zip(batch.boxes, batch.box_labels, batch.ignore_boxes, batch.labelled_classes, strict=True)
    ]
