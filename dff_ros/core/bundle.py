"""Bundles: a folder with ``model.yaml`` (the card) and ``weights.safetensors``.

The card says everything that the weights alone do not: architecture, classes, preprocessing, terms, how it was trained
and what it reached. Weights load without executing code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dff_ros.core.feature_network import CompactFeatureNetwork, PyramidFeatureNetwork, ResNetFeatureNetwork
from dff_ros.core.flow_network import FLOWNETS, DISFlow, FlowNetS, StillFlow
from dff_ros.core.half_cells import HalfCells
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import propagate
from dff_ros.core.refine_network import LightRefineNetwork, LookRefineNetwork
from dff_ros.core.results import UNLABELLED, ImageGeometry
from dff_ros.core.rfcn import RFCNHead
from dff_ros.core.segmentation import SegmentationHead
from dff_ros.core.signals import Estimator, estimator_from

CARD_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"
FEATURE_NETWORKS = "dff_ros.feature_networks"
"""Entry-point group: a user's own per-frame network joins by ``name = module:factory``; the card's ``kind`` names it."""

PROSE = frozenset({"name", "description", "licence", "provenance", "recipe", "figures"})
"""Fields of a card that speak to its readers alone: no network and no score depends on them."""

ARCHITECTURE = frozenset({"feature_network", "flow_network", "refine_network", "half_cells", "segmentation", "detection"})
"""What a card's architecture may say: a name misspelt would be a part left out."""

TRIAL_CELLS = 4
"""Feature cells each way of the small frame that a bundle is tried on."""


class BundleError(ValueError):
    """A bundle that is missing, incomplete or does not fit its card: one line that says which and why."""


@dataclass(frozen=True)
class Card:
    """What ``model.yaml`` says."""

    name: str
    description: str
    architecture: Mapping[str, Any]
    """``feature_network`` and ``flow_network``, each with its ``kind`` and arguments; optionally ``refine_network``, likewise,
    ``half_cells: true`` (:class:`dff_ros.core.half_cells.HalfCells`), and ``segmentation`` and ``detection``. ``chained: true`` beside
    the flow network's kind: it is asked from frame to frame, see :class:`dff_ros.core.model.DeepFeatureFlow`."""
    licence: str
    segmentation_classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    ignored_labels: tuple[int, ...] = ()
    detection_classes: tuple[str, ...] = ()
    input_pixels: int = 172_800
    provenance: tuple[str, ...] = ()
    recipe: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    disagreement: Mapping[str, Any] = field(default_factory=dict)
    """What :func:`dff_ros.core.signals.estimator_from` reads, for adaptive key frame schedules; empty without one."""

    @property
    def estimator(self) -> Estimator | None:
        """How far propagated answers are likely to be off, from signals; None where the bundle does not say."""
        return estimator_from(self.disagreement) if self.disagreement else None


def find_bundle(name_or_path: str) -> Path:
    """The folder of a bundle: a path as it is, a name under ``models/`` beside the package or where it is installed."""
    folders = [Path(name_or_path).expanduser()] if name_or_path else []
    if name_or_path and Path(name_or_path).name == name_or_path:
        prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
        roots = [Path(__file__).resolve().parents[2], *(p / "share" / "dff_ros" for p in (*prefixes, Path(sys.prefix)))]
        folders += [root / "models" / name_or_path for root in roots]
    for folder in folders:
        if (folder / CARD_FILE).is_file():
            return folder
    places = ", ".join(map(str, folders)) or "no place"
    raise BundleError(f"no bundle {name_or_path!r}: expected a folder with {CARD_FILE}, looked in {places}")


