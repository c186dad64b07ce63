"""Frames that arrive by their stamps at an engine that takes its time: which are answered, which are dropped, and when answers are there.

The clock is simulated: nobody sleeps. Nanoseconds count from the arrival of the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from dff_ros.engine.key_worker import DelayedKeyWorker
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.step_times import Timing
from dff_ros.engine.stream import FrameResult
from dff_ros.engine.turns import KeyProgress
from dff_ros.evaluation.ground_truth.truth import FrameTruth
from dff_ros.recording.frames import StampedFrame

FOREVER = 2**63
"""Later than any frame."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A frame when it comes."""

    item: StampedFrame
    at_ns: int
    truth: FrameTruth
    per_frame: FrameResult | None = None
    """Per-frame's answer to it, where that runs."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A frame's result when it is there."""

    arrival: Arrival
    result: FrameResult
    finished_ns: int

    @property
    def latency_ms(self) -> float:
        """Arrival to result."""
        return (self.finished_ns - self.arrival.at_ns) / 1e6


def busy_ns(result: FrameResult) -> int:
    """How long an answer keeps the engine."""
    return round(result.own_ms * 1e6)


class Mailbox:
    """An engine behind a mailbox of one slot, as in the node: it takes the newest frame, and what it had no time for is dropped.

    ``step`` answers a frame from a time on; it is busy for as long as the result says.
    """

    def __init__(self, step: Callable[[Arrival, int], FrameResult]) -> None:
        self._step = step
        self._waiting: Arrival | None = None
        self._free_ns = 0
        self._latest: Answer | None = None
        self._before: Answer | None = None

    def until(self, now_ns: int) -> Answer | None:
        """Let the engine begin with the frame that waits, if it can do so before ``now_ns``; its answer may be finished later than that."""
        waiting = self._waiting
        if waiting is None:
            return None
        begins_ns = max(self._free_ns, waiting.at_ns)
        if begins_ns >= now_ns:
            return None
        self._waiting = None
        result = self._step(waiting, begins_ns)
        self._free_ns = begins_ns + busy_ns(result)
        self._before, self._latest = self._latest, Answer(waiting, result, self._free_ns)
        return self._latest

    def put(self, arrival: Arrival) -> Arrival | None:
        """A frame comes; returns the one that waited and is dropped for it."""
        dropped, self._waiting = self._waiting, arrival
        return dropped

    def known(self, now_ns: int) -> Answer | None:
        """The newest answer that is finished by ``now_ns``. After ``until(now_ns)`` no more than one is still being made."""
        for answer in (self._latest, self._before):
            if answer is not None and answer.finished_ns <= now_ns:
                return answer
        return None


class SimulatedClock:
    """What time it is for an engine that begins with a frame, and until when it was busy with the one before."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.free_ns = 0


class SimulatedKeyWorker(DelayedKeyWorker):
    """Ready when the time that a key feature takes has passed on the simulated clock: on a CPU mostly between steps."""

    def __init__(self, model: LoadedModel, clock: SimulatedClock, least_share: float, timing: Timing) -> None:
        super().__init__(model, 1, timing=timing)
        self._clock = clock
        self._least_share = least_share if model.device.type == "cpu" else None
        self._progress: KeyProgress | None = None

    def start(self, image: Tensor) -> None:
        """Compute at once, and say later."""
        super().start(image)
        made = self._wanted
        took_ms = 0.0 if made is None or made.exception() is not None else made.result().took_ms
        self._progress = KeyProgress(took_ms * 1e6, ordered=self._clock.now_ns, least_share=self._least_share)

    def finished(self, frames: int) -> bool:
        """Whether the time has come, however many frames have. Asked when a step begins."""
        assert self._progress is not None, "nothing was started"
        self._progress.step_ends(self._clock.free_ns)
        self._progress.step_begins(self._clock.now_ns)
        return self._progress.ready


def arrival_times(frames: Iterable[StampedFrame]) -> Iterator[tuple[StampedFrame, int]]:
    """Each frame and the nanoseconds since the first one's stamp; raises ValueError for stamps that no clock could have given."""
    first = last = None
    for item in frames:
        if not item.stamp:
            raise ValueError(f"--real-time needs stamps, frame {item.index} has none")
        if last is not None and item.stamp < last:
            raise ValueError(f"--real-time needs stamps in order, frame {item.index} is {(last - item.stamp) / 1e6:g} ms before the last")
        first, last = item.stamp if first is None else first, item.stamp
        yield item, item.stamp - first
