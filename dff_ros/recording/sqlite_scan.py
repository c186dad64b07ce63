"""SQLite bags row by row: those cut off, and those whose write-ahead log was never folded in because the recorder was killed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dff_ros.recording.bag_contents import Damage, RawMessage, Topic

MAGIC = b"SQLite format 3\x00"
_NEAR = 64
"""Rows that are tried one by one after a damaged one; then the distance doubles."""
_FARTHEST = 2**40


def log_of(path: Path) -> Path:
    """Where SQLite keeps what is not in the file yet."""
    return path.with_name(f"{path.name}-wal")


def has_log(path: Path) -> bool:
    """Whether a recorder left a write-ahead log: without it the file lacks its last messages."""
    log = log_of(path)
    return log.is_file() and log.stat().st_size > 0


class SqliteScan:
    """One file, read by row. Raises ValueError where it is no SQLite file, sqlite3.Error where not even its topics can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage: list[Damage] = []
        self.last = 0
        with path.open("rb") as file:
            header = file.read(100)
        if not header.startswith(MAGIC) or len(header) < 100:
            raise ValueError("is not an SQLite file")
        self._logged = has_log(path)
        with closing(self._open()) as database:
            topics = database.execute("SELECT id, name, type FROM topics WHERE serialization_format = 'cdr'").fetchall()
            self._topics: dict[int, tuple[str, str]] = {key: (name, kind) for key, name, kind in topics}
            definitions = _definitions(database)
            counts: Counter[int] = Counter()
            for _, topic, received in self._rows(database, "id, topic_id, timestamp"):
                counts[topic] += 1
                self.last = max(self.last, received)
        if not self._logged:
            self._note_end(header)
        self.topics = [Topic(name, kind, counts[key], definitions.get(kind, "")) for key, (name, kind) in self._topics.items()]

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """The messages of the named topics, in the order of recording; rows whose data is missing are left out and noted."""
        keys = [key for key, (name, _) in self._topics.items() if name in names]
        lost: list[int] = []
        with closing(self._open()) as database:
            condition = f"topic_id IN ({','.join(map(str, keys))})"
            for _, topic, received, data in self._rows(database, "id, topic_id, timestamp, data", condition, lost):
                yield RawMessage(*self._topics[topic], received, bytes(data))
        if lost:
            self._note(Damage("has rows that cannot be read", messages=len(lost)))

    def _note(self, damage: Damage) -> None:
        self.damage = [item for item in self.damage if item.reason != damage.reason] + [damage]

    def _open(self) -> sqlite3.Connection:
        """A connection that changes nothing. A log can only be read where SQLite may keep its index beside the file."""
        address = f"file:{quote(str(self._path))}?mode=ro"
        if self._logged:
            database = sqlite3.connect(address, uri=True)
            try:
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.Error as error:
                database.close()
                size = log_of(self._path).stat().st_size
                self._note(Damage(f"has a write-ahead log that cannot be read ({error})", size))
                self._logged = False
            else:
                return database
        database = sqlite3.connect(f"{address}&immutable=1", uri=True)
        database.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a file that is shorter than its header says
        return database

    def _rows(
        self, database: sqlite3.Connection, columns: str, condition: str = "1", lost: list[int] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Rows by id, stepping over what cannot be read; ids of rows known to be there whose columns are gone go to ``lost``."""
        query = f"SELECT {columns} FROM messages WHERE {condition} AND id > ? ORDER BY id"
        row, step = 0, 0
        while step <= _FARTHEST:
            try:
                for found in database.execute(query, (row + step,)):
                    row, step = found[0], 0
                    yield found
            except sqlite3.DatabaseError:
                step = step + 1 if step < _NEAR else 2 * step
                if lost is not None and _is_there(database, row + step, condition):
                    lost.append(row + step)
            else:
                return

    def _note_end(self, header: bytes) -> None:
        page = int.from_bytes(header[16:18], "big")
        whole = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
        there = self._path.stat().st_size
        if there < whole:
            self.damage.append(Damage("breaks off", whole - there))


def _is_there(database: sqlite3.Connection, row: int, condition: str) -> bool:
    try:
        return database.execute(f"SELECT id FROM messages WHERE {condition} AND id = ?", (row,)).fetchone() is not None
    except sqlite3.DatabaseError:
        return False


def _definitions(database: sqlite3.Connection) -> dict[str, str]:
    """Text of each type; none in bags of Humble and before."""
    query = "SELECT topic_type, encoded_message_definition FROM message_definitions WHERE encoding = 'ros2msg'"
    try:
        return dict(database.execute(query).fetchall())
    except sqlite3.Error:
        return {}
