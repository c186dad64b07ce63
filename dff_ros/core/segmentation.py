"""N_task for segmentation: a 1x1 convolution to class scores, upsampled (DFF, sec. 4.1).

A cell may answer for ``subcells`` x ``subcells`` parts of itself (the sub-pixel convolution of Shi et al. 2016): a pole or a
sign is narrower than a cell, and the propagated feature stays as small as it was.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dff_ros.core.feature_network import head_blocks
from dff_ros.core.results import ImageGeometry, LabelMap, Task


class SegmentationHead(nn.Module):
    """Class scores of every feature cell, or of its ``subcells`` x ``subcells`` parts.

    ``blocks`` residual blocks of its own come before the scores, see :func:`dff_ros.core.feature_network.head_blocks`.
    """

    task = Task.SEGMENTATION

    def __init__(self, channels: int, *, classes: int, subcells: int = 1, blocks: int = 0) -> None:
        super().__init__()
        if subcells < 1:
            raise ValueError(f"subcells should be at least 1, got {subcells}")
        self.subcells = subcells
        self.blocks = head_blocks(channels, blocks)
        self.score = nn.Conv2d(channels, classes * subcells**2, 1)
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, channels, H, W) -> scores (N, classes, subcells * H, subcells * W), float32."""
        scores = self.score(self.blocks(feature.to(self.score.weight.dtype))).float()
        return F.pixel_shuffle(scores, self.subcells) if self.subcells > 1 else scores

    def decode(self, scores: Tensor, geometry: ImageGeometry) -> LabelMap:
        """The class of the highest score for each source pixel; ``scores`` is what :meth:`forward` gave for one image.

        Scores are upsampled bilinearly to the network's own input size and the class ids from there to the source by
        nearest neighbour: a network that saw 480x360 has nothing to say about finer pixels, and it saves the time.
        """
        labels = upsampled_classes(scores, geometry.padded_height, geometry.padded_width)[:, :, : geometry.height, : geometry.width]
        source = (geometry.source_height, geometry.source_width)
        if labels.shape[2:] != source:
            labels = F.interpolate(labels.float(), size=source, mode="nearest-exact")
        return LabelMap(labels[0, 0].byte().cpu().numpy())


def upsampled_classes(scores: Tensor, height: int, width: int) -> Tensor:
    """The class of the highest score at each pixel: ``scores`` (1, classes, h, w), upsampled bilinearly, -> (1, 1, height, width).

    On the host, a whole number of pixels to each score, it takes a fifth of the time of doing just that (480x360, scores at
    stride 4: 0.4 instead of 2.3 ms).
    """
    rows, columns = scores.shape[2:]
    if scores.device.type == "cpu" and not height % rows and not width % columns:
        classes = _classes_between_cells(scores[0].detach().float().numpy(), height // rows, width // columns)
        return torch.from_numpy(classes).view(1, 1, height, width)
    return F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False).argmax(dim=1, keepdim=True)


def _classes_between_cells(scores: NDArray[np.float32], factor_y: int, factor_x: int) -> NDArray[np.uint8]:
    """``upsampled_classes`` of ``scores`` (classes, h, w), ``factor_y`` x ``factor_x`` pixels to each.

    The pixels between the centres of four neighbouring cells (a tile) are convex blends of these four. So where one class is
    the best at all four it is the best in the whole tile, and scores need to be blended in the other tiles only: a tenth
    of a street scene.
    """
    rows, columns = scores.shape[1:]
    y = np.arange(-1, rows + 1).clip(0, rows - 1)  # the border's cells repeat outwards
    x = np.arange(-1, columns + 1).clip(0, columns - 1)
    best = _best_class(scores)[np.ix_(y, x)]
    first = best[:-1, :-1]
    tile_y, tile_x = np.nonzero((first != best[:-1, 1:]) | (first != best[1:, :-1]) | (first != best[1:, 1:]))
    tiles = np.repeat(first, factor_x, axis=1).reshape(rows + 1, 1, columns + 1, factor_x).repeat(factor_y, axis=1)

    top, bottom, left, right = y[tile_y] * columns, y[tile_y + 1] * columns, x[tile_x], x[tile_x + 1]
    corners = scores.reshape(len(scores), -1)[:, np.stack([top + left, top + right, bottom + left, bottom + right])]
    tiles[tile_y, :, tile_x] = _best_class(_shares(factor_y, factor_x) @ corners).T.reshape(-1, factor_y, factor_x)
    picture = tiles.reshape((rows + 1) * factor_y, (columns + 1) * factor_x)
    y0, x0 = (factor_y + 1) // 2, (factor_x + 1) // 2
    return np.ascontiguousarray(picture[y0 : y0 + rows * factor_y, x0 : x0 + columns * factor_x])


def _best_class(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The first of the highest ``scores`` (classes, ...): argmax over the first axis, which numpy and torch do far slower."""
    highest = scores[0]
    best = np.zeros(highest.shape, np.uint8)
    for index in range(1, len(scores)):
        np.putmask(best, scores[index] > highest, index)
        highest = np.maximum(highest, scores[index])
    return best


@functools.cache
def _shares(factor_y: int, factor_x: int) -> NDArray[np.float32]:
    """What each pixel of a tile (factor_y * factor_x, 4) reads of its upper left, upper right, lower left and lower right cell."""

    def along(factor: int) -> NDArray[np.float32]:
        after = (np.arange(factor, dtype=np.float32) + (0.0 if factor % 2 else 0.5)) / factor  # odd: one pixel lies on the cell's centre
        return np.stack([1 - after, after], axis=1)

    return np.kron(along(factor_y), along(factor_x)).astype(np.float32)
