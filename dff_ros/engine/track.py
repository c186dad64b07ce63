"""The way from a key frame to the frames after it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain
from dff_ros.core.refine_network import RefineInput
from dff_ros.core.results import ImageGeometry
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

    def carried_map(self, feature: Tensor) -> Tensor:
        """What is warped of the frame's ``feature``, float32 as that is."""
        carried: Tensor = self._networks.carried_map(feature)
        return carried

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

    @cached_property
    def carried(self) -> Tensor:
        """What is warped of it, made when first asked for: per-frame never asks."""
        return self.prepared.carried_map(self.feature)


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
