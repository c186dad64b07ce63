"""Key frames, and the way from them to the frames after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain
from dff_ros.core.refine_network import RefineInput
from dff_ros.core.results import ImageGeometry, Task
from dff_ros.core.signals import Signals, doubt, mean_over_cells, measure_signals
from dff_ros.engine.loading import LoadedModel


class PreparedFrame:
    """What the flow network and the branch read of one image, each computed when first asked for: per-frame never asks."""

    def __init__(self, networks: DeepFeatureFlow, image: Tensor) -> None:
        self.image = image
        """(1, 3, H, W), RGB in 0..1."""
        self._networks = networks

    @cached_property
    def flow(self) -> Tensor:
        """For the flow network."""
        prepared: Tensor = self._networks.flow_network.prepare(self.image)
        return prepared

    @cached_property
    def cells(self) -> Tensor:
        """The image averaged over each feature cell, (1, 3, h, w) float32; the branch's own, where it computes one."""
        refine_network = self._networks.refine_network
        cells: Tensor = mean_over_cells(self.image, self._networks.stride) if refine_network is None else self.refine.cells
        return cells

    @cached_property
    def refine(self) -> RefineInput:
        """For the branch on the current frame, which the bundle must have."""
        prepared: RefineInput = self._networks.refine_network.prepare(self.image)
        return prepared


@dataclass(frozen=True)
class KeyFrame:
    """What is kept of a key frame: its feature and what the other networks read of its image."""

    networks: DeepFeatureFlow
    feature: Tensor
    prepared: PreparedFrame
    geometry: ImageGeometry
    stamp: int
    feature_ms: float
    """Milliseconds that the feature took, in the step or aside."""
    made: Tensor | None = None
    """What is warped of it, where that was made beside the stream."""

    @cached_property
    def carried(self) -> Tensor:
        """What is warped of it, made when first asked for: per-frame never asks."""
        carried: Tensor = self.networks.carried_map(self.feature) if self.made is None else self.made
        return carried

    @cached_property
    def doubt(self) -> Tensor:
        """How unsure its classes are, (1, 1, h, w) in 0..1; 1 everywhere where there are none. For schedules that ask."""
        if Task.SEGMENTATION not in self.networks.tasks:
            return torch.ones_like(self.prepared.cells[:, :1])
        return doubt(self.networks.head(Task.SEGMENTATION), self.feature)

    def signals(self, frame: PreparedFrame, fields: FlowFields, age: int) -> Signals:
        """What a schedule sees of ``frame``, ``age`` frames later, to which ``fields`` lead back."""
        return measure_signals(frame.cells, self.prepared.cells, self.doubt, fields.flow, age=age)


class Step:
    """From one frame of the video to the next. Its flow is measured when first asked for, once for all ways that take it."""

    def __init__(self, model: LoadedModel, frame: PreparedFrame, before: PreparedFrame) -> None:
        self.frame = frame
        self._model = model
        self._before = before

    @cached_property
    def fields(self) -> FlowFields:
        """Flow and scale from the frame back to the one before it."""
        return self._model.flow(self.frame.flow, self._before.flow)


class Way:
    """How far the video has gone since one of its frames. It is told of every frame processed, in order.

    Where the model chains flow, each frame's flow is measured to the frame before it and goes on from there to the start; otherwise it is
    measured to the start at once, as in the paper.
    """

    def __init__(self, model: LoadedModel, start: PreparedFrame) -> None:
        self.age = 0
        """Processed frames since the start."""
        self._model = model
        self._start = self._latest = start
        self._fields: FlowFields | None = None

    def step_to(self, frame: PreparedFrame) -> Step:
        """The step from the latest frame to the video's next."""
        return Step(self._model, frame, self._latest)

    def fields_of(self, step: Step) -> FlowFields:
        """Flow and scale from the frame that ``step`` leads to back to the start; the way stays where it is."""
        if not self._model.networks.chains_flow:
            return self._model.flow(step.frame.flow, self._start.flow)
        return step.fields if self._fields is None else chain(step.fields, self._fields)

    def advance(self, step: Step, fields: FlowFields | None = None) -> None:
        """Take ``step``; ``fields`` are what :meth:`fields_of` says of it, where that is known already."""
        if self._model.networks.chains_flow:
            self._fields = self.fields_of(step) if fields is None else fields
        self.age += 1
        self._latest = step.frame


@dataclass(frozen=True)
class Track:
    """A key frame and the way from it to the video's latest frame."""

    key: KeyFrame
    way: Way

    @property
    def age(self) -> int:
        """Processed frames since the key frame."""
        return self.way.age
