"""The branch on the current frame: its formula, what it is shown, and that untrained it changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dff_ros.core.propagate import FlowFields
from dff_ros.core.refine_network import LightRefineNetwork, LookRefineNetwork, RefineInput


def small(*, channels: int = 6, stride: int = 8, seed: int = 0, **arguments: object) -> LightRefineNetwork:
    """A branch as if trained: no weight or statistic where it starts."""
    torch.manual_seed(seed)
    network = LightRefineNetwork(channels, stride=stride, width=8, **arguments).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[operator]
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_(std=0.1)
        nn.init.normal_(network.correction.weight, std=0.5)
        nn.init.normal_(network.correction.bias, std=0.5)  # type: ignore[arg-type]
    return network


def scene(batch: int = 2, *, height: int = 4, width: int = 5, channels: int = 6, stride: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Current and key images, a feature of both signs, flow of up to some cells."""
    generator = torch.Generator().manual_seed(1)
    current, key = torch.rand(2, batch, 3, height * stride, width * stride, generator=generator)
    feature = torch.randn(batch, channels, height, width, generator=generator)
    return current, key, feature, torch.randn(batch, 2, height, width, generator=generator) * 1.5


def refine(
    network: LightRefineNetwork | LookRefineNetwork, current: Tensor, key: Tensor, feature: Tensor, flow: Tensor, ages: list[float]
) -> Tensor:
    return network(network.prepare(current), network.prepare(key), feature, FlowFields(flow), torch.tensor(ages))  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_untrained_branch_changes_nothing(mode: str) -> None:
    current, key, feature, flow = scene()
    network = LightRefineNetwork(6, width=8).train(mode == "train")
    torch.testing.assert_close(refine(network, current, key, feature, flow, [1.0, 9.0]), feature, atol=0, rtol=0)


def test_an_untrained_branch_can_learn_in_every_weight() -> None:
    current, key, feature, flow = scene()
    network = LightRefineNetwork(6, width=8)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the correction away from 0, which then lets the others see an error
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (refine(network, current, key, feature, flow, [1.0, 9.0]) - 1.0).square().sum().backward()
        optimiser.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


# ---- a slow, obvious reference: loops over cells, nothing shared with the fast code


