"""N_task for segmentation: a 1x1 convolution to class scores, upsampled (DFF, sec. 4.1).

A cell may answer for ``subcells`` x ``subcells`` parts of itself (the sub-pixel convolution of Shi et al. 2016): a pole or a
sign is narrower than a cell, and the propagated feature stays as small as it was.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dff_ros.core.results import ImageGeometry, LabelMap, Task


class SegmentationHead(nn.Module):
    """Class scores of every feature cell, or of its ``subcells`` x ``subcells`` parts."""

    task = Task.SEGMENTATION

    def __init__(self, channels: int, *, classes: int, subcells: int = 1) -> None:
        super().__init__()
        if subcells < 1:
            raise ValueError(f"subcells should be at least 1, got {subcells}")
        self.subcells = subcells
        self.score = nn.Conv2d(channels, classes * subcells**2, 1)
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, channels, H, W) -> scores (N, classes, subcells * H, subcells * W), float32."""
        scores = self.score(feature.to(self.score.weight.dtype)).float()
        return F.pixel_shuffle(scores, self.subcells) if self.subcells > 1 else scores

    def decode(self, scores: Tensor, geometry: ImageGeometry) -> LabelMap:
        """The class of the highest score for each source pixel; ``scores`` is what :meth:`forward` gave for one image.

        Scores are upsampled bilinearly to the network's own input size and the class ids from there to the source by
        nearest neighbour: a network that saw 480x360 has nothing to say about finer pixels, and it saves the time.
        """
        size = (geometry.padded_height, geometry.padded_width)
        upsampled = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        labels = upsampled[:, :, : geometry.height, : geometry.width].argmax(dim=1, keepdim=True)
        source = (geometry.source_height, geometry.source_width)
        if labels.shape[2:] != source:
            labels = F.interpolate(labels.float(), size=source, mode="nearest-exact")
        return LabelMap(labels[0, 0].byte().cpu().numpy())
