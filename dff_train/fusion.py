"""Where several looks at a frame are fused: each says what it sees in the feature that the heads already understand.

The fusions start as linear regressions, because trained looks err differently and their mean is better than what a fusion learns
freely on the stills that the looks were trained on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.feature_network import PyramidFeatureNetwork
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.refine_network import LookRefineNetwork
from dff_ros.core.results import Task

RIDGE = 0.01
"""How strongly the regression is held to small weights, as a share of the finer feature's mean energy."""


@torch.no_grad()
def fit_fusion(model: DeepFeatureFlow, images: Iterable[Tensor]) -> None:
    """Set the fusion of a model whose trunk and heads were trained at one scale, from ``images`` (N, 3, H, W) in 0..1.

    The 2x2 convolution of the finer look is the linear regression of the trunk's own feature, so that every head understands it.
    Within what the segmentation head reads, it is corrected so that a cell's scores become exactly the mean of the scores of both
    looks: those of the finer one are of a grid twice as dense, and each of a cell's parts takes the mean over its place.
    Raises ValueError where the model's feature network is no pyramid.
    """
    network = model.feature_network
    if not isinstance(network, PyramidFeatureNetwork):
        raise ValueError(f"feature_network should be a pyramid to have a fusion, got {type(network).__name__}")
    weight, bias = _regression(network.eval(), images)
    if Task.SEGMENTATION in model.tasks:
        head = model.head(Task.SEGMENTATION)
        wanted, read = _finer_scores(head.score.weight[:, :, 0, 0], head.subcells), torch.linalg.pinv(head.score.weight[:, :, 0, 0])
        # The bias of the scores is the same for every part's mean only up to the parts' own, hence the second line.
        offset = _finer_scores(head.score.bias[:, None], head.subcells).sum(1) - head.score.bias
        bias = bias + read @ (offset - head.score.weight[:, :, 0, 0] @ bias)
        weight = weight + read @ (wanted - head.score.weight[:, :, 0, 0] @ weight)
    channels = network.channels
    network.fuse.fine.weight.copy_(weight.view(channels, channels, 2, 2))
    network.fuse.fine.bias.copy_(bias)  # type: ignore[union-attr]


@torch.no_grad()
def fit_look(model: DeepFeatureFlow, images: Iterable[Tensor]) -> None:
    """Set how the branch's small look is spread over the feature's cells: the regression of the feature of the whole network.

    Raises ValueError where the model's branch is no look.
    """
    branch = model.refine_network
    if not isinstance(branch, LookRefineNetwork):
        raise ValueError(f"refine_network should be a look to have its spread fitted, got {type(branch).__name__}")
    model.feature_network.eval(), branch.eval()
    gram, moment = None, None
    for image in images:
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            seen, feature = branch.trunk(F.avg_pool2d(image, 2)), model.feature_network(image)
        cells = F.pad(_rows(seen), (0, 1), value=1.0)
        wanted = _rows(F.pixel_unshuffle(feature.float(), 2))
        gram = cells.T @ cells + (0.0 if gram is None else gram)
        moment = cells.T @ wanted + (0.0 if moment is None else moment)
    if gram is None or moment is None:
        raise ValueError("expected images to fit the look to, got none")
    solution = _ridge(gram, moment).to(branch.spread.weight)
    # Rows are the look's channels, columns the feature's with the row and column of the 2 x 2 cells: a transposed convolution's order.
    channels = branch.channels
    branch.spread.weight.copy_(solution[:-1].view(channels, channels, 2, 2))
    branch.spread.bias.copy_(solution[-1].view(channels, 4).mean(1))  # type: ignore[union-attr]


def _rows(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N h w, C), in double precision on the host."""
    return maps.float().movedim(1, -1).flatten(0, 2).double().cpu()


def _ridge(gram: Tensor, moment: Tensor) -> Tensor:
    """The weights that ridge regression gives; the last row and column, those of the constant, are not held."""
    held = RIDGE * gram.diagonal()[:-1].mean() * torch.eye(len(gram), dtype=torch.double)
    held[-1, -1] = 0.0
    solution: Tensor = torch.linalg.solve(gram + held, moment)
    return solution


def _regression(network: PyramidFeatureNetwork, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Weights (C, 4 C) and bias (C,) that give the trunk's feature from the 2x2 cells of the finer one, by ridge regression."""
    size = 4 * network.channels + 1
    gram, moment = torch.zeros(size, size, dtype=torch.double), torch.zeros(size, network.channels, dtype=torch.double)
    for image in images:
        enlarged = F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            coarse, fine = network.trunk(image), network.trunk(enlarged)
        # pixel_unshuffle orders channel, row, column: the order of a 2x2 convolution's weights.
        cells = F.pad(_rows(F.pixel_unshuffle(fine.float(), 2)), (0, 1), value=1.0)
        gram += cells.T @ cells
        moment += cells.T @ _rows(coarse)
    solution = _ridge(gram, moment).T.to(network.fuse.fine.weight)
    return solution[:, :-1], solution[:, -1]


def _finer_scores(score: Tensor, subcells: int) -> Tensor:
    """The mean scores of each part of a cell as a map of its four finer cells: (K s s, C) -> (K s s, 4 C).

    Finer cells have s x s parts of their own: 2 s x 2 s in a cell, of which each part of the cell takes the mean of 2 x 2.
    """
    channels = score.shape[1]
    by_part = score.view(-1, subcells, subcells, channels)
    result = score.new_zeros(by_part.shape[0], subcells, subcells, channels, 2, 2)
    for row in range(2 * subcells):
        for column in range(2 * subcells):
            own = by_part[:, row % subcells, column % subcells]
            result[:, row // 2, column // 2, :, row // subcells, column // subcells] += own / 4.0
    return result.reshape(score.shape[0], channels * 4)
