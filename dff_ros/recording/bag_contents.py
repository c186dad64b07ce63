"""What every reader of a bag's files speaks of: topics, messages as they were recorded, and what cannot be read."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

UNREADABLE = (
    *(sqlite3.Error, struct.error, OSError, EOFError, ValueError, LookupError, TypeError),
    *(AssertionError, MemoryError, RuntimeError),
)
"""What readers raise on damaged or foreign files."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag: ``kind`` like "sensor_msgs/msg/Image", ``definition`` the text of its type ("" where the bag holds none)."""

    name: str
    kind: str
    count: int
    definition: str = ""


class RawMessage(NamedTuple):
    """One message as recorded: ``received`` in nanoseconds by the recorder's clock, ``data`` in CDR."""

    topic: str
    kind: str
    received: int
    data: bytes


@dataclass(frozen=True)
class Damage:
    """A part of a file that cannot be read.

    ``reason`` is a clause that follows the file's name, ``size`` in bytes, ``messages`` how many were in it (None where nobody knows),
    ``until`` the time of the last one in nanoseconds, where it can be told.
    """

    reason: str
    size: int = 0
    messages: int | None = None
    until: int | None = None


class Scan(Protocol):
    """A damaged file, read as far as it goes; ``damage`` grows as more is found while reading."""

    topics: list[Topic]
    damage: list[Damage]
    last: int
    """Time of the last message that can be read, nanoseconds; 0 where there is none."""

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """The messages of the named topics, in the order of the file."""
        ...
