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
    network.eval()
    weight, bias = (each.to(network.fuse.fine.weight.device) for each in _regression(_two_looks(network, image) for image in images))
    if Task.SEGMENTATION in model.tasks:
        head = model.head(Task.SEGMENTATION)
        score = head.score.weight[:, :, 0, 0]
        read = torch.linalg.pinv(score)
        # The mean of the parts' biases is not each part's own: the finer look has to make up for the difference.
        offset = _finer_scores(head.score.bias[:, None], head.subcells).sum(1) - head.score.bias
        bias = bias + read @ (offset - score @ bias)
        weight = weight + read @ (_finer_scores(score, head.subcells) - score @ weight)
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
    model.feature_network.eval()
    branch.eval()
    weight, bias = _regression(_small_look(model, branch, image) for image in images)
    # Rows are the feature's channels with the row and column of the 2 x 2 cells, as in a transposed convolution's weights.
    channels = branch.channels
    branch.spread.weight.copy_(weight.T.reshape(channels, channels, 2, 2))
    branch.spread.bias.copy_(bias.view(channels, 4).mean(1))  # type: ignore[union-attr]


def _two_looks(network: PyramidFeatureNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """The 2x2 cells of the finer look, ordered as a 2x2 convolution's weights are, and the coarser look."""
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        coarse, fine = network.looks(image)
    return F.pixel_unshuffle(fine, 2), coarse


def _small_look(model: DeepFeatureFlow, branch: LookRefineNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """The small look, and the 2x2 cells of the whole network's feature in each of its cells; cells that are not whole are left out."""
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        seen, feature = branch.small_look(image), model.feature_network(image)
    height, width = feature.shape[2] // 2, feature.shape[3] // 2
    return seen[:, :, :height, :width], F.pixel_unshuffle(feature[:, :, : 2 * height, : 2 * width], 2)


def _regression(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weights (K, C) and bias (K,), on the host, that give maps (N, K, h, w) from maps (N, C, h, w), by ridge regression over all cells.

    Raises ValueError where there is no pair.
    """
    products = []
    for given, wanted in pairs:
        cells = F.pad(_rows(given), (0, 1), value=1.0)
        products.append((cells.T @ cells, cells.T @ _rows(wanted)))
    if not products:
        raise ValueError("expected images to fit a fusion to, got none")
    gram, moment = (torch.stack(each).sum(dim=0) for each in zip(*products, strict=True))
    held = RIDGE * gram.diagonal()[:-1].mean() * torch.eye(len(gram), dtype=torch.double)
    held[-1, -1] = 0.0  # the constant's
    solution = torch.linalg.solve(gram + held, moment).T.float()
    return solution[:, :-1], solution[:, -1]


def _rows(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N h w, C), in double precision on the host."""
    return maps.float().movedim(1, -1).flatten(0, 2).double().cpu()


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
