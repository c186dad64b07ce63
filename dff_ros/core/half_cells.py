"""The key feature between its cells, for a warp that does not blur what a cell knows of its parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HalfCells(nn.Module):
    """What the feature network would say half a cell to the right, below, and both, as one linear map of the four cells around.

    A cell's feature knows where in the cell things are: heads read parts of a cell from it. The mean of two neighbours, which the warp
    takes for a place between them (DFF, eq. 3), says the left halves of both at once, where the place has the right half of the one
    beside the left half of the other. The map starts as that mean; :func:`dff_train.fusion.fit_half_cells` fits
    it. Not in the paper, whose stride is that of its answers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, 3 * channels, 2)
        own = torch.eye(channels).view(1, channels, channels, 1, 1)
        # Right, below, both: means of the upper two, the left two, all four.
        places = torch.tensor([[[0.5, 0.5], [0.0, 0.0]], [[0.5, 0.0], [0.5, 0.0]], [[0.25, 0.25], [0.25, 0.25]]])
        with torch.no_grad():
            self.conv.weight.copy_((own * places.view(3, 1, 1, 2, 2)).flatten(0, 1))
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2 H, 2 W) for :func:`dff_ros.core.propagate.warp`: at even places the feature itself.

        Edges repeat outwards.
        """
        batch, channels, height, width = feature.shape
        padded = F.pad(feature.to(self.conv.weight.dtype), (0, 1, 0, 1), mode="replicate")
        between = self.conv(padded).to(feature.dtype).view(batch, 3, channels, height, width)
        four = torch.cat([feature.unsqueeze(1), between], dim=1)
        dense = F.pixel_shuffle(four.transpose(1, 2).flatten(1, 2), 2)
        return dense.contiguous(memory_format=torch.channels_last)  # as the warp reads it: once a key frame instead of with every frame
