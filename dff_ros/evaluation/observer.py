"""Who looks on while a recording is replayed: scores, videos, bags and reports are all observers of the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.truth import FrameTruth
from dff_ros.recording.frames import StampedFrame


@dataclass(frozen=True)
class AnsweredFrame:
    """One frame of a replay and all that was said about it."""

    item: StampedFrame
    result: FrameResult
    per_frame: FrameResult | None
    """Per-frame's answer to the same frame, where it ran."""
    truth: FrameTruth


class Observer(Protocol):
    """Is told of every frame once, in order. It should keep figures, not frames: recordings are long."""

    def add(self, answered: AnsweredFrame) -> None:
        """Take one frame."""
