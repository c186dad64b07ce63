"""What training reads: a pair of frames with the truth of the current one, alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

IGNORED_LABEL = 255
"""Label of a pixel without truth: void, unlabelled or padding."""

DETECTION_CLASSES = ("person", "car", "bicyclist")
SEGMENTATION_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""The CamVid classes, in the order of their ids."""

DETECTION_CLASS_OF = {8: 1, 9: 0, 10: 2}
"""CamVid id -> detection class, for the classes that are things."""


@dataclass(frozen=True)
class Sample:
    """A key frame and the current frame, ``offset`` frames later; all truth belongs to the current frame, in its pixels."""

    key_image: Tensor
    """(3, h, w) uint8 RGB; the very tensor ``image`` where the offset is 0."""
    image: Tensor
    offset: int
    labels: Tensor
    """(h, w) uint8 CamVid ids, 255 where there is no truth."""
    boxes: Tensor
    """(G, 4) float32 x1 y1 x2 y2."""
    box_labels: Tensor
    """(G,) int64, indices into DETECTION_CLASSES."""
    ignore_boxes: Tensor
    """(I, 4) float32: what lies in these is neither an object nor background."""
    labelled_classes: Tensor
    """(3,) bool: the detection classes whose every object the source labels; all False: nothing to learn for detection."""
    source: str
    flow: Tensor | None = None
    """(2, h, w) float32 dx dy in pixels from the current frame to the key frame, where it is known exactly."""
    visible: Tensor | None = None
    """(h, w) bool: what is seen here is also seen in the key frame, at p + flow(p)."""
    between: Tensor | None = None
    """(offset - 1, 3, h, w) uint8 RGB, the key frame's neighbour first; None where they are not known or not wanted."""


@dataclass(frozen=True)
class Batch:
    """N samples of one size; fields as in :class:`Sample` with a leading N, boxes as lists of N tensors."""

    key_images: Tensor
    images: Tensor
    offsets: Tensor
    labels: Tensor
    boxes: list[Tensor]
    box_labels: list[Tensor]
    ignore_boxes: list[Tensor]
    labelled_classes: Tensor
    sources: list[str]
    flow: Tensor | None
    """(N, 2, h, w); zero in samples whose flow is not known; None when it is known in none."""
    visible: Tensor | None
    """(N, h, w) bool; False in samples whose flow is not known."""
    flow_known: Tensor
    """(N,) bool."""
    between: list[Tensor] = field(default_factory=list)
    """N tensors (B, 3, h, w), with B = 0 in samples whose frames between are not known; the list is empty where none are wanted."""

    def __len__(self) -> int:
        return len(self.offsets)

    def pin_memory(self) -> Batch:
        """The same batch with its image tensors in page-locked memory (called by torch's DataLoader)."""
        stacked: dict[str, Any] = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **stacked, between=[frames.pin_memory() for frames in self.between])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; raises ValueError where their sizes differ."""
    sizes = {tuple(sample.image.shape) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"samples of one batch should share one size, got {sorted(sizes)}")
    flow_known = torch.tensor([sample.flow is not None for sample in samples])
    flow, visible = _stack_flow(samples) if bool(flow_known.any()) else (None, None)
    return Batch(
        key_images=torch.stack([sample.key_image for sample in samples]),
        images=torch.stack([sample.image for sample in samples]),
        offsets=torch.tensor([sample.offset for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        boxes=[sample.boxes for sample in samples],
        box_labels=[sample.box_labels for sample in samples],
        ignore_boxes=[sample.ignore_boxes for sample in samples],
        labelled_classes=torch.stack([sample.labelled_classes for sample in samples]),
        sources=[sample.source for sample in samples],
        flow=flow,
        visible=visible,
        flow_known=flow_known,
        between=_list_between(samples),
    )


def _list_between(samples: Sequence[Sample]) -> list[Tensor]:
    if all(sample.between is None for sample in samples):
        return []
    return [sample.image.new_empty((0, *sample.image.shape)) if sample.between is None else sample.between for sample in samples]


def _stack_flow(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    height, width = samples[0].image.shape[-2:]
    flow = torch.zeros(len(samples), 2, height, width)
    visible = torch.zeros(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        if sample.flow is not None and sample.visible is not None:
            flow[index] = sample.flow
            visible[index] = sample.visible
    return flow, visible
