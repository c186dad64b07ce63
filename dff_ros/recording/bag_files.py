"""One storage file of a bag: read by rosbags while it is whole, else record by record or row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.interfaces import ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from dff_ros.recording.bag_contents import UNREADABLE, Damage, RawMessage, Scan, Topic
from dff_ros.recording.mcap_scan import McapScan
from dff_ros.recording.sqlite_scan import SqliteScan, has_log

SUFFIXES = (".mcap", ".db3")


class BagFile:
    """A .mcap or .db3 file. Raises ValueError or OSError, in one line, where nothing of it can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scan: Scan | None = None
        self._topics: list[Topic] = []
        self._last = 0
        if has_log(path):  # rosbags reads without it
            self._scan = self._scanned("has a write-ahead log")
            return
        try:
            with Reader(path) as reader:
                self._topics = _topics(reader)
                self._last = reader.end_time - 1 if reader.message_count else 0
        except Exception as error:  # noqa: BLE001 - rosbags lets through whatever its libraries for SQLite, zstd and lz4 raise
            self._scan = self._scanned(_reason(error))

    @property
    def topics(self) -> list[Topic]:
        """Its topics in CDR; a topic may occur several times."""
        return self._topics if self._scan is None else self._scan.topics

    @property
    def damage(self) -> list[Damage]:
        """What cannot be read, as far as is known by now."""
        return [] if self._scan is None else self._scan.damage

    @property
    def last(self) -> int:
        """Time of the last message that can be read, nanoseconds; 0 where there is none."""
        return self._last if self._scan is None else self._scan.last

    @property
    def count(self) -> int:
        """Messages that can be read, of all topics."""
        return sum(topic.count for topic in self.topics) - sum(item.messages or 0 for item in self.damage)

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """The messages of the named topics: by the recorder's clock where rosbags reads them, else in the order of the file."""
        given: set[tuple[str, int]] = set()
        if self._scan is None:
            try:
                with Reader(self._path) as reader:
                    wanted = [item for item in reader.connections if item.topic in names]
                    for connection, received, data in reader.messages(wanted) if wanted else ():
                        given.add((connection.topic, received))
                        yield RawMessage(connection.topic, connection.msgtype, received, bytes(data))
                return
            except Exception as error:  # noqa: BLE001 - as above
                self._scan = self._scanned(_reason(error))
        for message in self._scan.messages(names):
            if (message.topic, message.received) not in given:
                yield message

    def _scanned(self, reason: str) -> Scan:
        try:
            return McapScan(self._path) if self._path.suffix == ".mcap" else SqliteScan(self._path)
        except UNREADABLE as error:
            raise ValueError(f"{self._path.name} {_reason(error)} ({reason})") from None


def _topics(reader: Reader) -> list[Topic]:
    found = []
    for item in reader.connections:
        assert isinstance(item.ext, ConnectionExtRosbag2)
        definition = item.msgdef.data if item.msgdef.format == MessageDefinitionFormat.MSG else ""
        if item.ext.serialization_format == "cdr":
            found.append(Topic(item.topic, item.msgtype, item.msgcount, definition))
    return found


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
