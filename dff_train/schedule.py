"""``dff_train schedule``: fit the estimator that an adaptive key frame schedule goes by, on recordings without any label.

The bundle's own per-frame answers teach: on every frame the answers carried from earlier key frames are held against them, and the
estimator learns to tell from the signals (:mod:`dff_ros.core.signals`) what share of the pixels differs.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dff_ros.core.bundle import Card, find_bundle, load_bundle, save_bundle
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields
from dff_ros.core.results import Task
from dff_ros.core.signals import FLOORS, SIGNALS, Estimator, doubt, mean_over_cells, measure_signals, surprise
from dff_ros.engine.preprocess import fit as fitted
from dff_ros.engine.preprocess import to_image
from dff_ros.recording.frames import select
from dff_ros.recording.opening import open_recording
from dff_train.clips import Clip
from dff_train.disagreement import one_on
from dff_train.distill import Given
from dff_train.objective import carried, extract, way_back
from dff_train.recordings import decode, split

AGES = (1, 2, 3, 4, 6, 8, 11, 16)
"""Ages at which answers are held against per-frame's: what changes fast is looked at more often."""

LEAST_FRAMES = 5 * (max(AGES) + 1)
"""Of a recording, so that the fifth held out reaches to the largest age."""

SMALLEST = 2e-3
"""Shares below this count as this: logarithms of what is one or no cell say nothing."""

RIDGE = 0.03
"""Keeps weights small where signals say the same."""

USED = SIGNALS
"""All of them: none harmed on recordings held out."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """What was seen in one recording, a row for each frame and age."""

    signals: Array
    """(rows, signals) logarithms, in the order of ``USED``."""
    differs: Array
    """(rows,) the logarithm of the share of pixels whose class differs from per-frame's."""
    surprises: Array
    """(rows,) the logarithm of what a key frame there would show."""


def schedule(
    model: str, recordings: Sequence[Given], *, to: Path, device: torch.device, frames: int = 240, without_branch: bool = False
) -> Estimator:
    """Fit the estimator of a bundle on the recordings and write the bundle, with it, to ``to``.

    Of each recording about ``frames`` frames are used. Raises ValueError or OSError in one line where that is not possible.
    """
    if not recordings:
        raise ValueError("at least one recording should be given: --video, --frames or --bag")
    if find_bundle(model).resolve() == to.resolve():
        raise ValueError(f"the new bundle should not take the place of the one it is made from, got {to} for both")
    card, networks = load_bundle(model)
    if Task.SEGMENTATION not in networks.tasks:
        raise ValueError(f"bundle {card.name!r} has no segmentation head: the estimator learns from class maps")
    parts = [split(read(given, card.input_pixels, frames)) for given in recordings]
    estimator, figures = fit_and_check(networks, parts, card, device=device, without_branch=without_branch)
    save_bundle(to, estimated_card(card, to.name, estimator, figures, model, recordings, without_branch), networks)
    print(f"dff_train: {figures['explained']:.0%} of what varies within a recording held out is told beforehand")
    print(f"dff_train: wrote {to}")
    return estimator


def fit_and_check(
    networks: DeepFeatureFlow, parts: Sequence[tuple[Clip, Clip]], card: Card, *, device: torch.device, without_branch: bool = False
) -> tuple[Estimator, dict[str, Any]]:
    """The estimator from the first of each pair of clips, and figures of it on the second; the networks stay as they were."""
    branch = networks.refine_network
    networks.to(device).eval()
    try:
        if without_branch:
            networks.refine_network = None
        sides = zip(*parts, strict=True)
        learned, held = ([observe(networks, clip, pixels=card.input_pixels, device=device) for clip in side] for side in sides)
    finally:
        networks.refine_network = branch
    estimator = fit(learned)
    figures = {"rows": sum(len(each.differs) for each in learned), "explained": round(explained(estimator, held), 3)}
    return estimator, figures


_RANGE = re.compile(r"^(?P<path>.+)@(?P<first>\d+):(?P<last>\d+)$")


def read(given: Given, pixels: int, most: int) -> Clip:
    """About ``most`` frames of a recording, in runs; ``PATH@A:B`` takes source frames A to B alone."""
    ranged = _RANGE.match(str(given.path))
    path = Path(ranged["path"]) if ranged else given.path
    recording = open_recording(**{given.kind: path}, rate=given.rate, topic=given.topic)  # type: ignore[arg-type]
    if ranged:
        recording = select(recording, int(ranged["first"]), int(ranged["last"]))
    with tqdm(recording, desc=path.name, unit="frame") as frames:
        clip = decode(given.path.name, frames, pixels=pixels, most=most)
        found = frames.n
    if len(clip) < LEAST_FRAMES:
        thinned = f" of its {found}: --most {most} leaves too few" if len(clip) < found else ""
        raise ValueError(f"{given.path.name} should hold at least {LEAST_FRAMES} frames, got {len(clip)}{thinned}")
    return clip


