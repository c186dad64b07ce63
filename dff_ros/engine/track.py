"""The way from a key frame to the frames after it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain
from dff_ros.core.refine_network import RefineInput
from dff_ros.core.results import ImageGeometry
from dff_ros.core.signals import mean_over_cells
from dff_ros.engine.loading import LoadedModel


class PreparedFrame:
    """What the flow network and the branch read of one image, each computed when first asked for: per-frame never asks."""

    def __init__(self, networks: DeepFeatureFlow, image: Tensor) -> None:
        self._networks = networks
        self._image = image

    @cached_property
    def flow(self) -> Tensor:
        """For the flow network."""
        prepared: Tensor = self._networks.flow_network.prepare(self._image)
        return prepared

    @cached_property
    def cells(self) -> Tensor:
        """The image averaged over each feature cell, (1, 3, h, w) float32; the branch's own, where it computes one."""
        refine_network = self._networks.refine_network
        cells: Tensor = mean_over_cells(self._image, self._networks.stride) if refine_network is None else self.refine.cells
        return cells

    @cached_property
    def refine(self) -> RefineInput:
        """For the branch on the current frame, which the bundle must have."""
        prepared: RefineInput = self._networks.refine_network.prepare(self._image)
        return prepared


@dataclass(frozen=True)
class KeyFrame:
    """What is kept of a key frame: its feature and what the other networks read of its image."""

    feature: Tensor
    prepared: PreparedFrame
    geometry: ImageGeometry
    stamp: int


class Track:
    """A key frame and how far the video has gone since. It is told of every frame processed, in order.

    Where the model chains flow, each frame's flow is measured to the frame before it and goes on from there to the key frame; otherwise it
    is measured to the key frame at once, as in the paper.
    """

    def __init__(self, model: LoadedModel, key: KeyFrame) -> None:
        self.key = key
        self.age = 0
        """Processed frames since the key frame."""
        self._model = model
        self._latest = key.prepared
        self._fields: FlowFields | None = None

    def fields_of(self, frame: PreparedFrame) -> FlowFields:
        """Flow and scale from the video's next frame back to the key frame; the track stays where it is."""
        if not self._model.networks.chains_flow:
            return self._model.flow(frame.flow, self.key.prepared.flow)
        step = self._model.flow(frame.flow, self._latest.flow)
        return step if self._fields is None else chain(step, self._fields)

    def advance(self, frame: PreparedFrame, fields: FlowFields) -> None:
        """Go on to the next frame, whose fields are ``fields``."""
        self.age += 1
        self._latest, self._fields = frame, fields
