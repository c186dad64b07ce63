"""Signals of a propagated frame against slow, obvious ones, and the estimator over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dff_ros.core.half_cells import HalfCells
from dff_ros.core.propagate import FlowFields, propagate
from dff_ros.core.segmentation import SegmentationHead
from dff_ros.core.signals import SIGNALS, Estimator, Signals, doubt, estimator_from, mean_over_cells, measure_signals, surprise


def test_cells_are_means() -> None:
    image = torch.rand(2, 3, 8, 12)
    cells = mean_over_cells(image, 4)
    assert cells.shape == (2, 3, 2, 3)
    torch.testing.assert_close(cells[1, 2, 1, 0], image[1, 2, 4:8, 0:4].mean())


def test_nothing_moved_and_nothing_changed() -> None:
    cells = torch.rand(1, 3, 5, 7)
    measured = measure_signals(cells, cells, torch.rand(1, 1, 5, 7), torch.zeros(1, 2, 5, 7), age=3)
    assert (measured.age, measured.doubtful_roughness, measured.own_motion, measured.out_of_view) == (3, 0.0, 0.0, 0.0)
    assert measured.residual == pytest.approx(0.0, abs=1e-6) and measured.doubtful_residual == pytest.approx(0.0, abs=1e-6)


def test_a_turn_of_the_camera_leaves_no_residual_but_a_border_out_of_view() -> None:
    key = torch.rand(1, 3, 6, 10)
    current = torch.cat([key[..., 2:], torch.rand(1, 3, 6, 2)], dim=3)
    flow = torch.zeros(1, 2, 6, 10)
    flow[:, 0] = 2.0  # what is seen now stood two cells further right in the key frame
    measured = measure_signals(current, key, torch.ones(1, 1, 6, 10), flow, age=1)
    assert measured.residual == pytest.approx(0.0, abs=1e-6)
    assert measured.out_of_view == pytest.approx(0.2)
    assert (measured.own_motion, measured.doubtful_roughness) == (0.0, 0.0)


def test_residual_and_motion_of_a_part() -> None:
    key, current = torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    current[:, :, 1, 1] = 0.5
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 1, 3, :] = -1.0
    unsure = torch.zeros(1, 1, 4, 5)
    unsure[0, 0, 1, 1], unsure[0, 0, 2] = 0.25, 0.4
    measured = measure_signals(current, key, unsure, flow, age=2)
    assert measured.residual == pytest.approx(0.5 / 20)
    assert measured.doubtful_residual == pytest.approx(0.25 * 0.5 / 20)
    assert measured.own_motion == pytest.approx(5 / 20)
    assert measured.doubtful_roughness == pytest.approx(0.4 * 5 / 20)  # five borders of one cell each, below the third row
    assert measure_signals(current, key, torch.ones(1, 1, 4, 5), flow, age=2).doubtful_roughness == pytest.approx(5 / 20)


@pytest.mark.parametrize("subcells", [1, 2])
def test_doubt_is_what_the_likeliest_class_lacks_of_a_clear_lead(subcells: int) -> None:
    torch.manual_seed(1)
    head, feature = SegmentationHead(6, classes=4, subcells=subcells), 30 * torch.randn(1, 6, 3, 5)
    best = head(feature).detach().softmax(dim=1)[0].topk(2, dim=0).values
    lead = best[0] - best[1]
    expected = [[1 - lead[y * subcells :, x * subcells :][:subcells, :subcells].mean() for x in range(5)] for y in range(3)]
    found = doubt(head, feature).detach()
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    assert 0.05 < float(found.mean()) < 0.9


def test_the_estimator_is_a_product_of_powers() -> None:
    estimator = Estimator({"residual": 0.5, "age": 1.0}, bias=-2.0)
    signals = Signals(3, 0.04, 0.0, 0.0, 0.0, 0.0)
    assert estimator(signals) == pytest.approx(math.exp(-2.0) * math.sqrt(0.0401) * 3)
    assert Estimator({"age": 5.0}, bias=0.0)(signals) == 1.0  # a share
    assert estimator_from({"weights": {"residual": 0.5, "age": 1}, "bias": -2}) == estimator


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {"colour": 1.0}, "bias": 0.0}, f"signals should be some of {', '.join(SIGNALS)}, got colour"),
        ({"weights": {}, "bias": 0.0}, "got none"),
        ({"bias": 0.0}, "should have weights, bias and surprise"),
        ({"weights": [1.0], "bias": 0.0}, "should have weights, bias and surprise"),
        ({"weights": {"age": math.nan}, "bias": 0.0}, "finite"),
    ],
)
def test_what_is_no_estimator_is_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator_from(content)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("subcells", [1, 2])
def test_surprise_is_the_share_of_cells_with_another_class(subcells: int, scaled: bool) -> None:
    torch.manual_seed(0)
    head = SegmentationHead(6, classes=4, subcells=subcells)
    key_feature, fresh = torch.randn(1, 6, 9, 11), torch.randn(1, 6, 9, 11)
    fields = FlowFields(torch.randn(1, 2, 9, 11) * 2, torch.rand(1, 6, 9, 11) + 0.5 if scaled else None)

    def classes(feature: Tensor) -> Tensor:
        return head(feature).argmax(dim=1)

    whole = float((classes(propagate(key_feature, fields)) != classes(fresh)).float().mean())
    with torch.inference_mode():
        assert surprise(head, key_feature, fields, fresh) == pytest.approx(whole)  # so few cells are all looked at
        assert surprise(head, fresh, FlowFields(torch.zeros(1, 2, 9, 11)), fresh) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("dense", [False, True])
def test_surprise_reads_what_is_warped_and_blocks_look_around(blocks: int, dense: bool) -> None:
    torch.manual_seed(0)
    head = SegmentationHead(6, classes=4, blocks=blocks).eval()
    for block in head.blocks:
        torch.nn.init.ones_(block.bn2.weight)
    key_feature, fresh = torch.randn(1, 6, 40, 44), torch.randn(1, 6, 40, 44)
    fields = FlowFields(torch.randn(1, 2, 40, 44) * 2)
    with torch.inference_mode():
        key_map = HalfCells(6)(key_feature + 1) if dense else key_feature
        differs = (head(propagate(key_map, fields)).argmax(1) != head(fresh).argmax(1)).float()
        expected = differs if blocks else differs[:, 1::2, 1::2]
        assert surprise(head, key_map, fields, fresh) == pytest.approx(float(expected.mean()))


def test_surprise_of_a_large_feature_is_sampled() -> None:
    torch.manual_seed(0)
    head = SegmentationHead(4, classes=3)
    fresh = torch.randn(1, 4, 60, 80)
    key_feature = fresh.clone()
    key_feature[:, :, :30] = torch.randn(1, 4, 30, 80)  # half of it is another scene, where two of three classes differ
    whole = float((head(key_feature).argmax(1) != head(fresh).argmax(1)).float().mean())
    assert surprise(head, key_feature, FlowFields(torch.zeros(1, 2, 60, 80)), fresh) == pytest.approx(whole, abs=0.06)


@pytest.mark.parametrize("size", [(1, 1000), (900, 1), (1, 1)])
def test_surprise_of_a_feature_that_is_one_cell_high_or_wide(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = SegmentationHead(4, classes=3)
    key_feature, fresh = torch.randn(1, 4, *size), torch.randn(1, 4, *size)
    whole = float((head(key_feature).argmax(1) != head(fresh).argmax(1)).float().mean())
    assert surprise(head, key_feature, FlowFields(torch.zeros(1, 2, *size)), fresh) == pytest.approx(whole, abs=0.06)
