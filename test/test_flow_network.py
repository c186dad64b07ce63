"""Flow networks: direction and unit of the flow, the paper's costs, and the scale that starts as identity."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_feature_network import gmac

from dff_ros.core.flow_network import COARSE_CELLS, FLOWNETS, DISFlow, FlowNetS, StillFlow
from dff_ros.core.propagate import propagate


def textured_image(height: int = 128, width: int = 160) -> np.ndarray:
    """Smooth noise, (H, W, 3) in 0..1: something that flow can hold on to."""
    noise = np.random.default_rng(3).random((height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 1, cv2.NORM_MINMAX)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0)


@pytest.mark.parametrize(("dx", "dy"), [(8, 0), (0, -8), (-12, 4)])
def test_dis_flow_points_from_the_current_frame_to_the_key_in_feature_cells(dx: int, dy: int) -> None:
    """The content of the key frame stands (dx, dy) pixels further on; so current(p) = key(p + (dx, dy))."""
    image = textured_image()
    key = np.roll(image, (dy, dx), axis=(0, 1))
    network = DISFlow(stride=8)
    flow = network(network.prepare(to_tensor(image)), network.prepare(to_tensor(key))).flow
    assert flow.shape == (1, 2, 16, 20)
    inner = flow[0, :, 4:-4, 4:-4].flatten(1).median(dim=1).values
    torch.testing.assert_close(inner, torch.tensor([dx / 8, dy / 8]), atol=0.2, rtol=0)  # a fifth of a cell is 1.6 px


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(36, 48), (37, 49)])
def test_dis_reads_grey_levels_of_half_the_size(layout: torch.memory_format, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    prepared = DISFlow(stride=8).prepare(image)
    assert prepared.shape == (2, 18, 24) and prepared.dtype == torch.uint8
    half = (image[..., :36:2, :48:2] + image[..., 1:36:2, :48:2] + image[..., :36:2, 1:48:2] + image[..., 1:36:2, 1:48:2]) / 4
    grey = half[:, 0] * 0.299 + half[:, 1] * 0.587 + half[:, 2] * 0.114
    assert (prepared.float() - grey * 255).abs().max() <= 0.5001


def test_dis_flow_of_a_cell_is_the_mean_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    network = DISFlow(stride=8)
    pixels = torch.randn(20, 24, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(network, "_flow", lambda current, key: pixels.numpy())
    fields = network(torch.zeros(1, 20, 24, dtype=torch.uint8), torch.zeros(1, 20, 24, dtype=torch.uint8))
    assert fields.fine is not None
    torch.testing.assert_close(fields.fine[0], pixels.permute(2, 0, 1) / 4)
    flow = fields.flow
    expected = pixels.view(5, 4, 6, 4, 2).mean(dim=(1, 3)).permute(2, 0, 1) / 4  # half-size pixels per cell
    torch.testing.assert_close(flow[0], expected)


@pytest.mark.parametrize(("size", "cells"), [((128, 160), (16, 20)), ((134, 150), (16, 18)), ((24, 38), (3, 4))])
def test_dis_flow_within_cells_has_the_cells_flow_as_its_mean(size: tuple[int, int], cells: tuple[int, int]) -> None:
    image, network = textured_image(*size), DISFlow(stride=8)
    fields = network(network.prepare(to_tensor(image)), network.prepare(to_tensor(np.roll(image, 6, axis=1))))
    assert fields.flow.shape == (1, 2, *cells)
    assert fields.fine is not None and fields.fine.shape == (1, 2, 4 * cells[0], 4 * cells[1]), "what fills no cell is left out"
    assert bool(fields.fine.any()) == (min(size) >= 32), "what is smaller is not measured"
    torch.testing.assert_close(F.avg_pool2d(fields.fine, 4), fields.flow, atol=1e-5, rtol=0)


def test_dis_flow_has_scale_one_and_no_parameters() -> None:
    network = DISFlow(stride=16)
    prepared = network.prepare(torch.rand(2, 3, 64, 64))
    fields = network(prepared, prepared)
    assert fields.scale is None and fields.flow.shape == (2, 2, 4, 4) and not list(network.parameters())


@pytest.mark.parametrize("stride", [8, 16])
def test_still_flow_leaves_the_key_feature_as_it_is(stride: int) -> None:
    network = StillFlow(stride=stride)
    prepared = [network.prepare(torch.rand(2, 3, 64, 96)) for _ in range(2)]
    feature = torch.rand(2, 5, 64 // stride, 96 // stride)
    torch.testing.assert_close(propagate(feature, network(*prepared)), feature)


def test_dis_flow_does_not_depend_on_the_size_seen_before() -> None:
    network = DISFlow(stride=8)
    image = textured_image(360, 480)
    large, small = ([network.prepare(to_tensor(np.roll(image[:side, :side], shift, axis=1))) for shift in (0, 7)] for side in (360, 64))

    def last_of(*pairs: list[torch.Tensor]) -> torch.Tensor:
        """The flow of the last pair, in a thread of its own, which has seen nothing before."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: [network(*pair).flow for pair in pairs][-1]).result()

    torch.testing.assert_close(last_of(small, large), last_of(large))


