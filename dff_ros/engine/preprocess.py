"""From a source frame to the network's image, on the device, and the geometry to undo it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dff_ros.core.results import ImageGeometry

MAXIMUM_ENLARGEMENT = 2.0
"""Small frames are enlarged at most this much: past it there is nothing more to see."""


def fit(height: int, width: int, *, input_pixels: int, stride: int) -> ImageGeometry:
    """How a source of this size is shown to a network: about ``input_pixels``, same shape, padded to multiples of ``stride``.

    The same number of pixels for every camera, so that the cost does not depend on who made it.
    """
    scale = min(math.sqrt(input_pixels / (height * width)), MAXIMUM_ENLARGEMENT)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    padded_height = math.ceil(inner_height / stride) * stride
    padded_width = math.ceil(inner_width / stride) * stride
    return ImageGeometry(height, width, inner_height, inner_width, padded_height, padded_width)


def check_frame(frame: NDArray[np.uint8]) -> None:
    """Raise ValueError where ``frame`` is not H x W x 3 uint8 with at least one pixel."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"frame should be H x W x 3 uint8, not empty, got {frame.shape} {frame.dtype}")


def to_image(frame: NDArray[np.uint8], geometry: ImageGeometry, device: torch.device) -> Tensor:
    """``frame`` (H, W, 3) uint8 RGB, any strides -> image (1, 3, H', W') float32, RGB in 0..1.

    The bytes go to the device as they are; colour swap, resize and scaling happen there.
    """
    pixels = _upload(frame, device)
    size = (geometry.height, geometry.width)
    if size != (geometry.source_height, geometry.source_width):
        shrinking = geometry.height < geometry.source_height or geometry.width < geometry.source_width
        if device.type != "cpu":  # the byte kernel, which is the faster one, exists on CPUs only
            pixels = pixels.float()
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=shrinking)
    image = pixels.float() / 255.0
    right, bottom = geometry.padded_width - geometry.width, geometry.padded_height - geometry.height
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if right or bottom else image


def _upload(frame: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(1, 3, H, W) uint8 on the device; a BGR buffer seen through a reversed view is swapped there."""
    swapped = frame.strides[2] < 0  # torch has no negative strides
    buffer = frame[..., ::-1] if swapped else frame
    if swapped and device.type == "cpu":  # a tenth of the time of torch's flip, which takes 0.7 ms at 720p
        buffer, swapped = np.asarray(cv2.cvtColor(buffer, cv2.COLOR_BGR2RGB), np.uint8), False
    if any(step < 0 for step in buffer.strides) or not buffer.flags.writeable:
        buffer = buffer.copy()  # torch cannot hold memory that it must not write to
    pixels = torch.from_numpy(buffer).to(device).permute(2, 0, 1).unsqueeze(0)
    return pixels.flip(1) if swapped else pixels
