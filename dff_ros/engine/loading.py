"""A bundle made ready to run: on its device, in the number format that pays there."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dff_ros.core.bundle import Card, load_bundle, with_flow_network
from dff_ros.core.feature_network import fold_batch_norms
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.precision import cpu_computes_bfloat16
from dff_ros.core.propagate import FlowFields
from dff_ros.core.refine_network import RefineInput
from dff_ros.engine.settings import EngineSettings

OPTIONAL_PARTS = frozenset({"chain", "flow", "refine", "scale"})
"""Parts that a run may leave out, to measure what they bring; a bundle need not have them.

Without flow the key feature is copied; without chain flow is measured from each frame to its key frame at once, as in the paper.
"""


@dataclass(frozen=True)
class LoadedModel:
    """Weights shared by any number of streams. ``notes`` are lines a user should read (a GPU that is missing, for one)."""

    card: Card
    networks: DeepFeatureFlow
    device: torch.device
    precision: torch.dtype
    without: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    threads: int = field(default_factory=torch.get_num_threads)
    """Of torch, on a CPU: what steps and a key frame made aside share."""

    @property
    def input_multiple(self) -> int:
        """Network images are padded to multiples of this."""
        return self.networks.stride

    def extract(self, image: Tensor) -> Tensor:
        """N_feat: image (1, 3, H, W) -> feature (1, C, H / stride, W / stride), float32 for the warp's sake."""
        feature: Tensor = self.networks.feature_network(image)
        return feature.float()

    def flow(self, current: Tensor, key: Tensor) -> FlowFields:
        """F: two prepared images -> flow and scale on the device."""
        fields: FlowFields = self.networks.flow_network(current, key)
        if "scale" in self.without:
            fields = replace(fields, scale=None)
        if not self.networks.chains_flow:
            fields = replace(fields, fine=None)
        return fields.each(lambda member: member.to(self.device))

    def refines(self, settings: EngineSettings) -> bool:
        """Whether propagated features are corrected: the bundle has a branch on the current frame, and nobody switched it off."""
        return self.networks.refine_network is not None and settings.refine

    def refine(self, current: RefineInput, key: RefineInput, feature: Tensor, fields: FlowFields, age: int) -> Tensor:
        """The branch: a propagated feature (1, C, H / stride, W / stride) of ``age`` frames -> the corrected one."""
        ages = torch.tensor([float(age)], device=self.device)
        refined: Tensor = self.networks.refine_network(current, key, feature, fields, ages)
        return refined


def load_model(settings: EngineSettings, *, without: Set[str] = frozenset()) -> LoadedModel:
    """Load the bundle that ``settings`` names; raises BundleError or ValueError in one clear line."""
    unknown = sorted(without - OPTIONAL_PARTS)
    if unknown:
        raise ValueError(f"parts to leave out are {', '.join(sorted(OPTIONAL_PARTS))}, got {', '.join(unknown)}")
    card, networks = load_bundle(settings.model)
    flow = "still" if "flow" in without else settings.flow
    if flow:
        networks = with_flow_network(networks, card, flow)
    if "refine" in without:
        networks.refine_network = None
    if "chain" in without:
        networks.chains_flow = False
    device, notes = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    networks = networks.eval().requires_grad_(False)
    fold_batch_norms(networks)
    networks = networks.to(device=device, dtype=precision)
    networks = networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(card, networks, device, precision, frozenset(without), notes)


def choose_device(name: str) -> tuple[torch.device, tuple[str, ...]]:
    """The device, and a note where the one that was asked for is missing."""
    if torch.cuda.is_available() and name != "cpu":
        return torch.device("cuda"), ()
    return torch.device("cpu"), (("no GPU found: running on the CPU",) if name == "cuda" else ())


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the networks; ``auto`` takes a half precision only where the device computes it natively.

    On a CPU with AVX-512 BF16 or AMX the networks take about half the time of float32 (measured: 18 against 34 ms for the
    compact network at 480x360 on two cores); on CPUs without, bfloat16 is emulated and slower.
    """
    if name != "auto":
        precision: torch.dtype = getattr(torch, name)
        return precision
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if cpu_computes_bfloat16() else torch.float32
