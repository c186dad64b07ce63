"""A look at another size: what it is shown, and where what it sees is told."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dff_ros.core.look import Look, place_shares


@pytest.mark.parametrize("scale", ["1/2", "2/3", 0.75, 1, 1.5, 2, "4/3"])
@pytest.mark.parametrize("size", [(5, 7), (12, 12)])
def test_an_unfitted_look_tells_the_mean_of_what_it_sees_in_each_cell(scale: float | str, size: tuple[int, int]) -> None:
    look = Look(3, stride=8, scale=scale)
    seen, cells = look.block
    shown = look.resized(torch.rand(1, 3, 8 * size[0], 8 * size[1]))
    assert [shown.shape[2] * cells / seen, shown.shape[3] * cells / seen] == [-(-side // cells) * cells * 8 for side in size]
    feature = torch.rand(1, 3, shown.shape[2] // 8, shown.shape[3] // 8)
    finer = feature.repeat_interleave(cells, 2).repeat_interleave(cells, 3)
    expected = F.avg_pool2d(finer, seen)[:, :, : size[0], : size[1]]
    torch.testing.assert_close(look(feature, size), expected)


def test_a_look_is_shown_the_frame_resized() -> None:
    image = torch.rand(2, 3, 48, 80)
    torch.testing.assert_close(Look(1, stride=8, scale=0.5).resized(image), F.avg_pool2d(image, 2))
    assert Look(1, stride=8, scale=1).resized(image) is image
    assert Look(1, stride=8, scale="3/2").resized(image).shape == (2, 3, 72, 120)
    assert Look(1, stride=8, scale="3/2").resized(image[:, :, :40, :72]).shape == (2, 3, 72, 120)  # continued to whole blocks


def test_shares_of_places_by_hand() -> None:
    torch.testing.assert_close(place_shares(2, 3), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    torch.testing.assert_close(place_shares(3, 2), torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]) / 3.0)


@pytest.mark.parametrize("scale", ["half", "2/0", 0, -1, 1.3, 5, "1/5"])
def test_scales_that_cannot_be_are_refused(scale: float | str) -> None:
    with pytest.raises(ValueError, match="scale should be a (number|fraction)"):
        Look(1, stride=8, scale=scale)