def convolve(maps: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """A convolution of (C, H, W), one output number at a time."""
    weight, (stride, pad, dilation) = conv.weight.detach().numpy(), (conv.stride[0], int(conv.padding[0]), conv.dilation[0])
    padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
    reach = dilation * (weight.shape[2] - 1) + 1
    height, width = ((side - reach) // stride + 1 for side in padded.shape[1:])
    out = np.zeros((weight.shape[0], height, width))
    for y, x in np.ndindex(height, width):
        patch = padded[:, y * stride : y * stride + reach : dilation, x * stride : x * stride + reach : dilation]
        out[:, y, x] = (weight * patch).sum(axis=(1, 2, 3))
    return out if conv.bias is None else out + conv.bias.detach().numpy()[:, None, None]


def normalise(maps: np.ndarray, norm: nn.BatchNorm2d) -> np.ndarray:
    mean, variance, weight, bias = (
        value.detach().numpy()[:, None, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (maps - mean) / np.sqrt(variance + norm.eps) * weight + bias


def run(layers: nn.Sequential, maps: np.ndarray) -> np.ndarray:
    """The encoder or the fusion: convolution and norm, ReLU, residual blocks."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            maps = normalise(convolve(maps, layer[0]), layer[1])
        elif isinstance(layer, nn.ReLU):
            maps = np.maximum(maps, 0)
        else:
            inner = np.maximum(normalise(convolve(maps, layer.conv1), layer.bn1), 0)
            maps = np.maximum(normalise(convolve(inner, layer.conv2), layer.bn2) + maps, 0)
    return maps


def sample(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear, zero outside."""
    value = np.zeros(maps.shape[0])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
                value += maps[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def refine_slowly(network: LightRefineNetwork, current: np.ndarray, key: np.ndarray, feature: np.ndarray, flow: np.ndarray, age: float):
    """The corrected feature (C, h, w) of one pair, cell by cell."""
    stride, (height, width) = network.stride, feature.shape[1:]
    patch = stride // 2
    pixels = np.zeros((3 * patch**2, 2 * height, 2 * width))
    for channel, y, x in np.ndindex(*current.shape):
        pixels[channel * patch**2 + (y % patch) * patch + x % patch, y // patch, x // patch] = current[channel, y, x] - 0.5
    means = [image.reshape(3, height, stride, width, stride).mean(axis=(2, 4)) for image in (current, key)]
    signals = np.zeros((7, height, width))
    for y, x in np.ndindex(height, width):
        position = (x + flow[0, y, x], y + flow[1, y, x])
        signals[:3, y, x] = np.abs(means[0][:, y, x] - sample(means[1], *position))
        signals[3, y, x] = sample(np.ones((1, height, width)), *position)[0]
        signals[4:6, y, x] = flow[:, y, x] / 8
        signals[6, y, x] = min(age, 20) / 10
    fused = run(network.fusion, np.concatenate([run(network.encoder, pixels), feature, signals]))
    gate = 1 / (1 + np.exp(-convolve(fused, network.gate)))
    result: np.ndarray = feature + age / (age + 1) * gate * convolve(fused, network.correction)
    return result


@pytest.mark.parametrize("stride", [8, 16])
def test_the_branch_computes_its_formula(stride: int) -> None:
    network = small(stride=stride, blocks=(2, 1))
    tensors = scene(stride=stride)
    ages = [1.0, 33.0]
    fast = refine(network, *tensors, ages).detach()
    assert not torch.allclose(fast, tensors[2], atol=0.1)  # it is not the identity that is compared
    for index, age in enumerate(ages):
        slow = refine_slowly(network, *(tensor[index].numpy().astype(np.float64) for tensor in tensors), age)
        np.testing.assert_allclose(fast[index].numpy(), slow, atol=2e-4)


def test_at_zero_motion_an_unchanged_scene_shows_no_difference_and_full_view() -> None:
    image, _, _, flow = scene()
    network = small()
    prepared = network.prepare(image)
    signals = network._signals(prepared, prepared, FlowFields(torch.zeros_like(flow)), torch.tensor([1.0, 40.0]))
    assert signals[:, :3].abs().max() < 1e-6 and signals[:, 4:6].abs().max() == 0
    torch.testing.assert_close(signals[:, 3], torch.ones(2, 4, 5))
    torch.testing.assert_close(signals[:, 6, 0, 0], torch.tensor([0.1, 2.0]))  # past 20 frames age reads as 20


def test_what_changed_since_the_key_frame_changes_the_feature_there_and_not_far_away() -> None:
    network = small(blocks=(1, 0))
    key, _, feature, flow = scene(1, height=16, width=24)
    current = key.clone()
    current[:, :, 56:64, 16:24] = 1.0 - current[:, :, 56:64, 16:24]  # cell (7, 2)
    still, changed = (refine(network, image, key, feature, torch.zeros_like(flow), [3.0]) for image in (key, current))
    difference = (still - changed).abs().amax(dim=(0, 1))
    assert difference[7, 2] > 1e-3 and difference[:, 12:].max() == 0


def test_the_signals_follow_the_flow() -> None:
    """Content that stands one cell further left than in the key frame: flow +1 finds it, and the last column is out of view."""
    network = small()
    key = scene(1)[0]
    current = torch.roll(key, -8, dims=3)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0] = 1.0
    signals = network._signals(network.prepare(current), network.prepare(key), FlowFields(flow), torch.ones(1))
    assert signals[:, :3, :, :4].abs().max() < 1e-5
    torch.testing.assert_close(signals[0, 3], torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]).expand(4, 5))


def test_half_precision_agrees_with_float32_and_stays_half() -> None:
    current, key, feature, flow = scene()
    exact = refine(small(), current, key, feature, flow, [1.0, 9.0])
    half = refine(small().to(torch.bfloat16), current, key, feature, flow, [1.0, 9.0])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.06, rtol=0.06)


def test_a_batch_is_answered_as_its_frames_alone() -> None:
    current, key, feature, flow = scene()
    together = refine(small(), current, key, feature, flow, [1.0, 9.0])
    alone = refine(small(), current[1:], key[1:], feature[1:], flow[1:], [9.0])
    torch.testing.assert_close(together[1:], alone)


def test_one_row_of_cells_is_enough() -> None:
    current, key, feature, flow = scene(1, height=1)
    assert refine(small(), current, key, feature, flow, [1.0]).shape == (1, 6, 1, 5)


def test_what_does_not_fit_is_refused_with_what_was_expected() -> None:
    current, key, feature, flow = scene()
    network = small()
    with pytest.raises(ValueError, match=r"image should be \(N, 3, H, W\) with H and W multiples of 8, got \(2, 3, 30, 40\)"):
        network.prepare(current[:, :, :30])
    with pytest.raises(ValueError, match=r"key frame should be \(2, 3, 32, 40\), got \(1, 3, 32, 40\)"):
        refine(network, current, key[:1], feature, flow, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"key frame should be \(1, 3, 32, 40\), got \(2, 3, 24, 40\)"):
        refine(network, current[:1], key[:, :, :24], feature[:, :, :3], flow[:, :, :3], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"feature should be \(2, 6, 4, 5\), got \(2, 5, 4, 5\)"):
        refine(network, current, key, feature[:, :5], flow, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"flow should be \(2, 2, 4, 5\), got \(2, 2, 4, 4\)"):
        refine(network, current, key, feature, flow[..., :4], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"age should be \(2,\), got \(1,\)"):
        refine(network, current, key, feature, flow, [1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 6}, "stride should be a multiple of 4, got 6"),
        ({"width": 1}, "width should be at least 2"),
        ({"blocks": (1, 1, 1)}, "blocks two counts"),
        ({"blocks": (1, -1)}, "blocks two counts"),
    ],
)
def test_branches_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LightRefineNetwork(6, **arguments)  # type: ignore[arg-type]


