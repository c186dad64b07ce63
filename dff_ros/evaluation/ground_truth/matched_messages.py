"""The messages of a topic by the frames they belong to: those of the same stamp, or the nearest.

The topic is read in step with the images, so that memory stays flat; a replay that begins again has it begin again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from dff_ros.evaluation.ground_truth.truth import TruthError
from dff_ros.recording.bag_reader import BagReader
from dff_ros.recording.bag_recording import StampedMessage, TopicMessages
from dff_ros.recording.bags import listed
from dff_ros.recording.frames import StampedFrame
from dff_ros.recording.time_order import JUMP

TOLERANCE = 10_000_000
"""Nanoseconds between the stamps of a frame and its truth: the nearest is taken where none has the frame's own."""

_LOOK = 100
"""Messages that are looked at to learn whether objects have ids."""


class _Rounds:
    """Counts how often stamps went back for good, so that those of different rounds are never taken for each other."""

    def __init__(self) -> None:
        self._newest = self._round = 0

    def place(self, stamp: int) -> tuple[int, int]:
        """The round that a stamp is in, and the stamp."""
        if stamp < self._newest - JUMP:
            self._round, self._newest = self._round + 1, stamp
        self._newest = max(self._newest, stamp)
        return self._round, stamp


class MatchedMessages:
    """The messages of a topic by the frames they belong to. Frames are asked for in order; the last one may be asked for again."""

    def __init__(self, bag: BagReader, topic: str, kind: str) -> None:
        """Raises TruthError where the bag has no such topic of that ``kind``."""
        if topic not in bag.topics or bag.topics[topic].kind != kind:
            raise TruthError(f"truth should be a topic with {kind}, got {topic!r} for bag {bag.path} with {listed(bag)}")
        self.topic = topic
        self._messages = TopicMessages(bag, topic)
        self._begin()

    def _begin(self) -> None:
        self.exact = self.near = self.damaged = 0
        """Frames with a message of their own stamp, with one nearby, and messages that cannot be read."""
        self._coming: Iterator[StampedMessage] = iter(self._messages)
        self._held: deque[tuple[tuple[int, int], Any]] = deque()
        self._next: tuple[tuple[int, int], Any] | None = None
        self._theirs, self._ours = _Rounds(), _Rounds()
        self._index, self._answer = -1, None
        self._advance()

    def of(self, frame: StampedFrame) -> Any:
        """The message that belongs to the frame, or None."""
        if frame.index < self._index:
            self._begin()
        if frame.index != self._index:
            self._index, self._answer = frame.index, self._find(frame.stamp)
        return self._answer

    @property
    def note(self) -> str:
        """Where truth was not of a frame's own stamp or could not be read, in one line; empty where all is well."""
        parts = [f"{self.near} frames have truth of another stamp, up to {TOLERANCE // 1_000_000} ms away"] if self.near else []
        parts += [f"{self.damaged} messages are damaged and were left out"] if self.damaged else []
        return f"{self.topic}: {', '.join(parts)}" if parts else ""

    def first(self) -> Iterator[Any]:
        """The first messages, read apart."""
        return (item.message for item in islice(self._messages, _LOOK) if item.message is not None)

    def _find(self, stamp: int) -> Any:
        turn, _ = self._ours.place(stamp)
        while self._next is not None and self._next[0] <= (turn, stamp + TOLERANCE):
            self._held.append(self._next)
            self._advance()
        while self._held and self._held[0][0] < (turn, stamp - TOLERANCE):
            self._held.popleft()
        known = [(abs(at - stamp), message) for (in_turn, at), message in self._held if in_turn == turn and abs(at - stamp) <= TOLERANCE]
        if not known:
            return None
        distance, message = min(known, key=lambda item: item[0])
        self.exact += distance == 0
        self.near += distance > 0
        return message

    def _advance(self) -> None:
        self._next = None
        for item in self._coming:
            if item.message is not None:
                self._next = self._theirs.place(item.stamp), item.message
                return
            self.damaged += 1
