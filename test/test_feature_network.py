"""Feature networks: the paper's layout and cost, and torchvision's parameter names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dff_ros.core.feature_network import CompactFeatureNetwork, PyramidFeatureNetwork, ResNetFeatureNetwork, fold_batch_norms


def gmac(network: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiply-accumulates of one call, in thousand millions, counted without computing."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(("depth", "expected"), [(50, 103.5), (101, 142.3)])
def test_resnets_cost_what_the_paper_counts_at_1024x512(depth: int, expected: float) -> None:
    with torch.device("meta"):
        assert gmac(ResNetFeatureNetwork(depth), torch.empty(1, 3, 512, 1024)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_resnets_keep_stride_16_and_reduce_to_the_asked_channels(depth: int) -> None:
    with torch.device("meta"):
        network = ResNetFeatureNetwork(depth, channels=256)
        assert network(torch.empty(1, 3, 64, 96)).shape == (1, 256, 4, 6)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)])
def test_resnet_weights_are_torchvisions_without_the_classifier(depth: int, count: int) -> None:
    """The published parameter counts, less the 1000-class layer; and the names that its checkpoints use."""
    with torch.device("meta"):
        backbone = ResNetFeatureNetwork(depth).backbone
    classifier = backbone.channels * 1000 + 1000
    assert sum(p.numel() for p in backbone.parameters()) == count - classifier
    names = set(backbone.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "layer2.0.downsample.0.weight"} <= names
    assert "layer2.0.downsample.1.running_var" in names
    assert ("layer1.0.conv3.weight" in names) == (depth >= 50)


def test_all_three_by_three_convolutions_of_the_last_stage_are_dilated_and_none_strided() -> None:
    with torch.device("meta"):
        network = ResNetFeatureNetwork(50)
    convolutions = [m for m in network.backbone.layer4.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.stride == (1, 1) for m in convolutions)
    assert {m.dilation for m in convolutions if m.kernel_size == (3, 3)} == {(2, 2)}
    assert network.reduce.dilation == (6, 6) and network.reduce.kernel_size == (3, 3)


def test_the_compact_network_has_stride_8_and_learns() -> None:
    network = CompactFeatureNetwork(channels=16, width=8, blocks=(1, 1, 2), dilations=(1, 2))
    feature = network(torch.rand(2, 3, 32, 48))
    assert feature.shape == (2, 16, 4, 6) and bool((feature >= 0).all())
    feature.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_normalisation_happens_inside() -> None:
    network = CompactFeatureNetwork(
        channels=8, width=8, blocks=(1, 1, 1), dilations=(1,), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    ).eval()
    plain = CompactFeatureNetwork(channels=8, width=8, blocks=(1, 1, 1), dilations=(1,), mean=(0, 0, 0), std=(1, 1, 1)).eval()
    plain.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(network(image), plain((image - 0.5) / 0.25))


def test_wrong_depths_and_dilations_are_refused() -> None:
    with pytest.raises(ValueError, match="depth should be one of 18, 34, 50, 101, got 42"):
        ResNetFeatureNetwork(42)
    with pytest.raises(ValueError, match="dilations one for each"):
        CompactFeatureNetwork(blocks=(1, 1, 3), dilations=(1, 2))


def test_an_untrained_pyramid_is_the_mean_of_two_looks_and_learns_from_both() -> None:
    network = PyramidFeatureNetwork(channels=16, width=8, blocks=(1, 1, 2), dilations=(1, 2)).eval()
    image = torch.rand(2, 3, 32, 48)
    fine = network.trunk(F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False))
    torch.testing.assert_close(network(image), (network.trunk(image) + F.avg_pool2d(fine, 2)) / 2)
    network.train()(image).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    assert (network.stride, network.channels) == (8, 16)


def test_the_pyramid_costs_the_sum_of_its_looks() -> None:
    with torch.device("meta"):
        image = torch.empty(1, 3, 360, 480)
        trunk = gmac(CompactFeatureNetwork(), image)
        assert 5.0 < gmac(PyramidFeatureNetwork(), image) / trunk < 5.5
        assert 6.6 < gmac(PyramidFeatureNetwork(scales=("2/3", "3/2", 2)), image) / trunk < 7.4


def test_a_pyramid_without_a_look_is_refused() -> None:
    with pytest.raises(ValueError, match="scales should name at least one size"):
        PyramidFeatureNetwork(scales=())


@pytest.mark.parametrize(
    "network",
    [
        CompactFeatureNetwork(channels=8, width=8, blocks=(1, 1, 2), dilations=(1, 2)),
        PyramidFeatureNetwork(channels=8, width=8, blocks=(1, 1, 1), dilations=(1,), scales=("1/2", 1)),
        ResNetFeatureNetwork(18, channels=16),
        ResNetFeatureNetwork(50, channels=16),
    ],
    ids=["compact", "pyramid", "resnet18", "resnet50"],
)
def test_folded_batch_norms_answer_the_same(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    image = torch.rand(1, 3, 64, 96)
    network.eval()
    with torch.no_grad():
        expected = network(image)
        fold_batch_norms(network)
        torch.testing.assert_close(network(image), expected, rtol=1e-3, atol=1e-4)
    assert norms and not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


class NormAct(torch.nn.BatchNorm2d):
    """A batch norm with its activation, as some libraries have it."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class HalvedConv(torch.nn.Conv2d):
    """A convolution that does something else with its weights."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.norm(), self.bias)


class Backwards(torch.nn.Sequential):
    """Its modules in another order."""

    def forward(self, input: Tensor) -> Tensor:
        return self[0](self[1](input))


@pytest.mark.parametrize(
    "network",
    [
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), NormAct(4)),
        torch.nn.Sequential(HalvedConv(3, 4, 3), torch.nn.BatchNorm2d(4)),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, track_running_stats=False)),
        Backwards(torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3)),
    ],
    ids=["norm with activation", "weights changed", "no statistics", "another order"],
)
def test_what_others_made_of_a_batch_norm_answers_the_same_too(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    image = torch.rand(1, 3, 8, 8)
    network.eval()
    with torch.no_grad():
        expected = network(image)
        fold_batch_norms(network)
        torch.testing.assert_close(network(image), expected)
