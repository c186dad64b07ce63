"""F of the paper: the fast network between a frame and its key frame.

A flow network first turns each image into what it needs of it (``prepare``, once a frame), then reads two of those. Flow
points from the current frame back to the key frame, in feature cells, because that is what the warp samples with.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dff_ros.core.feature_network import IMAGENET_MEAN
from dff_ros.core.propagate import FlowFields

FLOWNET_UNIT = 20.0
"""FlowNet predicts flow / 20, in pixels of its half-size input (the authors' code)."""

FLOWNET_MAP_STRIDE = 8
"""Image pixels per cell of FlowNet-S's last map: four times its half-size input."""

COARSE_CELLS = tuple(FLOWNET_MAP_STRIDE * 2**level for level in range(1, 5))
"""Image pixels per cell of the decoder's coarser flows, the finest first."""

GREY_OF_RGB = (0.299, 0.587, 0.114)
"""What red, green and blue weigh in a grey value (ITU-R BT.601)."""


_per_thread = threading.local()
"""OpenCV's flow object keeps buffers between calls, so two cameras' threads must not share one."""


class FlowNetwork(Protocol):
    """The seam for a user's own flow network."""

    def prepare(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in 0..1 -> what the network reads of one image; kept with the key frame."""
        ...

    def __call__(self, current: Tensor, key: Tensor) -> FlowFields:
        """Two prepared images -> flow and scale at feature resolution."""
        ...


class DISFlow(nn.Module):
    """Dense inverse search (Kroeger et al. 2016, OpenCV) on half-size grey images: no training, scale 1.

    The paper's "SFF" with a hand-made flow. It runs on the host, wherever the other networks run.

    ``finest_scale`` is where its pyramid ends: 0 at the half-size image itself, 1 at half of that, and so on. Short ways of a single frame
    are worth the finest (chained from cell to cell over ten frames of CamVid the warp lost .035 mIoU instead of .046, for 2 ms a frame).
    """

    def __init__(self, *, stride: int, finest_scale: int = 1) -> None:
        super().__init__()
        if stride % 2:
            raise ValueError(f"stride should be even, got {stride}")
        if not 0 <= finest_scale <= 4:
            raise ValueError(f"finest_scale should lie in 0..4, got {finest_scale}")
        self.stride = stride
        self.finest_scale = finest_scale

    def prepare(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H / 2, W / 2) uint8 grey on the host."""
        if image.device.type == "cpu":
            return torch.from_numpy(np.stack([_half_size_grey(each) for each in image.detach().float().permute(0, 2, 3, 1).numpy()]))
        half = F.avg_pool2d(image.float(), 2)
        red, green, blue = GREY_OF_RGB
        grey = half[:, 0] * red + half[:, 1] * green + half[:, 2] * blue
        return (grey * 255.0 + 0.5).to(torch.uint8).cpu()

    def forward(self, current: Tensor, key: Tensor) -> FlowFields:
        """Flow (N, 2, H / stride, W / stride), and within cells at each half-size pixel, on the host."""
        cell = self.stride // 2  # half-size pixels per feature cell
        flows = np.stack([self._flow(now.numpy(), then.numpy()) for now, then in zip(current, key, strict=True)]) / np.float32(cell)
        cells = np.stack([_mean_of_squares(flow, cell) for flow in flows])
        height, width = (side * cell for side in cells.shape[1:3])  # what fills no cell is left out
        fine = torch.from_numpy(flows[:, :height, :width]).permute(0, 3, 1, 2).contiguous()  # a quarter of the chain's time less
        return FlowFields(torch.from_numpy(cells).permute(0, 3, 1, 2), fine=fine)

    def _flow(self, current: np.ndarray, key: np.ndarray) -> np.ndarray:
        if min(current.shape) < 16:  # DIS needs a patch and a pyramid; what is smaller than that cannot have moved measurably
            return np.zeros((*current.shape, 2), np.float32)
        flow: np.ndarray = _dis_for(current.shape, self.finest_scale).calc(current, key, None)
        return flow


class StillFlow(nn.Module):
    """No flow at all, as if nothing had moved: the key feature is copied. A control, which shows what the warp brings."""

    def __init__(self, *, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def prepare(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1, H / stride, W / stride): nothing but the size is read of it."""
        return image[:, :1, :: self.stride, :: self.stride].clone()

    def forward(self, current: Tensor, key: Tensor) -> FlowFields:
        """Zero flow (N, 2, H / stride, W / stride)."""
        batch, _, height, width = current.shape
        return FlowFields(current.new_zeros((batch, 2, height, width), dtype=torch.float32))


def _half_size_grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What ``DISFlow.prepare`` says of one (H, W, 3) image, computed by OpenCV in half of torch's time."""
    levels = _mean_of_squares(image, 2) @ np.array(GREY_OF_RGB, np.float32) * np.float32(255.0) + np.float32(0.5)
    grey: NDArray[np.uint8] = levels.astype(np.uint8)
    return grey


def _mean_of_squares(maps: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means over ``side`` x ``side`` squares of ``maps`` (H, W, C); what fills no square is left out."""
    height, width = maps.shape[0] // side, maps.shape[1] // side
    means = cv2.resize(maps[: height * side, : width * side], (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float32)


def _dis_for(shape: tuple[int, ...], finest_scale: int) -> Any:
    """This thread's DIS object. One for each image size: on a small first image it changes its own scales and stride for good.

    The fast preset stops at a quarter of the resolution, where a person 20 px wide is two pixels, and smooths the flow over
    people's outlines. One scale finer and unsmoothed costs the same time; on PETS AP50 at fixed:10 rose from .46 to .63.
    """
    wanted = (shape, finest_scale)
    if getattr(_per_thread, "made_for", None) != wanted:
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
        dis.setFinestScale(finest_scale)
        dis.setVariationalRefinementIterations(0)
        _per_thread.made_for, _per_thread.dis = wanted, dis
    return _per_thread.dis


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LeakyReLU(0.1))


class InceptionBlock(nn.Module):
    """Three parallel paths (1x1, 3x3, two 3x3) behind 1x1 reductions (Szegedy et al. 2015), concatenated."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        quarter, eighth = outputs // 4, outputs // 8
        self.point = _conv(inputs, quarter, 1, stride)
        self.small = nn.Sequential(_conv(inputs, quarter, 1), _conv(quarter, outputs - 2 * quarter, 3, stride))
        self.large = nn.Sequential(_conv(inputs, eighth, 1), _conv(eighth, quarter, 3, stride), _conv(quarter, quarter, 3))

    def forward(self, feature: Tensor) -> Tensor:
        return torch.cat([self.point(feature), self.small(feature), self.large(feature)], dim=1)


class FlowNetS(nn.Module):
    """FlowNet-S (Dosovitskiy et al. 2015) with the paper's two outputs, flow and scale (DFF, sec. 4.2).

    ``width`` multiplies every channel count; with ``inception`` the encoder is of inception blocks. ``FLOWNETS`` names the
    paper's three. ``stride`` is the feature network's (8 or 16, or another multiple of 8).
    """

    def __init__(
        self,
        *,
        channels: int,
        stride: int = 16,
        width: float = 1.0,
        inception: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
    ) -> None:
        super().__init__()
        if stride % FLOWNET_MAP_STRIDE:
            raise ValueError(f"stride should be a multiple of {FLOWNET_MAP_STRIDE}, got {stride}")
        c64, c128, c256, c512, c1024 = (max(8, int(count * width)) for count in (64, 128, 256, 512, 1024))
        self.pool = stride // FLOWNET_MAP_STRIDE
        self.cells_per_unit = FLOWNET_UNIT * 2.0 / stride
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.conv1 = _conv(6, c64, 7, 2)
        self.conv2 = _stage(c64, c128, 5, inception, again=False)
        self.conv3 = _stage(c128, c256, 5, inception)
        self.conv4 = _stage(c256, c512, 3, inception)
        self.conv5 = _stage(c512, c512, 3, inception)
        self.conv6 = _stage(c512, c1024, 3, inception)
        self.up5 = DecoderStep(c1024, c512)
        self.up4 = DecoderStep(c512 + c512 + 2, c256)
        self.up3 = DecoderStep(c512 + c256 + 2, c128)
        self.up2 = DecoderStep(c256 + c128 + 2, c64)
        last = c128 + c64 + 2
        self.flow = nn.Conv2d(last, 2, 3, padding=1)
        self.scale = nn.Conv2d(last, channels, 1, bias=False)
        _start(self)

    mean: Tensor

    def prepare(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> mean-subtracted, half size, rounded up."""
        return F.avg_pool2d(image, 2, ceil_mode=True) - self.mean.to(image.dtype)  # the same as the other order, on fewer pixels

    def forward(self, current: Tensor, key: Tensor) -> FlowFields:
        """Flow (N, 2, h, w) in feature cells and scale (N, channels, h, w), both float32."""
        return self.pyramid(current, key)[0]

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[FlowFields, tuple[Tensor, ...]]:
        """The answer, and what the decoder thought on its way there, which training corrects too (Dosovitskiy et al. 2015).

        Those flows are (N, 2, h, w) float32 in feature cells like the answer's, the finest first: a cell of theirs is as large as
        COARSE_CELLS image pixels.
        """
        conv1 = self.conv1(torch.cat([current, key], dim=1).to(self.flow.weight.dtype))
        conv2 = self.conv2(conv1)
        conv3 = self.conv3(conv2)
        conv4 = self.conv4(conv3)
        conv5 = self.conv5(conv4)
        merged, flow6 = self.up5(self.conv6(conv5), conv5)
        merged, flow5 = self.up4(merged, conv4)
        merged, flow4 = self.up3(merged, conv3)
        merged, flow3 = self.up2(merged, conv2)
        merged = F.avg_pool2d(merged, self.pool, ceil_mode=True) if self.pool > 1 else merged
        fields = FlowFields(self.flow(merged).float() * self.cells_per_unit, self.scale(merged).float() + 1.0)
        return fields, tuple(flow.float() * self.cells_per_unit for flow in (flow3, flow4, flow5, flow6))


FLOWNETS: dict[str, dict[str, Any]] = {
    "flownet": {},
    "flownet_half": {"width": 0.5},
    "flownet_inception": {"width": 0.46875, "inception": True},
    "flownet_tiny": {"width": 0.25},
}
"""The paper's three: 10.9, 3.0 and about 1.5 GMAC at 1024x512. The layers of FlowNet Inception were never published: it costs
1/8 of FlowNet-S, and these are our own at that cost. Tiny, with a quarter of the channels, is for CPUs: 0.9 GMAC, in
bfloat16 40 % of Half's time."""


class DecoderStep(nn.Module):
    """One refinement of FlowNet-S: the skip connection, the deconvolved map and the upsampled coarser flow, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.flow = nn.Conv2d(inputs, 2, 3, padding=1)
        self.up_flow = nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.up = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.1))

    def forward(self, coarse: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The refined map, as large as ``skip``, and the flow (N, 2, h, w) at the size of ``coarse``, in FlowNet's unit."""
        height, width = skip.shape[2:]  # odd sizes round up on the way down, so the way up is cut back
        flow = self.flow(coarse)
        up = self.up(coarse)[:, :, :height, :width]
        up_flow = self.up_flow(flow)[:, :, :height, :width]
        return torch.cat([skip, up, up_flow], dim=1), flow


def _stage(inputs: int, outputs: int, kernel: int, inception: bool, *, again: bool = True) -> nn.Sequential:
    """Halve the resolution, then (except for conv2) one more convolution at the new one."""
    if inception:
        return nn.Sequential(InceptionBlock(inputs, outputs, 2), *([InceptionBlock(outputs, outputs)] if again else []))
    return nn.Sequential(_conv(inputs, outputs, kernel, 2), *([_conv(outputs, outputs, 3)] if again else []))


@torch.no_grad()
def _start(network: FlowNetS) -> None:
    """Weights to learn from: signals keep their size (He et al. 2015), flow starts as 0 and scale as 1, so propagation as a copy."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out")  # torch swaps the fans of a transposed convolution
            module.weight.mul_(module.stride[0])  # only one in stride^2 of its weights meets a given output
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for step in (network.up5, network.up4, network.up3, network.up2):
        nn.init.zeros_(step.flow.weight)
        step.up_flow.weight.copy_(_bilinear_upsampling(step.up_flow.weight))
    # The scale is 1 everywhere by zero weights beside a bias of 1 that does not learn (the authors' code).
    for answer in (network.flow, network.scale):
        nn.init.zeros_(answer.weight)


def _bilinear_upsampling(weight: Tensor) -> Tensor:
    """The (2, 2, 4, 4) weights of a transposed convolution of stride 2 that doubles each of two maps' resolution."""
    side = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=weight.dtype, device=weight.device)
    return torch.eye(2, dtype=weight.dtype, device=weight.device)[:, :, None, None] * torch.outer(side, side)
