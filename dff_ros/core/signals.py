"""What can be told of a propagated frame before it is answered, and how far its answer is likely to be off.

Not in the paper. Signals come from what propagation computes anyway: the flow back to the key frame, both images averaged
over feature cells, and the key frame's own class scores. An estimator, fitted without labels, turns them into the share of pixels
whose class per-frame would give differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.propagate import FlowFields, cell_grid, propagate, sample, warp
from dff_ros.core.segmentation import SegmentationHead

SAMPLED_CELLS = 400
"""Cells of a new key frame whose class is held against the propagated one; a share of a tenth is then known to 0.015."""


def mean_over_cells(image: Tensor, stride: int) -> Tensor:
    """``image`` (N, 3, H, W), H and W multiples of ``stride`` -> its mean over each feature cell (N, 3, h, w), float32."""
    batch, channels, height, width = image.shape
    # Rows, then columns: a quarter of the time of avg_pool2d on a CPU.
    rows = image.float().reshape(batch, channels, height // stride, stride, width).mean(dim=3)
    return rows.reshape(batch, channels, height // stride, width // stride, stride).mean(dim=4)


@dataclass(frozen=True)
class Signals:
    """A frame against its key frame."""

    age: int
    """Frames since the key frame, at least 1."""
    residual: float
    """|current - warped key frame|, the mean over cells and colours, in 0..1; cells out of the key frame's view count as 0."""
    out_of_view: float
    """Share of the frame that the key frame does not show."""
    own_motion: float
    """Mean length of the flow less its median (the camera's turn), in cells."""
    doubtful_residual: float
    """The residual, each cell by the key frame's doubt there (see :func:`doubt`): what changed where classes are easily lost."""
    doubtful_roughness: float
    """Mean change of the flow from a cell to those right of it and below, |dx| + |dy| in cells, by the doubt: large where things move on
    their own and classes meet."""


SIGNALS = tuple(item.name for item in fields(Signals))

FLOORS = {
    "age": 0.0,
    "residual": 1e-4,
    "out_of_view": 0.01,
    "own_motion": 1e-2,
    "doubtful_residual": 1e-6,
    "doubtful_roughness": 1e-5,
}
"""Added before the logarithm is taken: below these a signal says nothing more."""


def doubt(head: SegmentationHead, feature: Tensor) -> Tensor:
    """How unsure the classes of a ``feature`` (1, C, h, w) are, (1, 1, h, w): 1 - the lead of the likeliest, as a share, over the next.

    The mean over each cell.
    """
    scores = head(feature)
    best, next_best = scores.softmax(dim=1).topk(2, dim=1).values.split(1, dim=1)
    return F.avg_pool2d(1.0 - (best - next_best), scores.shape[2] // feature.shape[2])


def measure_signals(current_cells: Tensor, key_cells: Tensor, key_doubt: Tensor, flow: Tensor, *, age: int) -> Signals:
    """The signals of one frame: both images' means over cells (1, 3, h, w) and the flow (1, 2, h, w) in cells back to the key frame.

    ``key_doubt`` (1, 1, h, w) is :func:`doubt` of the key frame; ones where there are no classes.
    After the warp it is arithmetic on a few thousand numbers, for which numpy takes half of torch's time.
    """
    flow = flow.float()
    warped = warp(torch.cat([key_cells, torch.ones_like(key_doubt), key_doubt], dim=1), flow)
    both = torch.cat([warped, current_cells, flow], dim=1)[0].cpu().numpy()  # one wait for a GPU
    carried, view, unsure, current, way = both[:3], both[3], both[4], both[5:8], both[8:]
    changed = np.abs(current - carried).mean(axis=0) * view
    turn = flow[0].flatten(1).median(dim=1).values.tolist()
    own = np.sqrt((way[0] - turn[0]) ** 2 + (way[1] - turn[1]) ** 2).mean()
    across, down = (np.abs(np.diff(way, axis=axis)).sum(axis=0) for axis in (2, 1))
    rough = ((across * unsure[:, :-1]).sum() + (down * unsure[:-1]).sum()) / view.size
    return Signals(age, float(changed.mean()), 1.0 - float(view.mean()), float(own), float((changed * unsure).mean()), float(rough))


@dataclass(frozen=True)
class Estimator:
    """Expected disagreement: exp(bias + sum of weights times the logarithms of signals), a share in 0..1.

    ``weights`` are by name of the signal. ``surprise`` is by how much, as the logarithm of a factor, the classes of sampled cells of a new
    key frame differ from the propagated ones more than the estimate says: they are coarser than pixels, and see no branch.
    """

    weights: Mapping[str, float]
    bias: float
    surprise: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(SIGNALS))
        if unknown or not self.weights:
            raise ValueError(f"signals should be some of {', '.join(SIGNALS)}, got {', '.join(unknown) or 'none'}")
        if not all(map(math.isfinite, (*self.weights.values(), self.bias, self.surprise))):
            raise ValueError("an estimator's numbers should be finite")

    def __call__(self, signals: Signals) -> float:
        """The share of pixels expected to be of another class than per-frame's."""
        exponent = self.bias + sum(weight * logarithm(signals, name) for name, weight in self.weights.items())
        return math.exp(min(exponent, 0.0))


def logarithm(signals: Signals, name: str) -> float:
    """The logarithm of one signal, with its floor."""
    return math.log(getattr(signals, name) + FLOORS[name])


def estimator_from(content: Mapping[str, Any]) -> Estimator:
    """The estimator that a card holds; raises ValueError where it holds none."""
    try:
        weights = {str(name): float(weight) for name, weight in content["weights"].items()}
        return Estimator(weights, float(content["bias"]), float(content.get("surprise", 0.0)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a disagreement estimator should have weights, bias and surprise: {type(error).__name__} {error}") from error


BY_RESIDUAL = Estimator({"residual": 0.73}, bias=0.7, surprise=0.0)
"""Where a bundle brings none: fitted to the two shipped networks on four recordings (see docs/schedules.md)."""

BY_MOTION = Estimator({"own_motion": 1.0}, bias=-3.2, surprise=0.0)
"""The length of the flow alone, in the same units: a control."""


def surprise(head: SegmentationHead, key_map: Tensor, fields: FlowFields, fresh: Tensor) -> float:
    """Share of sampled cells to which the ``fresh`` feature (1, C, h, w) gives another class than the one carried from the key frame.

    ``key_map`` is what is warped of the key frame, (1, C, d h, d w) (see :func:`dff_ros.core.propagate.warp`). On a new key frame both are
    known, so this is what it was worth, for less than half a millisecond; a head with blocks looks beyond a cell and runs on all of them.
    """
    height, width = fresh.shape[2:]
    step = max(1, round(math.sqrt(height * width / SAMPLED_CELLS)))
    rows, columns = (slice(min(step // 2, size - 1), None, step) for size in (height, width))
    sampled = (..., rows, columns)
    if len(head.blocks):
        carried = propagate(key_map, fields)
    elif fields.scale is None:
        position = (cell_grid(height, width, fields.flow.device) + fields.flow.float())[sampled]
        carried, fresh = sample(key_map.float(), position * (key_map.shape[2] // height)), fresh[sampled]
    else:
        carried, fresh = propagate(key_map, fields)[sampled], fresh[sampled]
    return float((head(carried).argmax(dim=1) != head(fresh).argmax(dim=1)).float().mean())
