"""Which parts of a model a stage trains. The rest is frozen: it keeps every bit, batch norm's statistics among them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from dff_ros.core.bundle import Card, load_bundle
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.results import Task


def check_parts(model: nn.Module, parts: Sequence[str]) -> None:
    """Raise ValueError where a name of ``parts`` holds no weight of the model."""
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(_holds(part, name) for name in names):
            known = sorted({name.split(".")[0] for name in names})
            raise ValueError(f"trains should name parts that have weights ({', '.join(known)}, or a part of these), got {part}")


def freeze_but(model: nn.Module, parts: Sequence[str]) -> None:
    """Let the weights of ``parts`` alone learn: ``feature_network``, ``feature_network.looks``, ...; no part: all of them."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(trains(parts, name))
        weight.grad = None  # what an earlier stage left would still count in the norm that gradients are clipped by


def set_modes(model: DeepFeatureFlow, parts: Sequence[str], *, pairs: bool) -> None:
    """Training mode for what learns, evaluation mode for what is frozen.

    On pairs the feature network's batch norm keeps its running statistics too: key frames alone would shift them (DFF, sec. 4.1).
    """
    for name, module in model.named_modules():
        kept = pairs and isinstance(module, nn.BatchNorm2d) and _holds("feature_network", name)
        module.training = trains(parts, name) and not kept


def trains(parts: Sequence[str], name: str) -> bool:
    """Whether the weight or module of this name belongs to ``parts``."""
    return not parts or any(_holds(part, name) for part in parts)


def _holds(part: str, name: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def is_frozen(module: nn.Module) -> bool:
    """Whether no weight of the module learns."""
    return not any(weight.requires_grad for weight in module.parameters())


def frozen_teacher(model: DeepFeatureFlow) -> DeepFeatureFlow:
    """The per-frame path of the model as it is now, which stays as it is: frozen parts are shared, parts that learn are copied."""
    feature_network = _kept(model.feature_network)
    heads = [_kept(head) for head in model.heads.values()]
    return DeepFeatureFlow(feature_network, nn.Identity(), heads=heads)


def bundle_teacher(bundle: str, model: DeepFeatureFlow, card: Card) -> DeepFeatureFlow:
    """The per-frame path of a bundle, frozen, to teach ``model``, which ``card`` describes.

    Raises ValueError where the bundle is missing, or its answers cannot be compared with the model's.
    """
    teachers, source = load_bundle(bundle)
    fits = (source.channels, source.stride) == (model.channels, model.stride) and model.tasks <= source.tasks
    if not fits or any(_answers(source, teachers, task) != _answers(model, card, task) for task in model.tasks):
        raise ValueError(f"teacher {bundle} should have the recipe's heads with their classes, channels and stride")
    return frozen_teacher(source.requires_grad_(False))


def _answers(model: DeepFeatureFlow, card: Card, task: Task) -> tuple[object, ...]:
    """What a model's raw maps for a task are, and what each of them means."""
    head = model.head(task)
    if task is Task.DETECTION:
        return card.detection_classes, head.bins, head.anchors, head.anchor_stds, head.box_stds
    return card.segmentation_classes, head.subcells


def _kept(module: nn.Module) -> nn.Module:
    if is_frozen(module):
        return module
    return copy.deepcopy(module).requires_grad_(False).eval()
