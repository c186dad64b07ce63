"""A video of which every frame is a key frame: what each of them says of the frames after it, and what a schedule sees of that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dff_ros.core.propagate import propagate
from dff_ros.core.results import ImageGeometry, Task
from dff_ros.core.signals import Signals, surprise
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.preprocess import fit, to_image
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.track import KeyFrame, PreparedFrame, Step, Track, Way
from dff_ros.recording.frames import StampedFrame

OLDEST = 16
"""Age up to which a frame is carried."""


@dataclass(frozen=True)
class Told:
    """What a schedule sees of a frame and its key."""

    signals: Signals | None = None
    """None where the frame is the key itself."""
    surprise: float = math.nan
    """What the frame's own feature shows of the key; NaN for the key itself, and where there are no classes to compare."""


@dataclass(frozen=True, eq=False)
class Aged:
    """A frame's feature, (1, C, h, w), as its key at some age gives it; at age 0 its own."""

    feature: Tensor
    geometry: ImageGeometry
    told: Told


class EveryAge:
    """A video of which every frame is a key frame, carried to the ``oldest`` frames after it.

    The branch on the current frame is included where it is loaded and switched on.
    """

    def __init__(self, model: LoadedModel, settings: EngineSettings, *, oldest: int = OLDEST) -> None:
        self._model, self._settings, self._oldest = model, settings, oldest
        self._tracks: list[Track] = []

    def reset(self) -> None:
        """The next frame begins a recording."""
        self._tracks = []

    @torch.inference_mode()
    def step(self, item: StampedFrame) -> Iterator[Aged]:
        """The frame with its key at age 0, 1, ..., one after the other; all have to be taken. All frames must have one size."""
        model, networks = self._model, self._model.networks
        pixels = self._settings.input_pixels or model.card.input_pixels
        geometry = fit(*item.frame.shape[:2], input_pixels=pixels, stride=model.input_multiple)
        image = to_image(item.frame, geometry, model.device)
        prepared, feature = PreparedFrame(networks, image), model.extract(image)
        yield Aged(feature, geometry, Told())
        step = self._tracks[0].way.step_to(prepared) if self._tracks else Step(model, prepared, prepared)  # one for all tracks
        for age, track in enumerate(self._tracks, start=1):
            fields = track.way.fields_of(step)
            carried = propagate(track.key.carried, fields)
            signals = track.key.signals(prepared, fields, age)
            if model.refines(self._settings):
                carried = model.refine(prepared.refine, track.key.prepared.refine, carried, fields, age)
            segments = Task.SEGMENTATION in networks.tasks
            seen = surprise(networks.head(Task.SEGMENTATION), track.key.carried, fields, feature) if segments else math.nan
            yield Aged(carried, geometry, Told(signals, seen))
            track.way.advance(step, fields)
        newest = Track(KeyFrame(networks, feature, prepared, geometry, item.stamp, 0.0), Way(model, prepared))
        self._tracks = [newest, *self._tracks][: self._oldest]
