"""The segmentation head: class maps at source size, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dff_ros.core.results import ImageGeometry
from dff_ros.core.segmentation import SegmentationHead, upsampled_classes


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


@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (4, 4), (8, 8), (3, 3), (5, 2), (1, 4)])
@pytest.mark.parametrize("smooth", [True, False])
def test_classes_between_cells_are_those_of_upsampled_scores(factors: tuple[int, int], smooth: bool) -> None:
    scores = torch.randn(1, 7, 10, 13, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if smooth:  # regions, as in a picture: in most places all four cells agree
        scores = F.interpolate(scores[:, :, :3, :3], size=(10, 13), mode="bicubic")
    if set(factors) <= {1, 2, 4, 8}:
        scores = (scores * 256).round() / 256  # as from a half-precision head: blends are exact, and so are ties
    height, width = 10 * factors[0], 13 * factors[1]
    expected = F.interpolate(scores, size=(height, width), mode="bilinear").argmax(dim=1, keepdim=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        classes = upsampled_classes(scores.float().contiguous(memory_format=layout), height, width)
        assert classes.dtype == torch.uint8 and torch.equal(classes.long(), expected)


def test_of_equal_scores_the_first_class_is_taken() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 0.5]).view(1, 4, 1, 1).repeat(1, 1, 3, 4)
    assert (upsampled_classes(scores, 12, 16) == 1).all()


def test_scores_of_which_no_whole_number_of_pixels_shows_each_are_upsampled_too() -> None:
    scores = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(3))
    expected = F.interpolate(scores, size=(10, 13), mode="bilinear").argmax(dim=1, keepdim=True)
    assert torch.equal(upsampled_classes(scores, 10, 13), expected)


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


def residual_block(feature: torch.Tensor, block: torch.nn.Module) -> torch.Tensor:
    """He et al. 2016, with batch norm's running statistics, from the block's weights alone."""

    def layer(maps: torch.Tensor, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return F.conv2d(maps, conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale, padding=1)

    return (layer(layer(feature, block.conv1, block.bn1).clamp(min=0), block.conv2, block.bn2) + feature).clamp(min=0)


def test_blocks_of_its_own_come_before_the_scores() -> None:
    torch.manual_seed(0)
    head = SegmentationHead(6, classes=2, blocks=2).eval()
    for value in head.blocks.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.1, 0.5)
    feature = torch.rand(1, 6, 4, 5)
    with torch.no_grad():
        seen = residual_block(residual_block(feature, head.blocks[0]), head.blocks[1])
        expected = torch.einsum("kc,chw->khw", head.score.weight[:, :, 0, 0], seen[0]) + head.score.bias[:, None, None]
        torch.testing.assert_close(head(feature)[0], expected)


def test_fresh_blocks_leave_the_scores_of_a_rectified_feature_as_they_were() -> None:
    feature = torch.rand(1, 8, 4, 5)
    plain, split = SegmentationHead(8, classes=3), SegmentationHead(8, classes=3, blocks=2).eval()
    assert split.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    assert torch.equal(split(feature), plain(feature))
    assert set(plain.state_dict()) == {"score.weight", "score.bias"}, "bundles of heads without blocks fit as they did"


def test_fewer_than_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks should be at least 0, got -1"):
        SegmentationHead(3, classes=2, blocks=-1)
