"""ROS 2 bags (sqlite3 and mcap), read and written without ROS."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer, WriterError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dff_ros.image_encoding import EncodingError, decode_compressed, encode_jpeg, from_array, to_frame
from dff_ros.recording.frames import Frame, RecordingError, StampedFrame

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"

_UNREADABLE = (
    *(AnyReaderError, ReaderError, SerdeError, sqlite3.Error, struct.error),
    *(OSError, EOFError, ValueError, LookupError, AssertionError, MemoryError),
)
"""What the readers of damaged or foreign files raise."""


@contextmanager
def _damage_reported(path: str | Path) -> Iterator[None]:
    """Errors of the readers become one line of our own."""
    try:
        yield
    except RecordingError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecordingError(f"bag should be readable as sqlite3 or mcap, got {path}: {reason}") from None


class BagRecording:
    """One image topic of a bag, in the bag's order, with the stamps of the headers (of the bag itself where a header's stamp is 0)."""

    def __init__(self, path: Path, topic: str | None) -> None:
        self._path = path
        with self._reader() as reader:
            chosen = _choose(path, reader.connections, topic)
            self.topic = chosen[0].topic
            self._count = sum(connection.msgcount for connection in chosen)

    def _reader(self) -> AnyReader:
        # Bags of Humble and before hold no message definitions; those of images never changed.
        return AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_JAZZY))

    @property
    def rate(self) -> float | None:
        """None: the stamps say."""
        return None

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"{self._count} images on {self.topic} in bag {self._path}"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[StampedFrame]:
        with _damage_reported(self._path), self._reader() as reader:
            connections = [connection for connection in reader.connections if connection.topic == self.topic]
            for index, (connection, received, data) in enumerate(reader.messages(connections)):
                message: Any = reader.deserialize(data, connection.msgtype)
                try:
                    frame = _frame(message, connection.msgtype)
                except EncodingError as error:
                    raise RecordingError(f"image {index} of {self.topic} in bag {self._path}: {error}") from None
                stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
                yield StampedFrame(index, stamp or received, frame, "", message.header.frame_id)


def _frame(message: Any, kind: str) -> Frame:
    if kind == COMPRESSED_IMAGE:
        return decode_compressed(message.data, message.format)
    return to_frame(message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data)


def _choose(path: Path, connections: list[Connection], topic: str | None) -> list[Connection]:
    """The connections of the topic that is named, or of the only one with images."""
    images = [item for item in connections if item.msgtype in (IMAGE, COMPRESSED_IMAGE)]
    chosen = [item for item in images if topic is None or item.topic == topic]
    if not chosen or len({item.topic for item in chosen}) > 1:
        wanted = "the name of an image topic" if topic is not None else "given, unless the bag has exactly one image topic"
        present = ", ".join(sorted({f"{item.topic} ({item.msgtype})" for item in connections})) or "no topics"
        raise RecordingError(f"topic should be {wanted}, got {topic!r} for bag {path} with {present}")
    return chosen


def open_bag(path: str | Path, topic: str | None = None) -> BagRecording:
    """Images of a bag: a folder with metadata.yaml, or one .mcap or .db3 file; sensor_msgs Image or CompressedImage.

    ``topic`` may be left out where the bag has only one image topic. Raises RecordingError for what is missing, damaged or not a bag,
    and for a topic that is not there, naming those that are.
    """
    if not Path(path).exists():
        raise RecordingError(f"bag should be a folder or file that exists, got {path}")
    with _damage_reported(path):
        return BagRecording(Path(path), topic)


def messages_of(path: str | Path, topic: str | None, *, kind: str, named: str) -> Iterator[Any]:
    """The messages of type ``kind`` on ``topic``, in the bag's order.

    Without ``topic``, on the only one of that type whose name ends with ``named``. Raises RecordingError as :func:`open_bag` does.
    """
    if not Path(path).exists():
        raise RecordingError(f"bag should be a folder or file that exists, got {path}")
    with _damage_reported(path), AnyReader([Path(path)], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        of_kind = {item.topic for item in reader.connections if item.msgtype == kind}
        chosen = {item for item in of_kind if (item.split("/")[-1] == named if topic is None else item == topic)}
        if len(chosen) != 1:
            wanted = f"a topic of {kind}" if topic else f"given, unless exactly one topic of {kind} is called {named}"
            present = ", ".join(sorted(of_kind if len(chosen) < 2 else chosen)) or "no topic of that type"
            raise RecordingError(f"topic should be {wanted}, got {topic!r} for bag {path} with {present}")
        for connection, _, data in reader.messages([item for item in reader.connections if item.topic in chosen]):
            yield reader.deserialize(data, connection.msgtype)


class BagWriter:
    """Writes a bag: images by one call each, any other message by ``write``. Use as a context manager.

    ``types`` makes messages of ROS 2 Jazzy: ``writer.types["std_msgs/msg/String"](data="hello")``; ``register`` adds packages of one's own.
    """

    def __init__(self, path: str | Path, *, storage: Literal["sqlite3", "mcap"] = "sqlite3") -> None:
        plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
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