def test_what_is_kept_of_a_frame_is_its_image_and_the_mean_over_cells() -> None:
    image = scene(1)[0]
    prepared = small().prepare(image)
    assert isinstance(prepared, RefineInput) and prepared.image is image
    torch.testing.assert_close(prepared.cells[0, :, 2, 3], image[0, :, 16:24, 24:32].mean(dim=(1, 2)))


def look_network() -> LookRefineNetwork:
    torch.manual_seed(0)
    return LookRefineNetwork(6, fusion_width=8, width=8, blocks=(1, 1, 2), dilations=(1, 2)).eval()


def test_one_frame_is_corrected_for_several_key_frames_and_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = look_network()
    nn.init.normal_(network.gate.weight)
    current, key, feature, flow = scene()
    alone = [refine(network, current[:1], key[[row]], feature[[row]], flow[[row]], [age]) for row, age in enumerate((1.0, 9.0))]
    look, looks = network.look, []
    monkeypatch.setattr(network, "look", lambda image: looks.append(len(image)) or look(image))
    prepared, fields, ages = network.prepare(current[:1]), FlowFields(flow), torch.tensor([1.0, 9.0])
    together = network(prepared, network.prepare(key), feature, fields, ages)
    assert torch.equal(network(prepared, network.prepare(key), feature, fields, ages), together)
    torch.testing.assert_close(together, torch.cat(alone))
    assert looks == [1]


@pytest.mark.parametrize("height", [4, 5])
def test_a_look_is_blended_with_the_propagated_feature_by_its_gate(height: int) -> None:
    network = look_network()
    current, key, feature, flow = scene(height=height)
    seen = network.look(current)
    assert seen.shape == feature.shape
    trust = torch.tensor([1 / 2, 9 / 10]).view(2, 1, 1, 1)  # at ages 1 and 9
    for bias, expected in ((-30.0, feature), (30.0, torch.lerp(feature, seen, trust))):
        nn.init.constant_(network.gate.bias, bias)  # type: ignore[arg-type]
        torch.testing.assert_close(refine(network, current, key, feature, flow, [1.0, 9.0]), expected)


def test_a_look_is_of_the_current_frame_at_its_place() -> None:
    network = look_network()
    current = torch.rand(1, 3, 64, 160)
    changed = current.clone()
    changed[:, :, :16, :16] = 0.0
    difference = (network.look(changed) - network.look(current)).abs().sum(dim=1)[0]
    assert difference[:4, :4].mean() > 5 * difference[-4:, -8:].mean()
    smaller = network.look(current[:, :, :40, :88])
    assert smaller.shape == (1, 6, 5, 11)


def test_every_weight_of_a_look_learns() -> None:
    network = look_network().train()
    current, key, feature, flow = scene(height=8, width=12)
    nn.init.normal_(network.gate.weight)
    refine(network, current, key, feature, flow, [1.0, 9.0]).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_look_of_another_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="stride should be 8, the trunk's, got 16"):
        LookRefineNetwork(6, stride=16)
