"""Feature propagation: W of the paper (DFF, eq. 2-4), a bilinear warp times a scale field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class FlowFields:
    """What a flow network says about a frame and its key frame.

    ``flow`` is (N, 2, H, W), (dx, dy) in feature cells, from the current frame back to the key frame;
    ``scale`` is (N, C, H, W) and multiplies the warped feature, or None where it is 1 everywhere.
    ``fine`` is the flow within cells, in feature cells as well, (N, 2, d H, d W) with d values a side of each cell, where the network
    measures it: ``flow`` is its mean over each cell. Only :func:`chain` reads it. Raises ValueError where it does not divide into cells.
    """

    flow: Tensor
    scale: Tensor | None = None
    fine: Tensor | None = None

    def __post_init__(self) -> None:
        if self.fine is None:
            return
        count, _, height, width = self.flow.shape
        density = self.fine.shape[2] // max(height, 1)
        expected = (count, 2, density * height, density * width)
        if self.fine.shape != expected or not density:
            raise ValueError(f"fine should be (N, 2, d H, d W) for the flow {tuple(self.flow.shape)}, got {tuple(self.fine.shape)}")

    def each(self, change: Callable[[Tensor], Tensor]) -> FlowFields:
        """The same done to every member that there is."""
        return FlowFields(*(None if member is None else change(member) for member in self._members))  # type: ignore[arg-type]

    def rows(self, chosen: Tensor | slice | list[int]) -> FlowFields:
        """Those of the ``chosen`` frames of the N."""
        return self.each(lambda member: member[chosen])

    def with_other(self, other: FlowFields, change: Callable[[Tensor, Tensor], Tensor]) -> FlowFields:
        """The same done to every member with that of ``other``, where both have it."""
        pairs = zip(self._members, other._members, strict=True)
        return FlowFields(*(None if one is None or two is None else change(one, two) for one, two in pairs))  # type: ignore[arg-type]

    @property
    def _members(self) -> tuple[Tensor | None, ...]:
        return self.flow, self.scale, self.fine


def cell_grid(height: int, width: int, device: torch.device) -> Tensor:
    """The (1, 2, height, width) float32 coordinates (x, y) of every cell centre, in cells."""
    ys, xs = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([xs, ys]).unsqueeze(0)


def warp(key_feature: Tensor, flow: Tensor) -> Tensor:
    """Sample ``key_feature`` (N, C, d H, d W) at p + flow(p), bilinearly (DFF, eq. 2-3): (N, C, H, W).

    ``flow`` is (N, 2, H, W), (dx, dy) in feature cells, from the current frame back to the key frame. The key feature has a value for each
    cell, d = 1, or d values a side, the first of them the cell's own (:class:`dff_ros.core.half_cells.HalfCells`).
    Zero flow returns the feature unchanged; what lies outside the key frame reads as zero.
    Raises ValueError where the two do not fit.
    """
    batch, _, height, width = key_feature.shape
    rows, columns = flow.shape[2:] if flow.dim() == 4 else (height, width)
    density = max(height // max(rows, 1), 1)
    if flow.shape != (batch, 2, height // density, width // density) or height % density or width % density:
        raise ValueError(f"flow should be {(batch, 2, height, width)}, got {tuple(flow.shape)}")
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))  # half-precision coordinates are off by whole cells
    if flow.device.type == "cpu" and not (torch.is_grad_enabled() and (key_feature.requires_grad or flow.requires_grad)):
        return _warp_on_host(key_feature.to(flow.dtype), flow, density)
    return sample(key_feature.to(flow.dtype), (cell_grid(rows, columns, flow.device).to(flow.dtype) + flow) * density)


def sample(maps: Tensor, position: Tensor) -> Tensor:
    """``maps`` (N, C, H, W) at the places ``position`` (N, 2, M, K), x and y in their own cells, bilinearly: (N, C, M, K); zero outside."""
    if 1 in maps.shape[2:]:  # an axis of one cell has no scale of its own; between zeros it is like any other
        maps, position = F.pad(maps, (1, 1, 1, 1)), position + 1.0
    # With align_corners cell i lies at 2 i / (size - 1) - 1, so whole positions hit cell centres exactly.
    x, y = (position[:, axis] * (2.0 / (maps.shape[3 - axis] - 1)) - 1.0 for axis in (0, 1))
    return F.grid_sample(maps, torch.stack([x, y], dim=-1), align_corners=True, padding_mode="zeros")


def _warp_on_host(key_feature: Tensor, flow: Tensor, density: int) -> Tensor:
    """The warp where no gradient is asked for, in half of ``grid_sample``'s time: each cell is a weighted sum of four others.

    The answer is channels-last, as the heads' convolutions want it.
    """
    batch, channels, height, width = key_feature.shape
    rows_wanted, columns_wanted = flow.shape[2:]
    dx, dy = flow.detach().unbind(1)
    columns, share_x = _neighbours((dx.numpy() + np.arange(columns_wanted, dtype=np.float32)) * density, width)
    rows, share_y = _neighbours((dy.numpy() + np.arange(rows_wanted, dtype=np.float32)[:, None]) * density, height)
    image = np.arange(batch).reshape(-1, 1, 1) * (height * width)
    cells = (image + rows * width)[:, None] + columns
    shares = share_y[:, None] * share_x

    def bags(four: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(four.reshape(4, -1).T))

    table = key_feature.detach().permute(0, 2, 3, 1).reshape(-1, channels)
    warped = F.embedding_bag(bags(cells), table, per_sample_weights=bags(shares), mode="sum")
    return warped.view(batch, rows_wanted, columns_wanted, channels).permute(0, 3, 1, 2)


def _neighbours(position: NDArray[np.floating], size: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The whole numbers before and after ``position`` along an axis of ``size`` cells, and their shares; none for those outside."""
    position = position.clip(-1, size)
    before = np.floor(position)
    both = np.stack([before, before + 1])
    shares = np.stack([both[1] - position, position - before]) * ((both >= 0) & (both < size))
    return both.astype(np.int64).clip(0, size - 1), shares


