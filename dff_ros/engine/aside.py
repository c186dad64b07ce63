"""The key frame that is computed beside its stream: ordered at one frame, taken over at a later one."""

from __future__ import annotations

from dataclasses import dataclass

from dff_ros.core.results import ImageGeometry
from dff_ros.engine.frame_pair import FramePair
from dff_ros.engine.key_worker import KeyWorker
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.track import KeyFrame, PreparedFrame, Step, Track, Way


@dataclass(frozen=True)
class Order:
    """A key frame but for its feature, and how far the video has gone since."""

    prepared: PreparedFrame
    geometry: ImageGeometry
    stamp: int
    asked: FramePair
    """What the schedule saw of it."""
    way: Way


@dataclass(frozen=True)
class Ready:
    """A key frame whose feature is there."""

    track: Track
    asked: FramePair
    """What the schedule saw of its frame, beside the key frame before."""


class KeyFrameAside:
    """At most one key frame in flight. Told of every frame after the order, so that its track is up to date when its feature is ready."""

    def __init__(self, model: LoadedModel, worker: KeyWorker) -> None:
        self._model = model
        self._worker = worker
        self._order: Order | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a key frame was ordered and not yet taken."""
        return self._order is not None

    def order(self, prepared: PreparedFrame, geometry: ImageGeometry, stamp: int, asked: FramePair) -> None:
        """Have the feature of the current frame computed."""
        self._worker.start(prepared.image)
        self._order = Order(prepared, geometry, stamp, asked, Way(self._model, prepared))

    def advance(self, step: Step) -> None:
        """The video went on by ``step``."""
        if self._order is not None:
            self._order.way.advance(step)

    def take(self) -> Ready | None:
        """With each new frame: the ordered key, once its feature is ready.

        Raises what went wrong with it, which ends the order too.
        """
        order = self._order
        if order is None or not self._worker.finished(order.way.age + 1):
            return None
        self._order = None
        ready = self._worker.take()
        key = KeyFrame(self._model.networks, ready.feature, order.prepared, order.geometry, order.stamp, ready.took_ms, ready.carried)
        return Ready(Track(key, order.way), order.asked)

    def cancel(self) -> None:
        """Forget what is in flight."""
        if self._order is not None:
            self._order = None
            self._worker.cancel()

    def close(self, timeout: float | None = None) -> bool:
        """Forget it and end the worker; False where that is still busy after ``timeout`` seconds."""
        self._order = None
        return self._worker.close(timeout)
