"""The branch on the current frame, which corrects the propagated feature.

Not in the paper, whose propagated frames cannot show what has come into view since the key frame. Its successors all look at
the current frame cheaply (Accel, Jain et al. 2019, fuses a small network's scores); here the branch corrects the feature
itself, so that every head profits and none needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dff_ros.core.feature_network import BasicBlock, CompactFeatureNetwork, conv_norm
from dff_ros.core.look import Look
from dff_ros.core.propagate import FlowFields, warp
from dff_ros.core.signals import mean_over_cells

GATE_START = -2.0
"""The gates' bias at the start: a correction first passes at 0.12 of what age allows and has to earn more."""

LOOK_GATE_START = -0.4
"""The same where the look is a trained network: 0.4 of what the key frame's age allows."""

FLOW_UNIT = 8.0
"""Cells of flow that read as 1."""

AGE_UNIT = 10.0
"""Frames of age that read as 1."""

AGE_LIMIT = 20.0
"""Older than this reads as this: beyond the ages seen in training the branch is not asked to guess."""


@dataclass(frozen=True)
class RefineInput:
    """What a branch needs of a frame; that of a key frame is kept with it."""

    image: Tensor
    """(N, 3, H, W), RGB in 0..1."""
    cells: Tensor
    """(N, 3, h, w): the image averaged over each feature cell, float32."""


@dataclass(frozen=True)
class LookedAt(RefineInput):
    """The same with what a branch of this module sees in the frame."""

    look: Callable[[Tensor], Tensor] = field(repr=False)
    _seen: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @property
    def seen(self) -> Tensor:
        """(N, ..., h, w). It is the same from whichever key frame, so computed once, when first asked for: of a key frame nobody asks.

        Not a ``cached_property``: before Python 3.12 streams in several threads would wait for each other's.
        """
        if not self._seen:
            self._seen.append(self.look(self.image))
        return self._seen[0]


class RefineNetwork(Protocol):
    """The seam for a user's own branch on the current frame."""

    def prepare(self, image: Tensor) -> RefineInput:
        """(N, 3, H, W) RGB in 0..1, H and W multiples of the stride -> what the branch needs of the frame."""
        ...

    def __call__(self, current: RefineInput, key: RefineInput, feature: Tensor, fields: FlowFields, age: Tensor) -> Tensor:
        """The corrected feature (N, C, h, w) of the current frame.

        ``current`` and ``key`` are prepared frames, ``feature`` (N, C, h, w) is what ``fields`` carried from the key frame,
        ``age`` (N,) the frames since then, at least 1: a key frame's own feature is exact and never comes here. ``current`` may be
        one frame for N key frames.
        """
        ...


SIGNALS = 3 + 1 + 2 + 1
"""Planes of what the warp leaves open: difference, view, flow, age."""


