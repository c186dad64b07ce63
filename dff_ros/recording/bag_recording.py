"""The images of a bag as a recording, and the messages of any topic by their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError

from dff_ros.image_encoding import EncodingError, decode_compressed, to_frame
from dff_ros.recording.bag_contents import UNREADABLE, Topic
from dff_ros.recording.bag_reader import BagReader, Lost
from dff_ros.recording.bag_types import COMPRESSED_IMAGE, Deserializer
from dff_ros.recording.frames import Frame, RecordingError, StampedFrame
from dff_ros.recording.time_order import in_time_order

_ERRORS = (ReaderError, SerdeError, *UNREADABLE)


@contextmanager
def damage_reported(path: str | Path) -> Iterator[None]:
    """Errors of the readers become one line of our own."""
    try:
        yield
    except RecordingError:
        raise
    except _ERRORS as error:
        raise RecordingError(f"bag should be readable as sqlite3 or mcap, got {path}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class StampedMessage(NamedTuple):
    """A message with its header's stamp (the bag's own where that is 0) in nanoseconds; ``message`` is None where it is damaged."""

    stamp: int
    received: int
    kind: str
    message: Any
    problem: str = ""


class TopicMessages:
    """The messages of one topic, by the stamps of their headers. Iterating again starts again."""

    def __init__(self, bag: BagReader, topic: str) -> None:
        self._bag = bag
        self.topic = bag.topics[topic]
        self._deserialize = Deserializer([self.topic])

    def __iter__(self) -> Iterator[StampedMessage]:
        with damage_reported(self._bag.path):
            yield from in_time_order(self._read(), lambda item: item.stamp)

    def _read(self) -> Iterator[StampedMessage]:
        for raw in self._bag.messages([self.topic.name]):
            try:
                message = self._deserialize(raw.data, raw.kind)
                stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            except (*_ERRORS, AttributeError) as error:
                yield StampedMessage(raw.received, raw.received, raw.kind, None, _reason(error))
            else:
                yield StampedMessage(stamp or raw.received, raw.received, raw.kind, message)


class BagRecording:
    """One image topic of a bag, by the stamps of the headers (of the bag itself where a header's stamp is 0).

    Images that are damaged are left out, but counted by ``index``; RecordingError where none is left.
    """

    def __init__(self, bag: BagReader, topic: Topic) -> None:
        self._bag = bag
        self._topic = topic
        self.damaged = 0
        """Images left out while iterating last."""
        self.late = 0
        """Images whose stamp lies before that of the image given before them."""
        self._first_problem = ""

    @property
    def topic(self) -> str:
        """Its name."""
        return self._topic.name

    @property
    def bag(self) -> BagReader:
        """The bag it is in."""
        return self._bag

    @property
    def rate(self) -> float | None:
        """None: the stamps say."""
        return None

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"{self._topic.count} images on {self.topic} in bag {self._bag.path}"

    @property
    def lost(self) -> Lost | None:
        """What of the bag cannot be read, as far as is known by now."""
        return self._bag.lost

    @property
    def notes(self) -> list[str]:
        """What is missing or out of order, one line each, as far as is known by now."""
        notes = [] if self.lost is None else [f"bag {self._bag.path} is incomplete: {self.lost}"]
        if self.damaged:
            notes.append(f"{self.damaged} images on {self.topic} are damaged and were left out; the first, {self._first_problem}")
        if self.late:
            notes.append(f"{self.late} images on {self.topic} have stamps before that of the image before them")
        return notes

    def __len__(self) -> int:
        return self._topic.count

    def __iter__(self) -> Iterator[StampedFrame]:
        self.damaged = self.late = count = before = 0
        for index, item in enumerate(TopicMessages(self._bag, self.topic)):
            count = index + 1
            try:
                frame = frame_in(item)
            except EncodingError as error:
                self._first_problem = self._first_problem if self.damaged else f"image {index}: {error}"
                self.damaged += 1
                continue
            self.late += item.stamp < before
            before = item.stamp
            yield StampedFrame(index, item.stamp, frame, "", item.message.header.frame_id, received=item.received)
        if count and count == self.damaged:
            raise RecordingError(f"no image on {self.topic} in bag {self._bag.path} can be read; the first, {self._first_problem}")


def frame_in(item: StampedMessage) -> Frame:
    """Its picture; raises EncodingError where it holds none."""
    message = item.message
    if message is None:
        raise EncodingError(f"message cannot be read: {item.problem}")
    if item.kind == COMPRESSED_IMAGE:
        return decode_compressed(message.data, message.format)
    return to_frame(message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data)
