"""Where several looks at a frame are fused: each says what it sees in the feature that the heads already understand.

The fusions start as linear regressions, because trained looks err differently and their mean is better than what a fusion learns
freely on the stills that the looks were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.feature_network import PyramidFeatureNetwork
from dff_ros.core.look import Look, place_shares
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.refine_network import LookRefineNetwork
from dff_train.precision import mixed_precision
from dff_train.regression import linear_head, regression, with_scores_kept


@torch.no_grad()
def fit_fusion(model: DeepFeatureFlow, images: Iterable[Tensor]) -> None:
    """Set the looks of a model whose trunk and heads were trained at one size, from ``images`` (N, 3, H, W) in 0..1.

    What a look sees becomes, by linear regression, the trunk's own feature of the frame as it is, so that every head understands it.
    Within what the segmentation head reads, it is corrected so that a cell's scores become exactly the mean of the scores of all looks:
    those of a larger one are of a denser grid, and each of a cell's parts takes the mean over its place.
    Raises ValueError where the model's feature network is no pyramid.
    """
    network = model.feature_network
    if not isinstance(network, PyramidFeatureNetwork):
        raise ValueError(f"feature_network should be a pyramid to have a fusion, got {type(network).__name__}")
    network.eval()
    stills = list(images)
    trunk = network.trunk
    for look in network.looks:
        _fit(look, trunk, trunk, model, stills)


@torch.no_grad()
def fit_look(model: DeepFeatureFlow, images: Iterable[Tensor]) -> None:
    """Set how the branch's small look is spread over the feature's cells: the regression of the feature of the whole network.

    What the segmentation head reads becomes, as in :func:`fit_fusion`, what it would say of the look itself (mIoU of a look at half size
    on new frames: .59, by regression alone .49). Raises ValueError where the model's branch is no look.
    """
    branch = model.refine_network
    if not isinstance(branch, LookRefineNetwork):
        raise ValueError(f"refine_network should be a look to have its spread fitted, got {type(branch).__name__}")
    model.feature_network.eval()
    branch.eval()
    _fit(branch.spread, branch.trunk, model.feature_network, model, images)


def _fit(
    look: Look,
    trunk: Callable[[Tensor], Tensor],
    wanted: Callable[[Tensor], Tensor],
    model: DeepFeatureFlow,
    images: Iterable[Tensor],
) -> None:
    """Have ``look`` tell what ``trunk`` sees in the words of ``wanted``'s feature, and the segmentation head what it would say of it."""
    weight, bias = regression(_blocks(look, trunk, wanted, image) for image in images)
    # Rows are the feature's channels with the row and column of the cell in its block, as pixel_shuffle reads them.
    cells = look.block[1] ** 2
    weight, bias = weight.view(-1, cells, weight.shape[1]), bias.view(-1, cells)
    head = linear_head(model)
    if head is not None:
        weight, bias = with_scores_kept(head, lambda score: scores_in_place(score, head.subcells, look.block), weight, bias)
    look.conv.weight.copy_(weight.reshape(look.conv.weight.shape))
    look.conv.bias.copy_(bias.flatten())  # type: ignore[union-attr]


@torch.no_grad()
def fit_half_cells(model: DeepFeatureFlow, images: Iterable[Tensor]) -> None:
    """Set what the warp reads between the cells of a key frame: the regression of the feature of the frame moved by half a cell.

    What the segmentation head reads is not made exact here as in :func:`fit_fusion`: that gained .002 mIoU and cost the boxes, which read
    the same channels, .05 AP50. Raises ValueError where the model has no half cells.
    """
    if model.half_cells is None:
        raise ValueError("half_cells should be in the card to be fitted, got none")
    network = model.feature_network.eval()
    stills = list(images)
    fitted = [regression(_between(network, image, down, right) for image in stills) for down, right in ((0, 1), (1, 0), (1, 1))]
    conv = model.half_cells.conv
    conv.weight.copy_(torch.cat([weight.reshape(-1, *conv.weight.shape[1:]) for weight, _ in fitted]))
    conv.bias.copy_(torch.cat([bias for _, bias in fitted]))


def _blocks(look: Look, trunk: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    """What ``trunk`` sees of each whole block, (N, C p p, h, w), and ``wanted``'s cells of that block, (N, C q q, h, w)."""
    seen, cells = look.block
    with mixed_precision(image.device):
        given, target = trunk(look.resized(image)), wanted(image)
    rows, columns = target.shape[2] // cells, target.shape[3] // cells
    target = F.pixel_unshuffle(target[:, :, : rows * cells, : columns * cells], cells)
    return F.pixel_unshuffle(given[:, :, : rows * seen, : columns * seen], seen), target


def _between(network: Any, image: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """The four cells around each place between cells, (N, 4 C, h - 1, w - 1), and the feature of the frame moved there."""
    half = network.stride // 2
    moved = F.pad(image, (0, right * half, 0, down * half), mode="replicate")[:, :, down * half :, right * half :]
    with mixed_precision(image.device):
        feature, target = network(image), network(moved)
    height, width = feature.shape[2] - 1, feature.shape[3] - 1
    around = F.unfold(feature.float(), 2).view(len(image), -1, height, width)
    return around, target[:, :, :height, :width]


def scores_in_place(score: Tensor, subcells: int, block: tuple[int, int]) -> Tensor:
    """(q q, K s s, C p p): the scores of each part of each cell of a block, from the look's features of that block.

    ``score`` is (K s s, C), a cell's s x s parts for K classes; ``block`` is p and q: p x p cells of the look lie over q x q of
    the frame. Both have s x s parts, so a frame's part takes the mean over its place in those of the look.
    """
    seen, cells = block
    by_part = score.view(-1, subcells, subcells, score.shape[1])
    place = place_shares(seen * subcells, cells * subcells).view(cells, subcells, seen, subcells)
    # y, x: cell of the frame; r, c: part of it; v, u: cell of the look; a, b: part of that
    mixed = torch.einsum("yrva,xcub,kabi->yxkrcivu", place, place, by_part)
    return mixed.reshape(cells**2, score.shape[0], -1)
