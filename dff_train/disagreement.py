"""How far propagated answers are from per-frame's on the same frames: what distillation is to remove. No label takes part."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dff_ros.core.boxes import box_iou
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain
from dff_ros.core.results import Detections, ImageGeometry, LabelMap
from dff_ros.engine.preprocess import fit, to_image
from dff_train.clips import Clip
from dff_train.distillation import feature_loss
from dff_train.objective import carried, extract, way_back

MOST_WINDOWS = 5
"""Stretches of two intervals, evenly spread over what is given, that are scored."""

SURE = 0.5
"""Score from which a box counts."""

MATCHED = 0.5
"""IoU from which two boxes of one class are the same object."""


@dataclass
class Disagreement:
    """Means over the ages 0..interval-1, each frame scored at every age; at age 0 there is none."""

    interval: int
    frames: int = 0
    pixels: list[float] = field(default_factory=list)
    """Of each answer the share of pixels whose class is another."""
    features: list[float] = field(default_factory=list)
    """Of each answer the squared distance of the feature, in units of its energy."""
    boxes: int = 0
    """Sure boxes of both answers together."""
    matched: int = 0
    """Those of them that both answers have."""

    def figures(self) -> dict[str, float | int | None]:
        """By name; None for what the model does not answer."""
        propagated_share = (self.interval - 1) / self.interval
        pixels = round(float(np.mean(self.pixels)) * propagated_share, 4) if self.pixels else None
        boxes = round((1.0 - self.matched / self.boxes) * propagated_share, 4) if self.boxes else None
        feature = round(float(np.mean(self.features)) * propagated_share, 4)
        return {"frames": self.frames, "pixels": pixels, "boxes": boxes, "feature": feature}


@torch.no_grad()
def disagreement(model: DeepFeatureFlow, clips: Sequence[Clip], *, interval: int, pixels: int, device: torch.device) -> Disagreement:
    """Score the model, which is put into evaluation mode, on ``clips``, with keys at each of 1..interval-1 frames before.

    Frames are shown to the networks as the engine shows them, at ``pixels`` pixels. Of much material MOST_WINDOWS stretches are scored.
    Raises ValueError where no clip has ``interval`` consecutive frames.
    """
    found = [window for clip in clips for window in _windows(clip, interval)]
    if not found:
        raise ValueError(f"scoring at interval {interval} needs as many consecutive frames")
    chosen = [found[index] for index in sorted(set(np.linspace(0, len(found) - 1, MOST_WINDOWS).round().astype(int)))]
    model.eval()
    outcome = Disagreement(interval)
    with tqdm(total=sum(map(len, chosen)), desc="scoring", unit="frame") as progress:
        for frames in chosen:
            seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=interval)
            ways: FlowFields | None = None
            for frame in frames:
                geometry = fit(*frame.shape[:2], input_pixels=pixels, stride=model.stride)
                image = to_image(frame, geometry, device)
                if seen and model.chains_flow:
                    ways = one_on(way_back(model, image, seen[-1][0]), ways, most=interval - 1)
                seen.append((image, extract(model.feature_network, image)))
                if len(seen) == interval:
                    _compare(outcome, model, seen, ways, geometry)
                progress.update()
    return outcome


def _windows(clip: Clip, interval: int) -> list[Sequence[Any]]:
    """Stretches of up to two intervals of consecutive frames, at least one."""
    borders = [*sorted(set(clip.firsts)), len(clip)]
    windows = []
    for first, end in itertools.pairwise(borders):
        starts = range(first, max(end - interval + 1, first), 2 * interval)
        windows += [clip.frames[start : min(start + 2 * interval, end)] for start in starts]
    return windows


def one_on(step: FlowFields, ways: FlowFields | None, *, most: int) -> FlowFields:
    """The fields from the newest frame to each of the ``most`` before it, the earliest first, from those of the frame before it."""
    if ways is None or most == 1:
        return step
    ways = ways.rows(slice(1 - most, None))
    count = len(ways.flow)
    further = chain(step.each(lambda member: member.expand(count, -1, -1, -1)), ways)
    return further.with_other(step, lambda ours, newest: torch.cat([ours, newest]))


def _compare(
    outcome: Disagreement,
    model: DeepFeatureFlow,
    seen: deque[tuple[Tensor, Tensor]],
    ways: FlowFields | None,
    geometry: ImageGeometry,
) -> None:
    """Hold the newest frame's answers from all earlier keys, carried along ``ways`` if these are chained, against its own."""
    images, features = (torch.cat(each) for each in zip(*seen, strict=True))
    count = len(images) - 1
    ages = torch.arange(count, 0, -1, device=images.device)
    newest = images[-1:]
    fields = way_back(model, newest.expand(count, -1, -1, -1), images[:-1]) if ways is None else ways
    answers = carried(model, model.carried_map(features[:-1]), newest, images[:-1], ages, fields).unsqueeze(1)
    outcome.frames += 1
    outcome.features += [float(feature_loss(each, features[-1:])) for each in answers]
    for task in model.tasks:
        head = model.head(task)
        own = head.decode(head(features[-1:]), geometry)
        for feature in answers:
            _add(outcome, own, head.decode(head(feature), geometry))


def _add(outcome: Disagreement, own: Detections | LabelMap, answer: Detections | LabelMap) -> None:
    if isinstance(own, LabelMap) and isinstance(answer, LabelMap):
        outcome.pixels.append(float((own.labels != answer.labels).mean()))
    elif isinstance(own, Detections) and isinstance(answer, Detections):
        ours, theirs = own.above(SURE), answer.above(SURE)
        outcome.boxes += len(ours) + len(theirs)
        outcome.matched += 2 * matches(ours, theirs)


def matches(ours: Detections, theirs: Detections) -> int:
    """How many boxes the two have in common, each counted once: by falling overlap, of one class, MATCHED at least."""
    if not len(ours) or not len(theirs):
        return 0
    overlap = box_iou(torch.from_numpy(ours.boxes), torch.from_numpy(theirs.boxes)).numpy()
    overlap = overlap * (ours.labels[:, None] == theirs.labels[None])
    count = 0
    while overlap.size and overlap.max() >= MATCHED:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap = np.delete(np.delete(overlap, row, 0), column, 1)
        count += 1
    return count
