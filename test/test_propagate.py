"""The warp against the paper's sum, its gradient, and facts that a reader can check by eye."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dff_ros.core.propagate import FlowFields, chain, propagate, sample, warp


def slow_warp(key_feature: Tensor, flow: Tensor) -> Tensor:
    """DFF eq. 2-3 as written: f(p) = sum over q of G(q, p + flow(p)) f_k(q), G(q, r) = max(0, 1-|qx-rx|) max(0, 1-|qy-ry|)."""
    batch, _, height, width = key_feature.shape
    result = torch.zeros_like(key_feature)
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                rx, ry = x + float(flow[n, 0, y, x]), y + float(flow[n, 1, y, x])
                for qy in range(height):
                    for qx in range(width):
                        weight = max(0.0, 1 - abs(qx - rx)) * max(0.0, 1 - abs(qy - ry))
                        result[n, :, y, x] += weight * key_feature[n, :, qy, qx]
    return result


@pytest.mark.parametrize("size", [(4, 5), (1, 6), (5, 1), (1, 1)])
@pytest.mark.parametrize("reach", [0.0, 0.7, 3.0, 1e12])
@pytest.mark.parametrize("learning", [False, True])
def test_the_warp_is_the_papers_sum(size: tuple[int, int], reach: float, learning: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    key_feature = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    flow = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64) * reach
    expected = slow_warp(key_feature, flow)
    warped = warp(key_feature.requires_grad_(learning), flow)  # with and without a gradient it is computed in two ways
    assert warped.requires_grad == learning
    torch.testing.assert_close(warped.detach(), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [(4, 5), (1, 6), (5, 1), (1, 1)])
def test_a_sample_outside_the_map_is_zero_and_at_its_edge_fades(size: tuple[int, int]) -> None:
    height, width = size
    x = torch.tensor([[[-1.0, -0.5, 0.0, width - 0.5, width]]])
    position = torch.stack([x, torch.zeros_like(x)], dim=1)
    for maps, places in ((torch.ones(1, 1, height, width), position), (torch.ones(1, 1, width, height), position.flip(1))):
        torch.testing.assert_close(sample(maps, places), torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0]).view(1, 1, 1, 5))


def test_the_warp_without_gradient_is_the_one_with() -> None:
    generator = torch.Generator().manual_seed(3)
    feature, flow = torch.randn(2, 16, 45, 60, generator=generator), torch.randn(2, 2, 45, 60, generator=generator) * 10
    for layout in (torch.contiguous_format, torch.channels_last):
        key_feature = feature.contiguous(memory_format=layout)
        learned = warp(key_feature.clone().requires_grad_(), flow).detach()
        torch.testing.assert_close(warp(key_feature, flow), learned, atol=1e-4, rtol=0)
        with torch.inference_mode():
            torch.testing.assert_close(warp(key_feature, flow), learned, atol=1e-4, rtol=0)


def test_zero_flow_returns_the_feature_unchanged() -> None:
    feature = torch.randn(1, 8, 45, 60)
    torch.testing.assert_close(warp(feature, torch.zeros(1, 2, 45, 60)), feature, atol=1e-4, rtol=0)


def test_positive_dx_reads_from_the_right_and_positive_dy_from_below() -> None:
    feature = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1.0
    torch.testing.assert_close(warp(feature, flow)[0, 0, :, :3], feature[0, 0, :, 1:])
    assert warp(feature, flow)[0, 0, :, 3].abs().max() < 1e-6  # beyond the right edge there is nothing
    torch.testing.assert_close(warp(feature, flow.flip(1))[0, 0, :2], feature[0, 0, 1:])


def test_the_gradient_reaches_feature_flow_and_scale() -> None:
    generator = torch.Generator().manual_seed(2)
    feature, scale = (torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    # Away from whole cells, where the bilinear kernel has a kink.
    flow = (torch.rand(1, 2, 3, 4, generator=generator, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, m, s: propagate(f, FlowFields(m, s)), (feature, flow, scale))


@pytest.mark.parametrize("learning", [False, True])
def test_half_precision_flow_does_not_lose_cells(learning: bool) -> None:
    feature = torch.randn(1, 2, 4, 300, requires_grad=learning)
    flow = torch.zeros(1, 2, 4, 300, dtype=torch.bfloat16)
    torch.testing.assert_close(warp(feature, flow), feature, atol=1e-4, rtol=0)


def test_propagate_multiplies_the_warped_feature_by_the_scale() -> None:
    feature, flow = torch.randn(1, 3, 4, 5), torch.randn(1, 2, 4, 5)
    scale = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(propagate(feature, FlowFields(flow, scale)), warp(feature, flow) * scale)
    torch.testing.assert_close(propagate(feature, FlowFields(flow)), warp(feature, flow))


def test_fields_that_do_not_fit_are_refused_with_both_shapes() -> None:
    feature = torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"flow should be \(1, 2, 4, 5\), got \(1, 2, 2, 5\)"):
        warp(feature, torch.zeros(1, 2, 2, 5))
    with pytest.raises(ValueError, match=r"scale should be \(1, 3, 4, 5\), got \(1, 1, 4, 5\)"):
        propagate(feature, FlowFields(torch.zeros(1, 2, 4, 5), torch.zeros(1, 1, 4, 5)))


def slow_chain(step: Tensor, earlier: Tensor) -> Tensor:
    """step(p) + earlier(p + step(p)) for flows (2, H, W) in cells of their own grid, one place at a time, held to the map."""
    height, width = step.shape[1:]
    chained = torch.empty_like(step)
    for y in range(height):
        for x in range(width):
            across = min(max(x + float(step[0, y, x]), 0.0), width - 1.0)
            down = min(max(y + float(step[1, y, x]), 0.0), height - 1.0)
            left, top = min(int(across), width - 2), min(int(down), height - 2)
            right, below = across - left, down - top
            shares = torch.tensor([[1 - below], [below]]) * torch.tensor([[1 - right, right]])
            chained[:, y, x] = step[:, y, x] + (earlier[:, top : top + 2, left : left + 2] * shares).sum(dim=(1, 2))
    return chained


def test_a_chain_of_two_steps_is_their_flows_one_after_the_other() -> None:
    step, earlier = torch.empty(1, 2, 4, 6).uniform_(-1.5, 1.5), torch.randn(1, 2, 4, 6)
    torch.testing.assert_close(chain(FlowFields(step), FlowFields(earlier)).flow[0], slow_chain(step[0], earlier[0]))


def with_fine(fine: Tensor, density: int) -> FlowFields:
    return FlowFields(F.avg_pool2d(fine, density), fine=fine)


def test_flow_within_cells_is_what_is_chained_where_both_have_it() -> None:
    step, earlier = (torch.empty(2, 2, 6, 9).uniform_(-1.5, 1.5) for _ in range(2))
    chained = chain(with_fine(step, 3), with_fine(earlier, 3))
    # A third of a cell to each value: within their own grid flows are three times as long.
    expected = torch.stack([slow_chain(one * 3, other * 3) / 3 for one, other in zip(step, earlier, strict=True)])
    assert chained.fine is not None
    torch.testing.assert_close(chained.fine, expected)
    torch.testing.assert_close(chained.flow, expected.view(2, 2, 2, 3, 3, 3).mean(dim=(3, 5)))
    still = with_fine(torch.zeros_like(step), 3)
    torch.testing.assert_close(chain(still, with_fine(earlier, 3)).fine, earlier)


def test_flow_is_chained_from_cell_to_cell_where_one_has_nothing_within_cells() -> None:
    step, earlier = (torch.empty(1, 2, 6, 9).uniform_(-1.5, 1.5) for _ in range(2))
    coarse = FlowFields(F.avg_pool2d(earlier, 3))
    for chained in (chain(with_fine(step, 3), coarse), chain(coarse, with_fine(step, 3))):
        assert chained.fine is None
    torch.testing.assert_close(chain(with_fine(step, 3), coarse).flow, chain(FlowFields(F.avg_pool2d(step, 3)), coarse).flow)


def test_flow_is_chained_from_cell_to_cell_where_the_two_have_other_numbers_within_cells() -> None:
    step, earlier = (torch.empty(1, 2, 2 * density, 3 * density).uniform_(-1.5, 1.5) for density in (3, 2))
    chained = chain(with_fine(step, 3), with_fine(earlier, 2))
    assert chained.fine is None
    torch.testing.assert_close(chained.flow, chain(FlowFields(F.avg_pool2d(step, 3)), FlowFields(F.avg_pool2d(earlier, 2))).flow)


def test_a_small_thing_keeps_its_own_motion_over_many_steps() -> None:
    # Three quarters of a cell wide, on a background that stands still; it has come a quarter of a cell with each of eight frames.
    density, steps = 4, 8

    def at(frame: int) -> FlowFields:
        fine = torch.zeros(1, 2, 4 * density, 8 * density)
        fine[:, 0, :, 8 + frame : 11 + frame] = -1 / density
        return with_fine(fine, density)

    fine = cells = at(1)
    for frame in range(2, steps + 1):
        fine = chain(at(frame), fine)
        cells = chain(FlowFields(at(frame).flow), FlowFields(cells.flow))
    assert fine.fine is not None
    now = 8 + steps
    assert fine.fine[0, 0, 5, now : now + 3].tolist() == [-2.0] * 3
    came = (now // density, (now + 3) // density)  # the cells in which it is now
    found, blurred = (float(flow[0, 0, 1, came[0] : came[1] + 1].min()) for flow in (fine.flow, cells.flow))
    assert found == -1.5, "it fills three quarters of its cell"
    assert blurred > -0.75, "from cell to cell it takes on the background's motion"


def test_a_chain_multiplies_scales_where_they_were() -> None:
    step = FlowFields(torch.zeros(1, 2, 2, 3), torch.full((1, 1, 2, 3), 2.0))
    step.flow[:, 0] = 1.0
    earlier = FlowFields(torch.zeros(1, 2, 2, 3), torch.arange(6.0).view(1, 1, 2, 3))
    scale = chain(step, earlier).scale
    assert scale is not None
    assert scale[0, 0].tolist() == [[2.0, 4.0, 4.0], [8.0, 10.0, 10.0]]


def test_a_chain_wants_scales_in_both_or_in_none() -> None:
    flow = torch.zeros(1, 2, 2, 3)
    with pytest.raises(ValueError, match="both have a scale or both none"):
        chain(FlowFields(flow, torch.ones(1, 1, 2, 3)), FlowFields(flow))
    with pytest.raises(ValueError, match=r"flow should be \(1, 2, 2, 3\), got \(1, 2, 3, 3\)"):
        chain(FlowFields(flow), FlowFields(torch.zeros(1, 2, 3, 3)))


@pytest.mark.parametrize("shape", [(1, 2, 8, 24), (2, 2, 8, 12), (1, 2, 3, 5), (1, 2, 9, 12)])
def test_flow_within_cells_has_as_many_values_a_side_of_each_cell(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"for the flow \(1, 2, 4, 6\), got"):
        FlowFields(torch.zeros(1, 2, 4, 6), fine=torch.zeros(shape))


def test_what_is_done_to_fields_is_done_to_each_member_that_both_have() -> None:
    flow, scale, fine = torch.randn(3, 2, 2, 3), torch.randn(3, 4, 2, 3), torch.randn(3, 2, 4, 6)
    fields = FlowFields(flow, scale, fine)
    some = fields.rows([2, 0])
    assert some.scale is not None and some.fine is not None
    for member, given in ((some.flow, flow), (some.scale, scale), (some.fine, fine)):
        assert torch.equal(member, given[[2, 0]])
    both = fields.with_other(FlowFields(flow, fine=fine), torch.add)
    assert both.scale is None and both.fine is not None
    assert torch.equal(both.flow, 2 * flow) and torch.equal(both.fine, 2 * fine)