def read_card(folder: Path) -> Card:
    """The card of a bundle; raises BundleError with what is missing or wrong."""
    try:
        return parse_card(yaml.safe_load((folder / CARD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # YAML knows lists that hold themselves
        raise BundleError(f"{folder / CARD_FILE}: {' '.join(str(error).split())}") from error


def parse_card(content: Any) -> Card:
    """A card from the mapping that a YAML reader gave; raises ValueError with what is missing or wrong."""
    if not isinstance(content, dict):
        raise ValueError(f"a card should be a mapping, got {type(content).__name__}")
    try:
        card = Card(**{key: _frozen(value) for key, value in content.items()})
    except TypeError as error:
        raise ValueError(str(error).replace("Card.__init__() ", "a card ")) from error
    _check(card)
    return card


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _check(card: Card) -> None:
    for item in fields(Card):
        expected = {"str": str, "int": int}.get(str(item.type), Mapping if "Mapping" in str(item.type) else tuple)
        if not isinstance(getattr(card, item.name), expected):
            raise ValueError(f"{item.name} should be of type {expected.__name__}, got {getattr(card, item.name)!r}")
    if unknown := sorted(map(str, card.architecture.keys() - ARCHITECTURE)):
        raise ValueError(f"architecture knows {', '.join(sorted(ARCHITECTURE))}, got {', '.join(unknown)}")
    for part in ("feature_network", "flow_network", *({"refine_network"} & card.architecture.keys())):
        if not isinstance(card.architecture.get(part), Mapping) or "kind" not in card.architecture[part]:
            raise ValueError(f"architecture should name a {part} with its kind")
    if not isinstance(card.architecture.get("half_cells", False), bool):
        raise ValueError(f"half_cells should be true or false, got {card.architecture['half_cells']!r}")
    if not isinstance(card.architecture["flow_network"].get("chained", False), bool):
        raise ValueError(f"flow_network's chained should be true or false, got {card.architecture['flow_network']['chained']!r}")
    for task, classes in (("segmentation", card.segmentation_classes), ("detection", card.detection_classes)):
        if (task in card.architecture) != bool(classes):
            raise ValueError(f"{task} should stand in the architecture and have classes, or neither")
        if not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
            raise ValueError(f"{task}_classes should be names, each once, got {list(classes)}")
    if len(card.segmentation_classes) > UNLABELLED:
        raise ValueError(f"segmentation should have at most {UNLABELLED} classes, a byte's, got {len(card.segmentation_classes)}")
    if card.segmentation_classes and len(card.palette) != len(card.segmentation_classes):
        raise ValueError(f"palette should have {len(card.segmentation_classes)} colours, got {len(card.palette)}")
    for colour in card.palette:
        if not (isinstance(colour, tuple) and len(colour) == 3 and all(map(_is_byte, colour))):
            raise ValueError(f"palette should hold colours of three numbers 0..255, got {colour!r}")
    if not all(map(_is_byte, card.ignored_labels)):
        raise ValueError(f"ignored_labels should be numbers 0..255, got {list(card.ignored_labels)}")
    if card.disagreement:
        estimator_from(card.disagreement)
    if not 1024 <= card.input_pixels <= 8_000_000:
        raise ValueError(f"input_pixels should lie in 1024..8000000, got {card.input_pixels}")


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= 255


def _feature_network(kind: str) -> Callable[..., nn.Module]:
    known: dict[str, Callable[..., nn.Module]] = {
        "resnet": ResNetFeatureNetwork,
        "compact": CompactFeatureNetwork,
        "pyramid": PyramidFeatureNetwork,
    }
    if kind in known:
        return known[kind]
    plugins = {point.name: point for point in entry_points(group=FEATURE_NETWORKS)}
    if kind in plugins:
        factory: Callable[..., nn.Module] = plugins[kind].load()
        return factory
    raise ValueError(f"feature_network kind should be one of {', '.join([*known, *plugins])}, got {kind!r}")


def build_flow_network(architecture: Mapping[str, Any], *, channels: int, stride: int) -> nn.Module:
    """A flow network for features of ``channels`` and ``stride``; raises ValueError naming the kinds.

    Whether it is to be ``chained`` changes nothing in it.
    """
    arguments = {name: value for name, value in architecture.items() if name != "chained"}
    kind = arguments.pop("kind")
    if kind == "dis":
        return DISFlow(stride=stride, **arguments)
    if kind == "still":
        return StillFlow(stride=stride, **arguments)
    if kind in FLOWNETS:
        return FlowNetS(channels=channels, stride=stride, **FLOWNETS[kind], **arguments)
    raise ValueError(f"flow_network kind should be one of dis, still, {', '.join(FLOWNETS)}, got {kind!r}")


def build_refine_network(architecture: Mapping[str, Any], *, channels: int, stride: int) -> nn.Module:
    """A branch on the current frame for features of ``channels`` and ``stride``; raises ValueError naming the kinds."""
    arguments = dict(architecture)
    kind = arguments.pop("kind")
    known: dict[str, Callable[..., nn.Module]] = {"light": LightRefineNetwork, "look": LookRefineNetwork}
    if kind not in known:
        raise ValueError(f"refine_network kind should be one of {', '.join(known)}, got {kind!r}")
    return known[kind](channels, stride=stride, **arguments)


def build_model(card: Card) -> DeepFeatureFlow:
    """The networks that a card describes, with fresh weights; raises ValueError or TypeError where it describes none."""
    arguments = dict(card.architecture["feature_network"])
    feature_network: Any = _feature_network(arguments.pop("kind"))(**arguments)
    channels, stride = feature_network.channels, feature_network.stride
    flow_network = build_flow_network(card.architecture["flow_network"], channels=channels, stride=stride)
    chains_flow = card.architecture["flow_network"].get("chained", False)
    refine_network = None
    if "refine_network" in card.architecture:
        refine_network = build_refine_network(card.architecture["refine_network"], channels=channels, stride=stride)
    heads: list[nn.Module] = []
    if "segmentation" in card.architecture:
        heads.append(SegmentationHead(channels, classes=len(card.segmentation_classes), **(card.architecture["segmentation"] or {})))
    if "detection" in card.architecture:
        heads.append(RFCNHead(channels, classes=len(card.detection_classes), stride=stride, **card.architecture["detection"]))
    return DeepFeatureFlow(
        feature_network,
        flow_network,
        heads=heads,
        refine_network=refine_network,
        half_cells=HalfCells(channels) if card.architecture.get("half_cells", False) else None,
        chains_flow=chains_flow,
    )


def load_bundle(name_or_path: str) -> tuple[Card, DeepFeatureFlow]:
    """The card and the model in evaluation mode, float32, on the CPU; raises BundleError in one clear line."""
    folder = find_bundle(name_or_path)
    card = read_card(folder)
    try:
        model = build_model(card).eval()
        try_out(model)
    except (TypeError, ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise BundleError(f"{folder / CARD_FILE}: {' '.join(str(error).split())[:300]}") from error
    try:
        weights = load_file(folder / WEIGHTS_FILE)
        model.load_state_dict({name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"{folder / WEIGHTS_FILE}: {' '.join(str(error).split())[:300]}") from error
    return card, model


@torch.inference_mode()
def try_out(model: DeepFeatureFlow) -> None:
    """Send one small frame through every part, because a card can describe networks that can be built and yet cannot run."""
    side = TRIAL_CELLS * model.stride
    image = torch.zeros(1, 3, side, side)
    prepared = model.flow_network.prepare(image)
    fields = model.flow_network(prepared, prepared)
    feature = propagate(model.feature_network(image), fields)
    if model.refine_network is not None:
        seen = model.refine_network.prepare(image)
        feature = model.refine_network(seen, seen, feature, fields, torch.ones(1))
    for head in map(model.head, model.tasks):
        head.decode(head(feature), ImageGeometry(side, side, side, side, side, side))


def with_flow_network(model: DeepFeatureFlow, card: Card, kind: str) -> DeepFeatureFlow:
    """The same model with another flow network; raises BundleError where that one would need weights the bundle lacks.

    A search takes over the bundle's choice to chain from frame to frame; where nothing is measured there is nothing to chain.
    """
    if kind == card.architecture["flow_network"]["kind"]:
        return model
    try:
        flow_network = build_flow_network({"kind": kind}, channels=model.channels, stride=model.stride)
    except ValueError as error:
        raise BundleError(str(error)) from error
    if any(True for _ in flow_network.parameters()):
        raise BundleError(f"bundle {card.name!r} has no weights for the flow network {kind!r}; dis and still need none")
    return model.with_parts(flow_network=flow_network, chains_flow=model.chains_flow and kind == "dis")


def with_refine_network(model: DeepFeatureFlow, card: Card, architecture: Mapping[str, Any]) -> tuple[Card, DeepFeatureFlow]:
    """Card and model with a fresh branch on the current frame in place of what they have.

    ``architecture`` is what the card says of it: ``kind`` and arguments. Raises ValueError naming the kinds.
    """
    refine_network = build_refine_network(architecture, channels=model.channels, stride=model.stride)
    card = replace(card, architecture={**card.architecture, "refine_network": architecture})
    return card, model.with_parts(refine_network=refine_network)


def save_bundle(folder: Path, card: Card, model: nn.Module) -> None:
    """Write card and weights (float16) into ``folder``, which is made where needed."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (weight.half() if weight.is_floating_point() else weight).contiguous().cpu() for name, weight in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors writes files that only their owner can read, and installers copy modes
    content = {item.name: _plain(getattr(card, item.name)) for item in fields(Card)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
