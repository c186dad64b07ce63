"""Linear maps between features, fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.results import Task
from dff_ros.core.segmentation import SegmentationHead

RIDGE = 0.01
"""How strongly a regression is held to small weights, as a share of the given feature's mean energy."""


def regression(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weights (K, C) and bias (K,) that give maps (N, K, h, w) from maps (N, C, h, w), by ridge regression over all cells.

    On the host, in float32. Raises ValueError where there is no pair.
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


def linear_head(model: DeepFeatureFlow) -> SegmentationHead | None:
    """The segmentation head, where its scores are linear in the feature: behind blocks of its own what it reads cannot be solved for."""
    if Task.SEGMENTATION not in model.tasks or len(model.head(Task.SEGMENTATION).blocks):
        return None
    head: SegmentationHead = model.head(Task.SEGMENTATION)
    return head


def with_scores_kept(
    head: SegmentationHead, wanted: Callable[[Tensor], Tensor], weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """A linear map with what ``head`` reads of its answer replaced.

    ``weight`` is (C, G, I) and ``bias`` (C, G): G features from I inputs. ``wanted`` turns the head's (K, C) score weights into the
    scores (G, K, I) that the G features should have, mixtures of those that the inputs have.
    """
    score, score_bias = head.score.weight.detach()[:, :, 0, 0].cpu(), head.score.bias.detach().cpu()  # type: ignore[union-attr]
    read = torch.linalg.pinv(score)
    scores = wanted(score)
    # A part's scores have a bias of its own; a mixture of several parts' has the mixture of theirs.
    biases = wanted(score_bias[:, None]).sum(dim=-1) - score_bias
    weight, bias = weight.clone(), bias.clone()
    for group in range(weight.shape[1]):
        weight[:, group] += read @ (scores[group] - score @ weight[:, group])
        bias[:, group] += read @ (biases[group] - score @ bias[:, group])
    return weight, bias
