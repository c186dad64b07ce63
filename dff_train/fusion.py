"""Where several looks at a frame are fused: each says what it sees in the feature that the heads already understand.

The fusions start as linear regressions, because trained looks err differently and their mean is better than what a fusion learns
freely on the stills that the looks were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.feature_network import PyramidFeatureNetwork
from dff_ros.core.look import Look, place_shares
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.refine_network import LookRefineNetwork
from dff_ros.core.results import Task
from dff_ros.core.segmentation import SegmentationHead

RIDGE = 0.01
"""How strongly the regression is held to small weights, as a share of the seen feature's mean energy."""


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
    weight, bias = _regression(look, trunk, wanted, images)
    # Behind blocks of the head's own scores are no longer linear in the feature: what it reads cannot be solved for.
    if Task.SEGMENTATION in model.tasks and not len(model.head(Task.SEGMENTATION).blocks):
        weight, bias = _with_scores_kept(model.head(Task.SEGMENTATION), look, weight, bias)
    look.conv.weight.copy_(weight.view(look.conv.weight.shape))
    look.conv.bias.copy_(bias)  # type: ignore[union-attr]


def _regression(
    look: Look, trunk: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], images: Iterable[Tensor]
) -> tuple[Tensor, Tensor]:
    """Weights (K, C p p) and bias (K,) of a look's map, K = C q q, by which ``trunk``'s view of each block gives ``wanted``'s cells.

    Ridge regression over all whole blocks; on the host, in float32. Raises ValueError where there is no image.
    """
    seen, cells = look.block
    products = []
    for image in images:
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            given, target = trunk(look.resized(image)), wanted(image)
        rows, columns = target.shape[2] // cells, target.shape[3] // cells
        target = F.pixel_unshuffle(target[:, :, : rows * cells, : columns * cells], cells)
        given = F.pixel_unshuffle(given[:, :, : rows * seen, : columns * seen], seen)
        blocks = F.pad(_rows(given), (0, 1), value=1.0)
        products.append((blocks.T @ blocks, blocks.T @ _rows(target)))
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


def _with_scores_kept(head: SegmentationHead, look: Look, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The map with what ``head`` reads of it replaced: each cell's scores become what the look itself would be given in its place."""
    cells = look.block[1]
    score, score_bias = head.score.weight.detach()[:, :, 0, 0].cpu(), head.score.bias.detach().cpu()  # type: ignore[union-attr]
    read = torch.linalg.pinv(score)
    wanted = scores_in_place(score, head.subcells, look.block)
    # A part's scores have a bias of its own; a mean over several parts' has the mean of theirs.
    wanted_bias = scores_in_place(score_bias[:, None], head.subcells, look.block).sum(dim=-1) - score_bias
    # Rows are the feature's channels with the row and column of the cell in its block, as pixel_shuffle reads them.
    weight, bias = weight.view(-1, cells**2, weight.shape[1]).clone(), bias.view(-1, cells**2).clone()
    for cell in range(cells**2):
        weight[:, cell] += read @ (wanted[cell] - score @ weight[:, cell])
        bias[:, cell] += read @ (wanted_bias[cell] - score @ bias[:, cell])
    return weight.flatten(0, 1), bias.flatten()


def scores_in_place(score: Tensor, subcells: int, block: tuple[int, int]) -> Tensor:
    """(q q, K s s, C p p): the scores of each part of each cell of a block, from the look's features of that block.

    ``score`` is (K s s, C), a cell's s x s parts for K classes; ``block`` is p and q: p x p cells of the look lie over q x q of
    the frame. Both have s x s parts, so a frame's part takes the mean over its place in those of the look.
    """
    seen, cells = block
    channels = score.shape[1]
    by_part = score.view(-1, subcells, subcells, channels)
    place = place_shares(seen * subcells, cells * subcells).view(cells, subcells, seen, subcells)
    # y, x: cell of the frame; r, c: part of it; v, u: cell of the look; a, b: part of that
    mixed = torch.einsum("yrva,xcub,kabi->yxkrcivu", place, place, by_part)
    return mixed.reshape(cells**2, score.shape[0], channels * seen**2)
