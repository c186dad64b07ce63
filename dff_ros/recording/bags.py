"""ROS 2 bags (sqlite3 and mcap), read and written without ROS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import get_types_from_msg

from dff_ros.image_encoding import JPEG_FORMAT, encode_jpeg, from_array
from dff_ros.recording.bag_reader import BagReader
from dff_ros.recording.bag_recording import BagRecording, damage_reported
from dff_ros.recording.bag_types import COMPRESSED_IMAGE, IMAGE, IMAGES, Deserializer, new_typestore
from dff_ros.recording.frames import Frame, RecordingError

_TRANSIENT = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=QosTime(0, 0),
    lifespan=QosTime(0, 0),
    liveliness=QosLiveliness.SYSTEM_DEFAULT,
    liveliness_lease_duration=QosTime(0, 0),
    avoid_ros_namespace_conventions=False,
)
"""Of latched topics: whoever plays the bag keeps their last message for late subscribers."""


def listed(bag: BagReader) -> str:
    """Its topics for an error, with type and count."""
    return ", ".join(f"{topic.name} ({topic.kind}, {topic.count})" for _, topic in sorted(bag.topics.items())) or "no topics"


def open_reader(path: str | Path) -> BagReader:
    """All of a bag: a folder with or without metadata.yaml, or one .mcap or .db3 file. Raises RecordingError where nothing can be read."""
    if not Path(path).exists():
        raise RecordingError(f"bag should be a folder or file that exists, got {path}")
    with damage_reported(path):
        return BagReader(Path(path))


def open_bags(bag: BagReader, topics: Sequence[str] = ()) -> list[BagRecording]:
    """As ``open_bag``, for each of ``topics``; without any, for the only image topic."""
    images = {name: topic for name, topic in bag.topics.items() if topic.kind in IMAGES}
    if not topics and len(images) != 1:
        expected = "be given where a bag has several image topics" if images else "be one with images"
        raise RecordingError(f"topic should {expected}, got none for bag {bag.path} with {listed(bag)}")
    for name in topics:
        if name not in images:
            raise RecordingError(f"topic should be the name of an image topic, got {name!r} for bag {bag.path} with {listed(bag)}")
    return [BagRecording(bag, images[name]) for name in topics or images]


def open_bag(path: str | Path, topic: str | None = None) -> BagRecording:
    """Images of a bag: a folder with or without metadata.yaml, or one .mcap or .db3 file; sensor_msgs Image or CompressedImage.

    A bag that broke off is read as far as it goes, and ``notes`` say what is missing. ``topic`` may be left out where the bag has only
    one image topic. Raises RecordingError for what is missing, no bag or wholly damaged, and for a topic that is not there, naming
    those that are.
    """
    return open_bags(open_reader(path), () if topic is None else (topic,))[0]


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
    with damage_reported(path):
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
            # Metadata of version 8: Humble cannot read how later ones spell QoS, and every later ROS reads this one.
            self._writer = Writer(path, version=8, storage_plugin=plugin)
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

    def write(self, topic: str, kind: str, message: Any, stamp: int, *, latched: bool = False) -> None:
        """Any message of type ``kind``, recorded at ``stamp`` nanoseconds; ``latched`` topics are played as such."""
        if topic not in self._connections:
            qos = [_TRANSIENT] if latched else []
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._typestore, offered_qos_profiles=qos)
        self._writer.write(self._connections[topic], stamp, self._typestore.serialize_cdr(message, kind))

    def write_image(
        self, topic: str, image: NDArray[Any], stamp: int, *, encoding: str = "rgb8", frame_id: str = "camera", at: int = 0
    ) -> None:
        """An Image message: (H, W, 3) uint8 as rgb8 or bgr8, (H, W) uint8 as mono8; recorded ``at`` its stamp or another time."""
        height, width, encoding, step, data = from_array(image, encoding)
        fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": step, "data": data.reshape(-1)}
        self.write_fields(topic, stamp, frame_id=frame_id, at=at, **fields)

    def write_fields(self, topic: str, stamp: int, *, frame_id: str = "camera", at: int = 0, **fields: Any) -> None:
        """An Image message with just these fields: height, width, encoding, is_bigendian, step and data (flat uint8), fitting or not."""
        self.write(topic, IMAGE, self.types[IMAGE](header=self.header(stamp, frame_id), **fields), at or stamp)

    def write_compressed(
        self, topic: str, frame: Frame, stamp: int, *, quality: int = 90, frame_id: str = "camera", at: int = 0
    ) -> None:
        """A CompressedImage message with the JPEG of an RGB frame."""
        data = np.frombuffer(encode_jpeg(frame, quality), np.uint8)
        message = self.types[COMPRESSED_IMAGE](header=self.header(stamp, frame_id), format=JPEG_FORMAT, data=data)
        self.write(topic, COMPRESSED_IMAGE, message, at or stamp)

    def header(self, stamp: int, frame_id: str) -> Any:
        """A message's header; ``stamp`` in nanoseconds."""
        time = self.types["builtin_interfaces/msg/Time"](sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
        return self.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