def chain(step: FlowFields, earlier: FlowFields) -> FlowFields:
    """The fields back to the key frame, from those of one ``step`` back and those of the frame before from there on.

    flow(p) = step(p) + earlier(p + step(p)), and scales multiply. The paper measures the way back to the key frame at once, which a
    search for small motions loses on long ways; step by step it holds (on CamVid the warp loses half as much over ten frames).
    Where both know their flow within cells it is that which is put together: from cell to cell, a person one cell wide would take on more
    of the background's motion with every frame (mIoU of the warp after nine frames: .594 instead of .584).
    Where a step leads out of the frame before, the flow of its nearest edge goes on. Raises ValueError where the two do not fit.
    """
    if (step.scale is None) != (earlier.scale is None):
        raise ValueError("fields should both have a scale or both none, as those of one network do")
    if step.flow.shape != earlier.flow.shape:
        raise ValueError(f"flow should be {tuple(step.flow.shape)}, got {tuple(earlier.flow.shape)}")
    scale = None
    if step.scale is not None and earlier.scale is not None:
        height, width = step.flow.shape[2:]
        scale = step.scale * warp(earlier.scale, _inside(step.flow.float()) - cell_grid(height, width, step.flow.device))
    if step.fine is None or earlier.fine is None or step.fine.shape != earlier.fine.shape:
        return FlowFields(_one_after_the_other(step.flow, earlier.flow), scale)
    density = step.fine.shape[2] // step.flow.shape[2]
    fine = _one_after_the_other(step.fine * density, earlier.fine * density) / density
    return FlowFields(F.avg_pool2d(fine, density), scale, fine)


def _one_after_the_other(step: Tensor, earlier: Tensor) -> Tensor:
    """step(p) + earlier(p + step(p)) for flows (N, 2, H, W) in cells of their own grid."""
    return step + sample(earlier.float(), _inside(step.float()))


def _inside(flow: Tensor) -> Tensor:
    """Where ``flow`` (N, 2, H, W) leads from each cell, x and y in cells, or the place at the map's edge that is nearest to that."""
    height, width = flow.shape[2:]
    farthest = torch.tensor([width - 1.0, height - 1.0], device=flow.device).view(1, 2, 1, 1)
    return (cell_grid(height, width, flow.device) + flow).clamp(min=torch.zeros_like(farthest), max=farthest)


def propagate(key_feature: Tensor, fields: FlowFields) -> Tensor:
    """Carry ``key_feature`` to the current frame, (N, C, H, W): warped (see :func:`warp`), then multiplied by the scale (DFF, eq. 4)."""
    feature = warp(key_feature, fields.flow)
    if fields.scale is None:
        return feature
    if fields.scale.shape != feature.shape:
        raise ValueError(f"scale should be {tuple(feature.shape)}, got {tuple(fields.scale.shape)}")
    return feature * fields.scale.to(feature.dtype)
