"""A whole bag as one stream of messages: a folder with or without metadata.yaml, split or not, or a single file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml

from dff_ros.recording.bag_contents import Damage, RawMessage, Topic
from dff_ros.recording.bag_files import SUFFIXES, BagFile
from dff_ros.recording.decompression import inflate_file
from dff_ros.recording.frames import RecordingError, natural_key

_ZSTD = ".zstd"
Storage = Literal["sqlite3", "mcap"]


@dataclass(frozen=True)
class Lost:
    """What of a bag cannot be read.

    ``messages`` are of all topics, ``seconds`` at its end; both None where nobody can tell. ``size`` is in bytes. Where ``messages`` is
    None, size and seconds are those of what was begun; whatever should have come after it is not known.
    """

    reasons: tuple[str, ...]
    messages: int | None
    size: int
    seconds: float | None

    def __str__(self) -> str:
        many = "an unknown number of messages" if self.messages is None else f"{self.messages} messages"
        least = "at least " if self.messages is None else ""
        size = f", {least}{self.size:,} bytes" if self.size else ""
        end = f", {least}{self.seconds:.3g} s at the end" if self.seconds else ""
        return f"{'; '.join(self.reasons)}: {many}{size}{end} cannot be read"


@dataclass(frozen=True)
class _Metadata:
    """What metadata.yaml says; all of it may be missing."""

    files: tuple[str, ...] = ()
    messages: int | None = None
    end: int | None = None
    """Time of the last message, nanoseconds."""


class BagReader:
    """The files of a bag, opened as far as they can be. Raises RecordingError where none of them can be read.

    Only files that were compressed as a whole take room on disk: they are unpacked beside the system's temporary files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._damage: list[tuple[str, Damage]] = []
        self._unpacked: TemporaryDirectory[str] | None = None
        self._metadata = _read_metadata(path / "metadata.yaml") if path.is_dir() else _Metadata()
        self._files: dict[str, BagFile] = {}
        unreadable: list[str] = []
        for file in self._storage_files():
            try:
                self._files[file.name] = BagFile(self._unpack(file))
            except (ValueError, OSError) as error:
                unreadable.append(str(error))
                self._damage.append((file.name, Damage("cannot be read", file.stat().st_size)))
        if not self._files:
            reason = "; ".join(unreadable) or f"no {' or '.join(SUFFIXES)} file in it"
            raise RecordingError(f"bag should be readable as sqlite3 or mcap, got {path}: {reason}")

    @property
    def storage(self) -> Storage:
        """What its files are."""
        return "mcap" if ".mcap" in next(iter(self._files)) else "sqlite3"

    @property
    def topics(self) -> dict[str, Topic]:
        """By name, with the number of messages that can be read, or nearly so where the bag is damaged."""
        found: dict[str, Topic] = {}
        for topic in (topic for file in self._files.values() for topic in file.topics):
            before = found.get(topic.name)
            found[topic.name] = topic if before is None else replace(before, count=before.count + topic.count)
        return found

    @property
    def lost(self) -> Lost | None:
        """What cannot be read, as far as is known by now; None where nothing is missing."""
        damage = [*self._damage, *((name, item) for name, file in self._files.items() for item in file.damage)]
        readable, expected = sum(file.count for file in self._files.values()), self._metadata.messages
        missing = None if expected is None else max(0, expected - readable)
        if not damage and not missing:
            return None
        if missing is None and all(item.messages is not None for _, item in damage):
            missing = sum(item.messages or 0 for _, item in damage)
        reasons = tuple(f"{name} {item.reason}" for name, item in damage) or (f"metadata.yaml counts {expected} messages",)
        ends = [item.until for _, item in damage if item.until is not None]
        end = self._metadata.end or max(ends, default=None)
        last = max((file.last for file in self._files.values()), default=0)
        seconds = None if end is None or not last else max(0.0, (end - last) / 1e9)
        return Lost(reasons, missing, sum(item.size for _, item in damage), seconds)

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """The messages of the named topics, file by file."""
        for file in self._files.values():
            yield from file.messages(names)

    def _storage_files(self) -> list[Path]:
        """In the order of recording; missing ones are noted."""
        if not self.path.is_dir():
            return [self.path] if _is_storage(self.path) else []
        present = sorted((file for file in self.path.iterdir() if _is_storage(file)), key=natural_key)
        ordered: list[Path] = []
        for name in self._metadata.files:
            named = [file for file in present if file.name in (name, name + _ZSTD)]
            ordered += named
            if not named:
                self._damage.append((name, Damage("is missing")))
        # A recorder that was killed after a split has not named its last file yet.
        kinds = {_without_zstd(file).suffix for file in ordered}
        return ordered + [file for file in present if file not in ordered and (not kinds or _without_zstd(file).suffix in kinds)]

    def _unpack(self, file: Path) -> Path:
        if file.suffix != _ZSTD:
            return file
        if self._unpacked is None:
            self._unpacked = TemporaryDirectory(prefix="dff_bag_")
        target = Path(self._unpacked.name, _without_zstd(file).name)
        reason = inflate_file(file, target)
        if reason:
            self._damage.append((file.name, Damage(reason)))
        return target


def _is_storage(file: Path) -> bool:
    return _without_zstd(file).suffix in SUFFIXES and file.is_file()


def _without_zstd(file: Path) -> Path:
    return file.with_suffix("") if file.suffix == _ZSTD else file


def _read_metadata(path: Path) -> _Metadata:
    """What the file says; nothing where it is missing or no metadata."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        end = content["starting_time"]["nanoseconds_since_epoch"] + content["duration"]["nanoseconds"]
        return _Metadata(tuple(PurePath(name).name for name in content["relative_file_paths"]), int(content["message_count"]), int(end))
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return _Metadata()
