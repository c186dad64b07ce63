"""ROS 2 bags (sqlite3 and mcap), read and written without ROS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer, WriterError
from rosbags.serde import SerdeError
from rosbags.typesys import get_types_from_msg

from dff_ros.image_encoding import EncodingError, decode_compressed, encode_jpeg, from_array, to_frame
from dff_ros.recording.bag_contents import UNREADABLE, Topic
from dff_ros.recording.bag_reader import BagReader, Lost
from dff_ros.recording.bag_types import COMPRESSED_IMAGE, IMAGE, Deserializer, new_typestore
from dff_ros.recording.frames import Frame, RecordingError, StampedFrame
from dff_ros.recording.time_order import in_time_order

IMAGES = (IMAGE, COMPRESSED_IMAGE)
_ERRORS = (ReaderError, SerdeError, *UNREADABLE)


@contextmanager
def _damage_reported(path: str | Path) -> Iterator[None]:
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
        with _damage_reported(self._bag.path):
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
                frame = _frame(item)
            except EncodingError as error:
                self._first_problem = self._first_problem if self.damaged else f"image {index}: {error}"
                self.damaged += 1
                continue
            self.late += item.stamp < before
            before = item.stamp
            yield StampedFrame(index, item.stamp, frame, "", item.message.header.frame_id, received=item.received)
        if count and count == self.damaged:
            raise RecordingError(f"no image on {self.topic} in bag {self._bag.path} can be read; the first, {self._first_problem}")


def _frame(item: StampedMessage) -> Frame:
    """Its picture; raises EncodingError where it holds none."""
    message = item.message
    if message is None:
        raise EncodingError(f"message cannot be read: {item.problem}")
    if item.kind == COMPRESSED_IMAGE:
        return decode_compressed(message.data, message.format)
    return to_frame(message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data)


def _listed(bag: BagReader) -> str:
    return ", ".join(f"{topic.name} ({topic.kind}, {topic.count})" for _, topic in sorted(bag.topics.items())) or "no topics"


def open_reader(path: str | Path) -> BagReader:
    """All of a bag: a folder with or without metadata.yaml, or one .mcap or .db3 file. Raises RecordingError where nothing can be read."""
    if not Path(path).exists():
        raise RecordingError(f"bag should be a folder or file that exists, got {path}")
    with _damage_reported(path):
        return BagReader(Path(path))


def open_bags(path: str | Path, topics: Sequence[str] = ()) -> list[BagRecording]:
    """As ``open_bag``, for each of ``topics``; without any, for the only image topic."""
    bag = open_reader(path)
    images = {name: topic for name, topic in bag.topics.items() if topic.kind in IMAGES}
    if not topics and len(images) != 1:
        expected = "be given where a bag has several image topics" if images else "be one with images"
        raise RecordingError(f"topic should {expected}, got none for bag {path} with {_listed(bag)}")
    for name in topics:
        if name not in images:
            raise RecordingError(f"topic should be the name of an image topic, got {name!r} for bag {path} with {_listed(bag)}")
    return [BagRecording(bag, images[name]) for name in topics or images]


def open_bag(path: str | Path, topic: str | None = None) -> BagRecording:
    """Images of a bag: a folder with or without metadata.yaml, or one .mcap or .db3 file; sensor_msgs Image or CompressedImage.

    A bag that broke off is read as far as it goes, and ``notes`` say what is missing. ``topic`` may be left out where the bag has only
    one image topic. Raises RecordingError for what is missing, no bag or wholly damaged, and for a topic that is not there, naming
    those that are.
    """
    return open_bags(path, () if topic is None else (topic,))[0]


def messages_of(path: str | Path, topic: str | None, *, kind: str, named: str) -> Iterator[Any]:
    """The messages of type ``kind`` on ``topic``, in the bag's order.

    Without ``topic``, on the only one of that type whose name ends with ``named``. Raises RecordingError as :func:`open_bag` does.
    """
    bag = open_reader(path)
    of_kind = {name: topic for name, topic in bag.topics.items() if topic.kind == kind}
    chosen = [name for name in of_kind if (name.split("/")[-1] == named if topic is None else name == topic)]
    if len(chosen) != 1:
        wanted = f"a topic of {kind}" if topic else f"given, unless exactly one topic of {kind} is called {named}"
        present = ", ".join(sorted(of_kind if len(chosen) < 2 else chosen)) or "no topic of that type"
        raise RecordingError(f"topic should be {wanted}, got {topic!r} for bag {path} with {present}")
    deserialize = Deserializer([of_kind[chosen[0]]])
    with _damage_reported(path):
        for raw in bag.messages(chosen):
            yield deserialize(raw.data, raw.kind)


class BagWriter:
    """Writes a bag: images by one call each, any other message by ``write``. Use as a context manager.

    ``types`` makes messages of ROS 2 Jazzy and vision_msgs: ``writer.types["std_msgs/msg/String"](data="hello")``; ``register`` adds
    packages of one's own.
    """

    def __init__(self, path: str | Path, *, storage: Literal["sqlite3", "mcap"] = "sqlite3") -> None:
        plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
        self._typestore = new_typestore()
        self.types = self._typestore.types
        self._connections: dict[str, Connection] = {}
        try:
            self._writer = Writer(path, version=Writer.VERSION_LATEST, storage_plugin=plugin)
        except WriterError as error:
            raise RecordingError(f"bag should be a new folder, got {path}: {error}") from None

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def register(self, name: str, definition: str) -> None:
        """Make a message type known from the text of its .msg file; ``name`` like "vision_msgs/msg/Point2D"."""
        self._typestore.register(get_types_from_msg(definition, name))

    def write(self, topic: str, kind: str, message: Any, stamp: int) -> None:
        """Any message of type ``kind``, recorded at ``stamp`` nanoseconds."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._typestore)
        self._writer.write(self._connections[topic], stamp, self._typestore.serialize_cdr(message, kind))

    def write_image(self, topic: str, image: NDArray[Any], stamp: int, *, encoding: str = "rgb8", frame_id: str = "camera") -> None:
        """An Image message: (H, W, 3) uint8 as rgb8 or bgr8, (H, W) uint8 as mono8."""
        height, width, encoding, step, data = from_array(image, encoding)
        fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": step, "data": data.reshape(-1)}
        self.write_fields(topic, stamp, frame_id=frame_id, **fields)

    def write_fields(self, topic: str, stamp: int, *, frame_id: str = "camera", **fields: Any) -> None:
        """An Image message with just these fields: height, width, encoding, is_bigendian, step and data (flat uint8), fitting or not."""
        self.write(topic, IMAGE, self.types[IMAGE](header=self._header(stamp, frame_id), **fields), stamp)

    def write_compressed(self, topic: str, frame: Frame, stamp: int, *, quality: int = 90, frame_id: str = "camera") -> None:
        """A CompressedImage message with the JPEG of an RGB frame."""
        data = np.frombuffer(encode_jpeg(frame, quality), np.uint8)
        message = self.types[COMPRESSED_IMAGE](header=self._header(stamp, frame_id), format="rgb8; jpeg compressed bgr8", data=data)
        self.write(topic, COMPRESSED_IMAGE, message, stamp)

    def _header(self, stamp: int, frame_id: str) -> Any:
        time = self.types["builtin_interfaces/msg/Time"](sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
        return self.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
