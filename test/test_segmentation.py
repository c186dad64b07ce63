"""The segmentation head: class maps at source size, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dff_ros.core.results import ImageGeometry
from dff_ros.core.segmentation import SegmentationHead


def bilinear(scores: np.ndarray, y: float, x: float) -> np.ndarray:
    """Scores (K, H, W) at a point in cell coordinates, the border repeated."""
    height, width = scores.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = scores[:, y0, x0] * (1 - x + x0) + scores[:, y0, x1] * (x - x0)
    bottom = scores[:, y1, x0] * (1 - x + x0) + scores[:, y1, x1] * (x - x0)
    result: np.ndarray = top * (1 - y + y0) + bottom * (y - y0)
    return result


def test_decode_is_the_argmax_of_bilinearly_upsampled_scores_without_the_padding() -> None:
    scores = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    geometry = ImageGeometry(source_height=27, source_width=45, height=27, width=45, padded_height=32, padded_width=48)
    labels = SegmentationHead(3, classes=5).decode(scores, geometry).labels
    assert labels.shape == (27, 45) and labels.dtype == np.uint8
    for y in range(27):
        for x in range(45):
            assert labels[y, x] == bilinear(scores[0].double().numpy(), (y + 0.5) / 8 - 0.5, (x + 0.5) / 8 - 0.5).argmax()


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_sources_repeat_the_networks_pixels(factor: int) -> None:
    scores = torch.randn(1, 4, 3, 4, generator=torch.Generator().manual_seed(1))
    head = SegmentationHead(3, classes=4)
    small = head.decode(scores, ImageGeometry(24, 32, 24, 32, 24, 32)).labels
    large = head.decode(scores, ImageGeometry(24 * factor, 32 * factor, 24, 32, 24, 32)).labels
    np.testing.assert_array_equal(large, small.repeat(factor, axis=0).repeat(factor, axis=1))


def test_scores_are_a_pointwise_map_of_the_feature() -> None:
    head = SegmentationHead(3, classes=2)
    feature = torch.randn(1, 3, 4, 5)
    expected = torch.einsum("kc,chw->khw", head.score.weight[:, :, 0, 0], feature[0]) + head.score.bias[:, None, None]
    torch.testing.assert_close(head(feature)[0], expected)


def test_subcells_are_the_parts_of_their_cell() -> None:
    head = SegmentationHead(3, classes=2, subcells=2)
    feature = torch.randn(1, 3, 4, 5)
    scores = head(feature)
    assert scores.shape == (1, 2, 8, 10)
    weight = head.score.weight[:, :, 0, 0].view(2, 2, 2, 3)  # class, row and column within the cell, channel
    expected = torch.einsum("kijc,chw->khiwj", weight, feature[0]).reshape(2, 8, 10)
    torch.testing.assert_close(scores[0], expected + head.score.bias.view(2, 2, 2).repeat(1, 4, 5))


def test_subcells_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="subcells should be at least 1, got 0"):
        SegmentationHead(3, classes=2, subcells=0)