class _Seen(NamedTuple):
    """A frame that may be the key of those to come."""

    image: Tensor
    key_map: Tensor
    """What is warped of it."""
    cells: Tensor
    doubt: Tensor


@torch.no_grad()
def observe(model: DeepFeatureFlow, clip: Clip, *, pixels: int, device: torch.device) -> Observed:
    """Carry every frame's feature to the frames after it; note signals and disagreement. Raises ValueError for a clip too short."""
    head = model.head(Task.SEGMENTATION)
    told, differs, surprises = [], [], []
    seen: deque[_Seen] = deque(maxlen=max(AGES))
    ways: FlowFields | None = None
    for index, frame in enumerate(tqdm(clip.frames, desc=clip.name, unit="frame")):
        if clip.firsts[index] == index:
            seen.clear()
            ways = None
        geometry = fitted(*frame.shape[:2], input_pixels=pixels, stride=model.stride)
        image = to_image(frame, geometry, device)
        feature, cells = extract(model.feature_network, image), mean_over_cells(image, model.stride)
        own = head.decode(head(feature), geometry).labels
        if seen and model.chains_flow:
            ways = one_on(way_back(model, image, seen[-1][0]), ways, most=max(AGES))
        ages = [age for age in AGES if age <= len(seen)]
        if ages:
            keys = [seen[-age] for age in ages]
            key_images, key_maps = torch.cat([key.image for key in keys]), torch.cat([key.key_map for key in keys])
            fields = way_back(model, image.expand_as(key_images), key_images) if ways is None else ways.rows([-age for age in ages])
            answers = carried(model, key_maps, image, key_images, torch.tensor(ages, device=device), fields)
            for row, (age, key) in enumerate(zip(ages, keys, strict=True)):
                signals = measure_signals(cells, key.cells, key.doubt, fields.flow[row : row + 1].to(device), age=age)
                told.append([float(value) for value in astuple(signals)])
                differs.append(float((head.decode(head(answers[row : row + 1]), geometry).labels != own).mean()))
                surprises.append(surprise(head, key.key_map, fields.rows([row]), feature))
        seen.append(_Seen(image, model.carried_map(feature), cells, doubt(head, feature)))
    if not told:
        raise ValueError(f"{clip.name} should hold consecutive frames")
    floors = np.array([FLOORS[name] for name in USED])
    return Observed(np.log(np.array(told) + floors), _log(differs), _log(surprises))


def _log(shares: Sequence[float]) -> Array:
    logarithms: Array = np.log(np.maximum(np.array(shares, np.float64), SMALLEST))
    return logarithms


def fit(recordings: Sequence[Observed]) -> Estimator:
    """Least squares of logarithms, every recording alike.

    The weights come from what varies within recordings alone: that one camera's residuals stand for more than another's is what the
    schedule learns from its key frames, and fitted weights would blur it into signals that only tell the cameras apart.
    """
    signals = np.concatenate([each.signals - each.signals.mean(axis=0) for each in recordings])
    differs = np.concatenate([each.differs - each.differs.mean() for each in recordings])
    share = np.concatenate([np.full(len(each.differs), 1.0 / len(each.differs) / len(recordings)) for each in recordings])
    normal = (signals * share[:, None]).T @ signals + RIDGE / len(recordings) * np.eye(signals.shape[1])
    weights = np.linalg.solve(normal, (signals * share[:, None]).T @ differs)
    bias = np.mean([each.differs.mean() - (each.signals @ weights).mean() for each in recordings])
    excess = np.mean([(each.surprises - each.differs).mean() for each in recordings])
    by_name = {name: round(float(weight), 4) for name, weight in zip(USED, weights, strict=True)}
    return Estimator(by_name, round(float(bias), 4), round(float(excess), 4))


def explained(estimator: Estimator, recordings: Sequence[Observed]) -> float:
    """Share of the variance of the logarithm within a recording that the estimate explains, the mean over the recordings."""
    weights = np.array([estimator.weights.get(name, 0.0) for name in USED])
    shares = [1.0 - np.var(each.differs - each.signals @ weights) / max(np.var(each.differs), 1e-9) for each in recordings]
    return float(np.mean(shares))


def estimated_card(
    card: Card, name: str, estimator: Estimator, figures: dict[str, Any], model: str, recordings: Sequence[Given], without_branch: bool
) -> Card:
    """The bundle's card with the estimator, and how it was made."""
    given = [option for item in recordings for option in (f"--{item.kind}", item.path.name)]
    branch = ["--without-branch"] if without_branch else []
    command = shlex.join(["dff_train", "schedule", "--model", Path(model).name, *given, *recordings[0].reading(), *branch])
    content = {"weights": dict(estimator.weights), "bias": estimator.bias, "surprise": estimator.surprise, **figures, "made_by": command}
    return replace(card, name=name, disagreement=content)
