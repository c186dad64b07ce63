"""How far a flow network is from flow that is known exactly, at every level of its decoder (Dosovitskiy et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dff_ros.core.flow_network import COARSE_CELLS, FlowNetS
from dff_ros.core.propagate import FlowFields
from dff_train.precision import mixed_precision

COARSE_WEIGHTS = (0.5, 0.25, 0.25, 0.25)
"""Of the decoder's flows, the finest first, beside 1 for the answer: what the authors' weights come to for means over cells."""

ROUNDING = 0.01
"""Feature cells; below this the end-point error is rounded off to a parabola (Charbonnier)."""


def flow_loss(network: nn.Module, image: Tensor, key_image: Tensor, truth: Tensor | None, visible: Tensor | None, *, stride: int) -> Tensor:
    """The end-point loss of a flow network, and of a FlowNet the weighted sum over its answer and its decoder's coarser flows.

    ``image`` and ``key_image`` are (N, 3, H, W) RGB in 0..1; ``truth`` (N, 2, H, W) is the flow (dx, dy) in image pixels from the
    current to the key frame, and counts where ``visible`` (N, H, W). ``stride`` is image pixels per feature cell.
    0 where nothing is known (None).
    """
    if truth is None or visible is None:
        return image.new_zeros(())
    with mixed_precision(image.device):
        flow, coarse = _flows(network, network.prepare(image), network.prepare(key_image))  # type: ignore[operator]
    truth, visible = truth.to(flow.device), visible.to(flow.device)
    loss = end_point_loss(flow, truth, visible, cell=stride, stride=stride)
    for weight, cell, level in zip(COARSE_WEIGHTS, COARSE_CELLS, coarse, strict=False):
        loss = loss + weight * end_point_loss(level, truth, visible, cell=cell, stride=stride)
    return loss


def _flows(network: nn.Module, current: Tensor, key: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """The answer's flow and the coarser ones, which networks of other kinds do not have."""
    if isinstance(network, FlowNetS):
        fields, coarse = network.pyramid(current, key)
        return fields.flow, coarse
    answer: FlowFields = network(current, key)
    return answer.flow, ()


def end_point_loss(flow: Tensor, truth: Tensor, visible: Tensor, *, cell: int, stride: int) -> Tensor:
    """Mean distance, in feature cells, of ``flow`` (N, 2, h, w) from the mean of the true flow in each map cell.

    ``flow`` is in feature cells of ``stride`` image pixels on a map of ``cell`` image pixels per cell, ``truth`` (N, 2, H, W) in
    image pixels. Cells weigh as much as is ``visible`` (N, H, W) in them; 0 where nothing is.
    """
    seen = visible.unsqueeze(1).to(truth.dtype)
    shares = F.avg_pool2d(seen, cell, ceil_mode=True)
    means = F.avg_pool2d(truth * seen, cell, ceil_mode=True) / shares.clamp(min=1e-6)
    distance = ((flow - means / stride).square().sum(dim=1, keepdim=True) + ROUNDING**2).sqrt() - ROUNDING
    return (distance * shares).sum() / shares.sum().clamp(min=1e-6)
