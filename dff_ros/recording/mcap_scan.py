"""MCAP files read record by record, without summary and index: what is left of a recording that broke off.

Records are an opcode, a length of 8 bytes and the content (mcap.dev/spec). Chunks hold records of their own, perhaps compressed; the index
records that follow a chunk say how many messages it has, so that most chunks need not be opened to count.
"""

from __future__ import annotations

import io
import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dff_ros.recording.bag_contents import UNREADABLE, Damage, RawMessage, Topic
from dff_ros.recording.decompression import as_far_as_it_goes

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x0F
_KNOWN = frozenset({*range(0x01, 0x10), *range(0x80, 0x100)})
"""Opcodes of the format, and those left to applications. Zeros, which a crash leaves at the end of a file, are none."""
_MESSAGE_HEADER = struct.Struct("<HIQQ")
_CHUNK_HEADER = struct.Struct("<QQQI")


class _Record(NamedTuple):
    opcode: int
    start: int
    """Where its content begins."""
    length: int
    """What is there of its content, ``missing`` bytes less than there should be."""
    missing: int


@dataclass
class _Chunk:
    record: _Record
    counts: Counter[int] = field(default_factory=Counter)
    """Messages by channel."""
    last: int = 0


class McapScan:
    """One file, read sequentially. Raises ValueError where it is no MCAP file at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schemas: dict[int, tuple[str, str]] = {}
        self._channels: dict[int, tuple[str, str, str]] = {}
        """Topic, kind and definition."""
        self._chunks: dict[int, _Chunk] = {}
        self._reported: set[int] = set()
        self.damage: list[Damage] = []
        self.last = 0
        counts: Counter[int] = Counter()
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError("is not an MCAP file")
            self._survey(file, path.stat().st_size, counts)
        for chunk in self._chunks.values():
            counts += chunk.counts
            self.last = max(self.last, chunk.last)
        self.topics = [Topic(name, kind, counts[key], text) for key, (name, kind, text) in self._channels.items()]

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """The messages of the named topics, in the order of the file; what is damaged is left out and noted."""
        wanted = {key for key, (name, _, _) in self._channels.items() if name in names}
        with self._path.open("rb") as file:
            for record in _records(file, len(MAGIC), self._path.stat().st_size):
                chunk = self._chunks.get(record.start)
                if record.opcode == _MESSAGE:
                    yield from self._message(file, record, wanted)
                elif chunk is not None and wanted & chunk.counts.keys():
                    content = io.BytesIO(self._content(file, chunk))
                    for inner in _records(content, 0, len(content.getbuffer())):
                        if inner.opcode == _MESSAGE:
                            yield from self._message(content, inner, wanted)

    def _message(self, file: BinaryIO, record: _Record, wanted: Collection[int]) -> Iterator[RawMessage]:
        if record.missing or record.length < _MESSAGE_HEADER.size:
            return
        file.seek(record.start)
        channel, _, received, _ = _MESSAGE_HEADER.unpack(file.read(_MESSAGE_HEADER.size))
        if channel in wanted:
            name, kind, _ = self._channels[channel]
            yield RawMessage(name, kind, received, file.read(record.length - _MESSAGE_HEADER.size))

    def _survey(self, file: BinaryIO, size: int, counts: Counter[int]) -> None:
        """Find chunks, channels and how many messages they have; note what is missing at the end."""
        chunk: _Chunk | None = None
        ended, at = False, len(MAGIC)
        for record in _records(file, at, size):
            at = record.start - 9 if record.missing else record.start + record.length
            if record.opcode == _INDEX and chunk is not None and not record.missing:
                _read_index(file, record, chunk)
                continue
            self._finish(file, chunk)
            chunk = None
            ended = ended or record.opcode in (_DATA_END, _FOOTER)
            if record.opcode == _CHUNK:
                chunk = self._chunks[record.start] = _Chunk(record)
            elif not record.missing and not ended:
                self.last = max(self.last, self._take(file, record, counts))
            if record.missing:
                break
        self._finish(file, chunk)
        if not ended:
            self._note_end(file, at, size)

    def _take(self, file: BinaryIO, record: _Record, counts: Counter[int]) -> int:
        """Learn from a record outside or inside a chunk; returns a message's time, 0 for any other record."""
        file.seek(record.start)
        if record.opcode == _MESSAGE and record.length >= _MESSAGE_HEADER.size:
            channel, _, received, _ = _MESSAGE_HEADER.unpack(file.read(_MESSAGE_HEADER.size))
            counts[channel] += 1
            return int(received)
        content = io.BytesIO(file.read(record.length)) if record.opcode in (_SCHEMA, _CHANNEL) else io.BytesIO()
        if record.opcode == _SCHEMA:
            (key,) = struct.unpack("<H", content.read(2))
            name, encoding, text = (_text(content) for _ in range(3))
            self._schemas[key] = name, text if encoding == "ros2msg" else ""
        elif record.opcode == _CHANNEL:
            key, schema = struct.unpack("<HH", content.read(4))
            topic, encoding = _text(content), _text(content)
            if encoding == "cdr" and schema in self._schemas:
                self._channels[key] = topic, *self._schemas[schema]
        return 0

    def _finish(self, file: BinaryIO, chunk: _Chunk | None) -> None:
        """Open a chunk whose indices are missing or speak of channels that are not known yet."""
        if chunk is None or (chunk.counts and chunk.counts.keys() <= self._channels.keys()):
            return
        content = io.BytesIO(self._content(file, chunk))
        counts: Counter[int] = Counter()
        for record in _records(content, 0, len(content.getbuffer())):
            if not record.missing:
                chunk.last = max(chunk.last, self._take(content, record, counts))
        chunk.counts = counts or chunk.counts

    def _content(self, file: BinaryIO, chunk: _Chunk) -> bytes:
        """The records of a chunk: none where it is damaged, those before the end where the file breaks off in it."""
        record = chunk.record
        try:
            _, _, size, checksum, compression, data = _read_chunk(file, record)
            content = as_far_as_it_goes(data, compression)
        except UNREADABLE:
            size, checksum, content = -1, 0, b""
        whole = len(content) == size and (not checksum or crc32(content) == checksum)
        if whole or record.missing:
            return content
        if record.start not in self._reported:
            self._reported.add(record.start)
            messages = sum(chunk.counts.values()) or None
            self.damage.append(Damage(f"has a damaged chunk at byte {record.start - 9}", record.length + 9, messages))
        return b""

    def _note_end(self, file: BinaryIO, at: int, size: int) -> None:
        """Say what the end of a file that was not finished lacks; ``at`` is where its last record ends."""
        last = self._chunks[max(self._chunks)] if self._chunks else None
        if last is None or not last.record.missing:
            cut = size - at
            self.damage.append(Damage("was not closed" if not cut else "breaks off", cut, None if cut else 0))
            return
        until = None
        try:
            _, until, whole, *_ = _read_chunk(file, last.record)
            lost = whole - len(self._content(file, last))
        except UNREADABLE:
            lost = last.record.length
        self.damage.append(Damage("breaks off inside a chunk", lost, until=until))