class _Branch(nn.Module):
    """What both branches share: they look at the current frame, hold that against the propagated feature, and change it through a gate.

    Beside the two a gate and what it lets through read where the warp went wrong: the difference of the current frame and the warped
    key frame, the share of each cell that lay in the key frame's view, the flow and the age.

    Gates open by age / (age + 1) at the most: what is propagated errs more with every frame, what is seen in the current one as much on
    each. For errors that add up, this is how the weight of what is seen in the best mean of the two grows. Gates alone, learned at all ages
    together, open too far for a fresh key frame (held against per-frame, on five recordings: the best factors for ages 1, 2, 3, 5 and 9
    are about .5, .6, .75, .85 and .9).
    """

    channels: int
    stride: int
    fusion: nn.Sequential
    gate: nn.Conv2d

    def look(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> what is seen in it, at the feature's size (N, ..., h, w)."""
        raise NotImplementedError

    def _change(self, feature: Tensor, seen: Tensor, fused: Tensor) -> Tensor:
        """What is added to ``feature`` where the gate is open, from what is ``seen`` and from all of it ``fused``."""
        raise NotImplementedError

    def forward(self, current: LookedAt, key: RefineInput, feature: Tensor, fields: FlowFields, age: Tensor) -> Tensor:
        """The corrected feature, in the number format of the weights; raises ValueError where shapes do not fit."""
        self._check(current, key, feature, age)
        feature = self._laid_out(feature)
        seen = self._laid_out(current.seen.expand(len(feature), -1, -1, -1))
        signals = self._laid_out(self._signals(current, key, fields, age))
        fused = self.fusion(torch.cat([seen, feature, signals], dim=1))
        trust = age.float() / (age.float() + 1.0)
        gate = torch.sigmoid(self.gate(fused)) * trust.to(fused.dtype).view(-1, 1, 1, 1)
        return feature + gate * self._change(feature, seen, fused)

    def prepare(self, image: Tensor) -> LookedAt:
        """The image beside its mean over each feature cell; raises ValueError where it does not divide into cells."""
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % self.stride or image.shape[3] % self.stride:
            raise ValueError(f"image should be (N, 3, H, W) with H and W multiples of {self.stride}, got {tuple(image.shape)}")
        return LookedAt(image, mean_over_cells(image, self.stride), self.look)

    def _laid_out(self, maps: Tensor) -> Tensor:
        """In the number format of the weights, channels last: mixed layouts cost a CPU a sixth of the branch in copies."""
        return maps.to(self.gate.weight.dtype).contiguous(memory_format=torch.channels_last)

    def _signals(self, current: RefineInput, key: RefineInput, fields: FlowFields, age: Tensor) -> Tensor:
        """(N, SIGNALS, h, w) float32: |current - warped key|, the share in the key frame's view, flow and age."""
        carried = warp(torch.cat([key.cells, torch.ones_like(key.cells[:, :1])], dim=1), fields.flow)
        difference = (current.cells - carried[:, :3]).abs()
        age_plane = (age.float().clamp(max=AGE_LIMIT) / AGE_UNIT).view(-1, 1, 1, 1).expand(-1, 1, *difference.shape[2:])
        return torch.cat([difference, carried[:, 3:], fields.flow.float() / FLOW_UNIT, age_plane], dim=1)

    def _check(self, current: RefineInput, key: RefineInput, feature: Tensor, age: Tensor) -> None:
        if current.image.shape[1:] != key.image.shape[1:] or len(current.image) not in (1, len(key.image)):
            raise ValueError(f"key frame should be {tuple(current.image.shape)}, got {tuple(key.image.shape)}")
        expected = (len(key.cells), self.channels, *key.cells.shape[2:])
        if feature.shape != expected:
            raise ValueError(f"feature should be {expected}, got {tuple(feature.shape)}")
        if age.shape != expected[:1]:
            raise ValueError(f"age should be {expected[:1]}, got {tuple(age.shape)}")


class LightRefineNetwork(_Branch):
    """A small encoder of the current frame, fused with the propagated feature: feature + age / (age + 1) * gate * correction.

    The correction starts as 0, so an untrained branch changes nothing.

    ``width`` is the channels inside; ``blocks`` counts the residual blocks of the encoder, whose dilation doubles from one to the
    next, and those after fusion.
    """

    def __init__(self, channels: int, *, stride: int = 8, width: int = 96, blocks: Sequence[int] = (2, 1)) -> None:
        super().__init__()
        if stride < 4 or stride % 4:
            raise ValueError(f"stride should be a multiple of 4, got {stride}")
        if width < 2 or len(blocks) != 2 or min(blocks) < 0:
            raise ValueError(f"width should be at least 2 and blocks two counts, got {width} and {blocks}")
        self.channels = channels
        self.stride = stride
        patch = stride // 2
        self.unshuffle = nn.PixelUnshuffle(patch)
        self.encoder = nn.Sequential(
            conv_norm(3 * patch**2, width // 2),
            nn.ReLU(),
            conv_norm(width // 2, width, stride=2),
            nn.ReLU(),
            *(BasicBlock(width, width, dilation=2**index) for index in range(blocks[0])),
        )
        self.fusion = nn.Sequential(
            conv_norm(width + channels + SIGNALS, width, 1), nn.ReLU(), *(BasicBlock(width, width) for _ in range(blocks[1]))
        )
        self.correction = nn.Conv2d(width, channels, 1)
        self.gate = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.gate.bias, GATE_START)  # type: ignore[arg-type]

    def look(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> the encoder's map (N, width, h, w)."""
        seen: Tensor = self.encoder(self._laid_out(self.unshuffle((image - 0.5).to(self.gate.weight.dtype))))
        return seen

    def _change(self, feature: Tensor, seen: Tensor, fused: Tensor) -> Tensor:
        correction: Tensor = self.correction(fused)
        return correction


class LookRefineNetwork(_Branch):
    """One more look: a compact network on the current frame made small, blended with the propagated feature cell by cell.

    Each half of the answer errs elsewhere: the propagated feature where the warp went wrong, the small look in the thin and the far.
    A gate for each channel and cell says how much of the look is taken: feature + age / (age + 1) * gate * (look - feature).

    ``scale`` is the size of the look ("2/3": two thirds of the frame's width and height), ``fusion_width`` the channels of what computes
    the gate; all else are options of the trunk, a :class:`CompactFeatureNetwork`, which starts from the weights of a bundle of the same
    (see :func:`dff_train.fusion.fit_look`).
    """

    def __init__(self, channels: int, *, stride: int = 8, scale: float | str = 0.5, fusion_width: int = 64, **trunk: Any) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.trunk = CompactFeatureNetwork(channels=channels, **trunk)
        if self.trunk.stride != stride:
            raise ValueError(f"stride should be {self.trunk.stride}, the trunk's, got {stride}")
        self.spread = Look(channels, stride=stride, scale=scale)
        self.fusion = nn.Sequential(conv_norm(2 * channels + SIGNALS, fusion_width, 1), nn.ReLU(), BasicBlock(fusion_width, fusion_width))
        self.gate = nn.Conv2d(fusion_width, channels, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, LOOK_GATE_START)  # type: ignore[arg-type]

    def look(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> the small look's feature, at the feature's size (N, C, h, w)."""
        size = (image.shape[2] // self.stride, image.shape[3] // self.stride)
        return self.spread(self.trunk(self.spread.resized(image)), size)  # type: ignore[no-any-return]

    def _change(self, feature: Tensor, seen: Tensor, fused: Tensor) -> Tensor:
        return seen - feature
