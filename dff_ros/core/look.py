"""A look at the frame at another size, told in the feature cells of the frame as it is.

Several looks by one trunk are a heavy network for little data: each size shows something else (context in the small, thin and far things
in the large), their errors differ, and no further layer has to be learned from nothing.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_TERM = 4
"""Of a look's scale: 4/3 relates 4 x 4 cells to 3 x 3 and needs 144 weights for each pair of channels."""


class Look(nn.Module):
    """Resizes a frame for a trunk, and spreads what the trunk sees over the cells of the frame.

    At ``scale`` p/q each block of p x p cells of the look covers a block of q x q cells of the frame: one linear map turns the one into the
    other. It starts as the mean over each cell's place; :mod:`dff_train.fusion` fits it to a trunk.
    """

    def __init__(self, channels: int, *, stride: int, scale: float | str | Fraction) -> None:
        super().__init__()
        try:
            self.scale = Fraction(str(scale))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"scale should be a number or a fraction such as '2/3', got {scale!r}") from None
        if self.scale <= 0 or max(self.scale.as_integer_ratio()) > LARGEST_TERM:
            raise ValueError(f"scale should be a fraction of whole numbers up to {LARGEST_TERM}, got {scale!r}")
        self.stride = stride
        seen, cells = self.block
        self.conv = nn.Conv2d(channels, channels * cells**2, seen, stride=seen)
        place = place_shares(seen, cells)
        with torch.no_grad():
            start = torch.einsum("oi,yv,xu->oyxivu", torch.eye(channels), place, place)
            self.conv.weight.copy_(start.reshape(self.conv.weight.shape))
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    @property
    def block(self) -> tuple[int, int]:
        """Cells of the look, and cells of the frame, along the side of a block."""
        return self.scale.as_integer_ratio()

    def resized(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> what the trunk sees: the frame, continued to whole blocks of cells, at ``scale``."""
        seen, cells = self.block
        height, width = image.shape[2:]
        below, right = -height % (cells * self.stride), -width % (cells * self.stride)
        if below or right:
            image = F.pad(image, (0, right, 0, below), mode="replicate")
        size = ((height + below) * seen // cells, (width + right) * seen // cells)
        return image if self.scale == 1 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """The trunk's feature of the resized frame -> a feature of ``size`` (h, w), the frame's cells."""
        told = F.pixel_shuffle(self.conv(feature), self.block[1])
        return told[:, :, : size[0], : size[1]]


def place_shares(given: int, wanted: int) -> Tensor:
    """(wanted, given): what share of each of ``wanted`` parts of a line lies in each of ``given`` parts of the same line."""
    return shares(torch.arange(wanted + 1) / wanted, torch.arange(given + 1) / given)


def shares(wanted: Tensor, given: Tensor) -> Tensor:
    """(W, G): what share of each of W pieces of a line lies in each of G pieces, from their edges (W + 1,) and (G + 1,)."""
    overlap = torch.minimum(wanted[1:, None], given[None, 1:]) - torch.maximum(wanted[:-1, None], given[None, :-1])
    return overlap.clamp(min=0.0) / (wanted[1:] - wanted[:-1]).unsqueeze(1)
