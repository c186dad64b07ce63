"""What a run by the clock gathers beside its answers: latencies, drops and streaming accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field

from dff_ros.core.bundle import Card
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.arrivals import Answer, Arrival, Mailbox
from dff_ros.evaluation.measures.against_per_frame import AgainstPerFrame
from dff_ros.evaluation.measures.scores import Scores


class Streaming(Scores):
    """Streaming accuracy: what is known when a frame arrives, the newest finished answer, is scored by that frame's truth."""

    def __init__(self, card: Card, settings: EngineSettings) -> None:
        classes = card.segmentation_classes, card.detection_classes
        super().__init__(*classes)
        self.against = AgainstPerFrame(*classes, score_threshold=settings.score_threshold)
        self.lateness_ms: list[float] = []
        """How long before the arriving frame the one came that the known answer belongs to."""

    def arrives(self, arrival: Arrival, known: Answer | None) -> None:
        """Score what is known; nothing is before the first answer."""
        if known is None:
            return
        self.lateness_ms.append((arrival.at_ns - known.arrival.at_ns) / 1e6)
        self.score(known.result, arrival.truth, age=0, index=arrival.item.index)
        if arrival.per_frame is not None:
            self.against.add(known.result, arrival.per_frame, age=0, index=arrival.item.index)


@dataclass
class Live:
    """One way of running by the clock."""

    mailbox: Mailbox
    streaming: Streaming
    arrived: int = 0
    dropped: int = 0
    key_ms: list[float] = field(default_factory=list)
    """Latencies of the frames that waited for a key feature: arrival to result."""
    propagated_ms: list[float] = field(default_factory=list)

    def until(self, now_ns: int) -> Answer | None:
        """As the mailbox does, and note the latency."""
        answer = self.mailbox.until(now_ns)
        if answer is not None:
            (self.key_ms if answer.result.is_key else self.propagated_ms).append(answer.latency_ms)
        return answer

    def arrives(self, arrival: Arrival) -> Arrival | None:
        """A frame comes, after ``until`` its time; returns the one dropped for it."""
        self.streaming.arrives(arrival, self.mailbox.known(arrival.at_ns))
        dropped = self.mailbox.put(arrival)
        self.arrived += 1
        self.dropped += dropped is not None
        return dropped

    @property
    def latency_ms(self) -> list[float]:
        """Of all frames answered, in no particular order."""
        return self.key_ms + self.propagated_ms
