"""N_feat of the paper: the slow network that runs on key frames only.

A feature network takes ``image`` (N, 3, H, W), RGB in 0..1 with H and W multiples of ``stride``, and returns the
feature (N, channels, H / stride, W / stride) that is cached and propagated. It normalises the image itself, so that
preprocessing and weights cannot disagree.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dff_ros.core.look import Look

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureNetwork(Protocol):
    """The seam for a user's own network: an ``nn.Module`` with these attributes."""

    channels: int
    stride: int

    def __call__(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> (N, channels, H / stride, W / stride)."""
        ...


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def conv_norm(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, and batch norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions (He et al. 2016), parameter names as torchvision's."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, *, stride: int = 1, dilation: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, feature: Tensor) -> Tensor:
        shortcut = feature if self.downsample is None else self.downsample(feature)
        inner = F.relu(self.bn1(self.conv1(feature)))
        return F.relu(self.bn2(self.conv2(inner)) + shortcut)


def head_blocks(channels: int, count: int) -> nn.Sequential:
    """``count`` residual blocks of a head's own on the feature: the split point between N_feat and N_task, moved forward.

    Blocks run on every frame, propagated ones too: more of them let more of the network see the corrected feature of each frame, fewer
    make a propagated frame cheaper. They start as if they were not there, but for a rectification, which leaves a feature behind a ReLU
    as it is; none is the paper's head. Raises ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"blocks should be at least 0, got {count}")
    blocks = [BasicBlock(channels, channels) for _ in range(count)]
    for block in blocks:
        nn.init.zeros_(block.bn2.weight)
    return nn.Sequential(*blocks)


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block; the stride sits in the 3x3, as in torchvision (the paper's models: in the first 1x1)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, *, stride: int = 1, dilation: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.downsample = downsample

    def forward(self, feature: Tensor) -> Tensor:
        shortcut = feature if self.downsample is None else self.downsample(feature)
        inner = F.relu(self.bn1(self.conv1(feature)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + shortcut)


RESNETS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNetBackbone(nn.Module):
    """ResNet without its classifier; the last stage keeps stride 16 and has dilation 2 in all its 3x3 convolutions (DFF, sec. 4.1).

    State-dict keys are torchvision's, so that its ImageNet weights load as they are.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        block, counts = RESNETS[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, counts[0], stride=1, dilation=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, counts[1], stride=2, dilation=1)
        self.layer3 = _stage(block, 128 * block.expansion, 256, counts[2], stride=2, dilation=1)
        self.layer4 = _stage(block, 256 * block.expansion, 512, counts[3], stride=1, dilation=2)
        self.channels = 512 * block.expansion

    def forward(self, image: Tensor) -> Tensor:
        feature = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(feature))))  # type: ignore[no-any-return]


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, count: int, *, stride: int, dilation: int
) -> nn.Sequential:
    outputs = planes * block.expansion
    downsample = conv_norm(inputs, outputs, 1, stride=stride) if stride != 1 or inputs != outputs else None
    first = block(inputs, planes, stride=stride, dilation=dilation, downsample=downsample)
    return nn.Sequential(first, *(block(outputs, planes, dilation=dilation) for _ in range(count - 1)))


class ResNetFeatureNetwork(nn.Module):
    """The paper's N_feat: dilated ResNet, then a 3x3 convolution with dilation 6 to ``channels``, ReLU (DFF, sec. 4.1)."""

    stride = 16

    def __init__(
        self, depth: int = 101, *, channels: int = 1024, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        if depth not in RESNETS:
            raise ValueError(f"depth should be one of {', '.join(map(str, RESNETS))}, got {depth}")
        self.channels = channels
        self.normalise = Normalise(mean, std)
        self.backbone = ResNetBackbone(depth)
        self.reduce = nn.Conv2d(self.backbone.channels, channels, 3, padding=6, dilation=6)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.reduce(self.backbone(self.normalise(image).to(self.reduce.weight.dtype))))


class CompactFeatureNetwork(nn.Module):
    """A residual network of our own for CPUs: stride 8, so that people 20 px wide still cover cells.

    Three stages of basic blocks, the last one at stride 8 with growing dilation for context (no further stride), and a
    dilated 3x3 reduction to ``channels`` as in the paper. Width and depth scale the cost.
    """

    stride = 8

    def __init__(
        self,
        *,
        channels: int = 128,
        width: int = 32,
        blocks: Sequence[int] = (1, 2, 6),
        dilations: Sequence[int] = (1, 2, 4, 8, 4, 2),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if len(blocks) != 3 or len(dilations) != blocks[2]:
            raise ValueError(f"blocks should be three counts and dilations one for each of the last, got {blocks} and {dilations}")
        self.channels = channels
        self.normalise = Normalise(mean, std)
        self.stem = conv_norm(3, width, stride=2)
        self.stage2 = _stage(BasicBlock, width, width, blocks[0], stride=1, dilation=1)
        self.stage4 = _stage(BasicBlock, width, 2 * width, blocks[1], stride=2, dilation=1)
        self.stage8 = nn.Sequential(
            conv_norm(2 * width, 4 * width, stride=2), nn.ReLU(), *(BasicBlock(4 * width, 4 * width, dilation=d) for d in dilations)
        )
        self.context = nn.Conv2d(4 * width, 4 * width, 1)
        self.reduce = nn.Conv2d(4 * width, channels, 3, padding=2, dilation=2)

    def forward(self, image: Tensor) -> Tensor:
        feature = F.relu(self.stem(self.normalise(image).to(self.context.weight.dtype)))
        feature = self.stage8(self.stage4(self.stage2(feature)))
        # The mean feature tells every cell what kind of scene it stands in (as ParseNet and ASPP's pooled branch do).
        scene = self.context(feature.mean(dim=(2, 3), keepdim=True))
        return F.relu(self.reduce(F.relu(feature + scene)))


class PyramidFeatureNetwork(nn.Module):
    """The compact network, its ``trunk``, looks at the frame in several sizes; the feature is the mean of what it sees.

    A heavy network for little data: many times the trunk's work without a further layer to overfit with. The mean, because looks err
    differently: a fusion learned freely on the same few stills trusts them as they never err there (measured with scales 1 and 2: mIoU .65
    on new frames, the mean .67). ``scales`` are numbers or fractions such as "2/3"; all other options are the trunk's.
    """

    looks: Iterable[Look]

    def __init__(self, *, scales: Sequence[float | str] = (1, 2), **trunk: Any) -> None:
        super().__init__()
        if not scales:
            raise ValueError("scales should name at least one size to look at the frame in, got none")
        self.trunk = CompactFeatureNetwork(**trunk)
        self.channels, self.stride = self.trunk.channels, self.trunk.stride
        self.looks = nn.ModuleList(  # type: ignore[assignment]
            Look(self.channels, stride=self.stride, scale=scale) for scale in scales
        )

    def forward(self, image: Tensor) -> Tensor:
        size = (image.shape[2] // self.stride, image.shape[3] // self.stride)
        told = [look(self.trunk(look.resized(image)), size) for look in self.looks]
        return torch.stack(told).sum(dim=0) / len(told)


def fold_batch_norms(network: nn.Module) -> None:
    """Make each batch norm of the networks above part of the convolution before it, in place: the same answers in 8 % less time on a CPU.

    For networks in evaluation mode that will not be trained or saved. Modules of other authors are left as they are, apart from the
    pairs of a convolution and its batch norm that stand in a ``Sequential``, each of them torch's own: a subclass may do more.
    """
    for module in list(network.modules()):
        if type(module) is nn.Sequential:
            names = [name for name, _ in module.named_children()]
            pairs = list(itertools.pairwise(names))
        elif isinstance(module, (BasicBlock, Bottleneck, ResNetBackbone)):
            pairs = [(f"conv{index}", f"bn{index}") for index in (1, 2, 3)]
        else:
            continue
        for conv_name, norm_name in pairs:
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_var is not None:
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
