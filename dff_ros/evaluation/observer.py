"""Who looks on while a recording is replayed: scores, videos, bags and reports are all observers of the same answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth
from dff_ros.recording.frames import StampedFrame


@dataclass(frozen=True)
class AnsweredFrame:
    """One frame of a replay and all that was said about it."""

    item: StampedFrame
    result: FrameResult
    per_frame: FrameResult | None
    """Per-frame's answer to the same frame, where it ran."""
    truth: FrameTruth
    latency_ms: float | None = None
    """From the frame's arrival to its result; None where frames do not arrive by a clock."""


class Observer(ABC):
    """Is told of every frame once, in order. It should keep figures, not frames: recordings are long.

    In real time some frames are dropped. Who shows or scores answers need not know; who keeps count of frames overrides ``dropped``.
    """

    @abstractmethod
    def add(self, answered: AnsweredFrame) -> None:
        """Take one frame that was answered."""

    def dropped(self, item: StampedFrame) -> None:  # noqa: B027 - most observers have nothing to do
        """Take one frame that the engine had no time for, in its place among the others."""
