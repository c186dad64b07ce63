"""A recipe: the card of the bundle to make, what it learns from, and the stages of its training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dff_ros.core.bundle import PROSE, Card, find_bundle, parse_card, read_card
from dff_train.fields import checked, named
from dff_train.objective import DEFAULT_WEIGHTS
from dff_train.samples import DETECTION_CLASSES, SEGMENTATION_CLASSES


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own optimiser and learning-rate curve."""

    name: str
    steps: int
    """Optimiser steps."""
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    pairs: bool = False
    """False: every sample is a still (per-frame training). True: the feature of a key frame is propagated to the labelled frame
    (end-to-end training, DFF sec. 3.4), with the feature network's batch norm frozen."""
    trains: tuple[str, ...] = ()
    """Parts that learn, by the names of modules: ``feature_network``, ``feature_network.looks``, ``flow_network``, ``refine_network``,
    ``heads``, ...; the rest stays bit by bit as it is. Empty: all of them."""
    offsets: tuple[int, ...] = ()
    """Pairs are from the first to the second of these frames apart; empty: 0 to the recipe's ``max_offset``. Where the per-frame
    path is frozen nothing is to be learned at 0."""
    sources: Mapping[str, float] = field(default_factory=dict)
    """Instead of the recipe's, where given."""
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    """Beside the recipe's, which they override by name."""
    teacher: str = ""
    """Bundle whose per-frame path the distillation losses compare with. Empty: on pairs the model's own, as it is when the stage
    starts; on stills none."""


@dataclass(frozen=True)
class Recipe:
    """Read from YAML by :func:`read_recipe`."""

    card: Card
    sources: Mapping[str, float]
    """Name of a source -> its share of the samples."""
    stages: tuple[Stage, ...]
    crop: tuple[int, int] = (240, 320)
    """Height and width of the training crops, in network pixels."""
    max_offset: int = 9
    """Pairs are 0 to this many frames apart."""
    seed: int = 0
    ema_decay: float = 0.999
    """The bundle holds an exponential moving average of the weights: on little data it is the better network."""
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    """Name of a loss -> its weight, see :data:`dff_train.objective.DEFAULT_WEIGHTS`."""
    init: str = ""
    """Bundle whose weights a new run starts from, as far as they fit; empty: random weights."""
    class_weights: tuple[float, ...] = ()
    """Weight of each segmentation class in the cross entropy; empty: all alike. Rare classes vanish without it."""

    def digest(self) -> str:
        """What tells this recipe from another one; the prose and the figures of its card are not part of it."""
        content = asdict(self)
        content["card"] = {name: value for name, value in content["card"].items() if name not in PROSE}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def weights_of(self, stage: Stage) -> dict[str, float]:
        """Every loss's weight in a stage."""
        return {**DEFAULT_WEIGHTS, **self.loss_weights, **stage.loss_weights}

    def sources_of(self, stage: Stage) -> Mapping[str, float]:
        """The sources of a stage and their shares."""
        return stage.sources or self.sources

    def offsets_of(self, stage: Stage) -> tuple[int, int]:
        """Fewest and most frames between the frames of a stage's pairs; 0 and 0 for stills."""
        if not stage.pairs:
            return 0, 0
        return (stage.offsets[0], stage.offsets[1]) if stage.offsets else (0, self.max_offset)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises ValueError naming the file and what is wrong in it."""
    try:
        content = named(Recipe, yaml.safe_load(path.read_text(encoding="utf-8")))
        content["card"] = _card(content["card"])
        content["stages"] = tuple(map(_stage, content["stages"]))
        content["crop"] = tuple(content.get("crop", Recipe.crop))
        content["class_weights"] = tuple(map(float, content.get("class_weights", ())))
        _check_classes(content["card"])
        _check_weights(content["card"], content["class_weights"])
        recipe = checked(Recipe(**content))
        _check_numbers(recipe)
        for weights in (recipe.loss_weights, *(stage.loss_weights for stage in recipe.stages)):
            _check_losses(weights)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"recipe {path}: {' '.join(str(error).split())}") from error
    return recipe


def _card(content: Any) -> Card:
    """A card. ``like`` names a bundle, which it follows in all it does not say itself, figures apart; a part that is null is left out.

    So a part can be trained for whatever a bundle holds by now.
    """
    if not isinstance(content, Mapping) or "like" not in content:
        return parse_card(content)
    own = dict(content)
    bundle = read_card(find_bundle(str(own.pop("like"))))
    parts = own.get("architecture", {})
    if not isinstance(parts, Mapping):
        raise ValueError(f"architecture should be a mapping, got {parts!r}")
    own["architecture"] = {
        **{name: part for name, part in bundle.architecture.items() if name not in parts},
        **{name: part for name, part in parts.items() if part is not None},
    }
    return parse_card({**{name: value for name, value in vars(bundle).items() if name != "figures"}, **own})


def _check_classes(card: Card) -> None:
    """The labels of the sources are indices: a card that names other classes, or in another order, would be trained wrongly."""
    for classes, known in ((card.segmentation_classes, SEGMENTATION_CLASSES), (card.detection_classes, DETECTION_CLASSES)):
        if classes and classes != known:
            raise ValueError(f"classes should be those of the sources, {', '.join(known)}, got {', '.join(classes)}")


def _check_weights(card: Card, weights: tuple[float, ...]) -> None:
    if weights and (len(weights) != len(card.segmentation_classes) or min(weights) <= 0):
        raise ValueError(f"class_weights should be {len(card.segmentation_classes)} numbers above 0, got {list(weights)}")


def _check_numbers(recipe: Recipe) -> None:
    if not recipe.stages:
        raise ValueError("recipe should have at least one stage, got none")
    if min(recipe.max_offset, recipe.seed) < 0 or not 0 <= recipe.ema_decay < 1:
        got = f"{recipe.max_offset}, {recipe.seed} and {recipe.ema_decay}"
        raise ValueError(f"max_offset and seed should be at least 0 and ema_decay lie in 0..1, got {got}")


def _check_losses(weights: Mapping[str, float]) -> None:
    unknown = sorted(set(weights) - set(DEFAULT_WEIGHTS))
    if unknown:
        raise ValueError(f"losses are {', '.join(DEFAULT_WEIGHTS)}, got {', '.join(unknown)}")
    if any(weight < 0 for weight in weights.values()):
        raise ValueError(f"weights of losses should be at least 0, got {dict(weights)}")


def _stage(content: Any) -> Stage:
    given = named(Stage, content)
    for name in given.keys() & {"trains", "offsets"}:
        if not isinstance(given[name], list):
            raise ValueError(f"{name} should be a list, got {given[name]!r}")
        given[name] = tuple(given[name])
    stage = checked(Stage(**given))
    for name in ("steps", "batch"):
        if getattr(stage, name) < 1:
            raise ValueError(f"{name} should be at least 1, got {getattr(stage, name)}")
    if stage.offsets and not (len(stage.offsets) == 2 and 0 <= stage.offsets[0] <= stage.offsets[1] > 0):
        raise ValueError(f"offsets should be the fewest and the most frames between a pair's frames, got {list(stage.offsets)}")
    if stage.offsets and not stage.pairs:
        raise ValueError(f"stage {stage.name!r} is of stills, whose offset is 0: offsets belong to pairs, got {list(stage.offsets)}")
    return stage