def _records(file: BinaryIO, at: int, end: int) -> Iterator[_Record]:
    """The records from byte ``at`` on; the last one may lack its end. Ends where what follows is no record."""
    while at + 9 <= end:
        file.seek(at)
        opcode, length = struct.unpack("<BQ", file.read(9))
        if opcode not in _KNOWN:
            return
        there = min(length, end - at - 9)
        yield _Record(opcode, at + 9, there, length - there)
        at += 9 + there


def _read_index(file: BinaryIO, record: _Record, chunk: _Chunk) -> None:
    file.seek(record.start)
    data = file.read(record.length)
    (channel,) = struct.unpack_from("<H", data)
    times = [time for time, _ in struct.iter_unpack("<QQ", data[6:])]
    if times:
        chunk.counts[channel] += len(times)
        chunk.last = max(chunk.last, *times)


def _read_chunk(file: BinaryIO, record: _Record) -> tuple[int, int, int, int, str, bytes]:
    """First and last time, size of the content, its checksum (0 for none), compression and the data that is there."""
    file.seek(record.start)
    body = io.BytesIO(file.read(record.length))
    first, last, size, checksum = _CHUNK_HEADER.unpack(body.read(_CHUNK_HEADER.size))
    compression = _text(body)
    (stored,) = struct.unpack("<Q", body.read(8))
    return first, last, size, checksum, compression, body.read(stored)


def _text(content: BinaryIO) -> str:
    (length,) = struct.unpack("<I", content.read(4))
    return content.read(length).decode()