def test_dis_with_a_finer_scale_sees_smaller_things() -> None:
    image = textured_image()
    key, noise = image.copy(), np.random.default_rng(1).random((16, 16, 3), np.float32)
    small = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 1, cv2.NORM_MINMAX)
    image[64:80, 80:96] = small
    key[64:80, 84:100] = small

    def found(finest_scale: int) -> float:
        network = DISFlow(stride=8, finest_scale=finest_scale)
        flow = network(network.prepare(to_tensor(image)), network.prepare(to_tensor(key))).flow
        return float(flow[0, 0, 8:10, 10:12].mean())

    assert found(0) == pytest.approx(0.5, abs=0.1)
    assert found(1) < 0.3
    with pytest.raises(ValueError, match="finest_scale should lie in 0..4, got 5"):
        DISFlow(stride=8, finest_scale=5)


def test_dis_flow_of_an_image_too_small_to_measure_is_zero() -> None:
    network = DISFlow(stride=8)
    prepared = network.prepare(torch.rand(1, 3, 8, 24))
    assert network(prepared, prepared).flow.abs().max() == 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("flownet", 10.9), ("flownet_half", 3.0), ("flownet_inception", 1.5), ("flownet_tiny", 0.9)]
)
def test_flownets_cost_what_the_paper_counts_at_1024x512(kind: str, expected: float) -> None:
    with torch.device("meta"):
        network = FlowNetS(channels=1024, **FLOWNETS[kind])
        prepared = network.prepare(torch.empty(1, 3, 512, 1024))
        assert prepared.shape == (1, 3, 256, 512)
        assert gmac(network, prepared, prepared) == pytest.approx(expected, abs=0.1)


def test_the_last_map_of_flownet_has_194_channels() -> None:
    with torch.device("meta"):
        assert FlowNetS(channels=8).scale.in_channels == 194


@pytest.mark.parametrize("kind", list(FLOWNETS))
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 96), (48, 80), (16, 16)])
def test_flownet_answers_at_feature_resolution(kind: str, stride: int, size: tuple[int, int]) -> None:
    network = FlowNetS(channels=4, stride=stride, **{**FLOWNETS[kind], "width": 0.125}).eval()
    prepared = network.prepare(torch.rand(1, 3, *size))
    fields = network(prepared, prepared)
    cells = (size[0] // stride, size[1] // stride)
    assert fields.flow.shape == (1, 2, *cells)
    assert fields.scale is not None and fields.scale.shape == (1, 4, *cells)


def test_the_scale_starts_as_identity_and_can_learn() -> None:
    network = FlowNetS(channels=4, stride=8, width=0.125)
    prepared = network.prepare(torch.rand(1, 3, 32, 32))
    fields = network(prepared, prepared)
    assert fields.scale is not None
    torch.testing.assert_close(fields.scale, torch.ones(1, 4, 4, 4))
    propagate(torch.rand(1, 4, 4, 4), fields).sum().backward()
    assert network.scale.weight.grad is not None and network.scale.weight.grad.abs().sum() > 0
    assert network.scale.bias is None  # the bias of 1 does not learn


def test_flownets_output_is_in_units_of_twenty_half_size_pixels() -> None:
    assert FlowNetS(channels=4, stride=16, width=0.125).cells_per_unit == 2.5
    assert FlowNetS(channels=4, stride=8, width=0.125).cells_per_unit == 5.0


def test_flownet_prepares_by_subtracting_the_mean_and_pooling_two_by_two_rounding_up() -> None:
    network = FlowNetS(channels=4, width=0.125, mean=(0.5, 0.25, 0.0))
    image = torch.rand(1, 3, 5, 7)
    prepared = network.prepare(image)
    assert prepared.shape == (1, 3, 3, 4)
    expected = image[0, :, 2:4, 4:6].mean(dim=(1, 2)) - torch.tensor([0.5, 0.25, 0.0])
    torch.testing.assert_close(prepared[0, :, 1, 2], expected)


def test_flownet_starts_as_a_copy_of_the_key_feature_with_signals_of_full_size() -> None:
    torch.manual_seed(0)
    network = FlowNetS(channels=4, stride=8, width=0.25)
    prepared = network.prepare(torch.rand(1, 3, 512, 512))  # small images lose much at their edges
    fields, coarse = network.pyramid(prepared, prepared)
    assert all(flow.abs().max() == 0 for flow in (fields.flow, *coarse))
    sizes: list[float] = []
    for step in (network.up5, network.up4, network.up3, network.up2):
        step.up.register_forward_hook(lambda _module, _inputs, output: sizes.append(float(output.detach().std())))
    network(torch.randn_like(prepared), torch.randn_like(prepared))
    assert len(sizes) == 4 and all(0.3 < size < 3.0 for size in sizes)


def test_the_decoder_passes_a_coarse_flow_on_as_it_is() -> None:
    network = FlowNetS(channels=4, stride=8, width=0.125)
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    finer = network.up2.up_flow(ramp)
    assert finer.shape == (1, 2, 16, 16)
    expected = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(finer[0, :, 2:-2, 2:-2], expected[2:-2].expand(2, 12, 12))


@pytest.mark.parametrize(("height", "width"), [(128, 192), (360, 480), (72, 88)])
def test_the_decoders_flows_lie_on_cells_of_twice_the_size_each(height: int, width: int) -> None:
    network = FlowNetS(channels=4, stride=8, width=0.125)
    prepared = network.prepare(torch.rand(1, 3, height, width))
    _, coarse = network.pyramid(prepared, prepared)
    for flow, cell in zip(coarse, COARSE_CELLS, strict=True):
        assert flow.shape == (1, 2, -(-height // cell), -(-width // cell))


def test_strides_that_the_maps_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        FlowNetS(channels=4, stride=12)
    with pytest.raises(ValueError, match="even, got 7"):
        DISFlow(stride=7)
