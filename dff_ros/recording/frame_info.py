"""What a live node said about its frames, read from a bag that recorded its ``~/frame_info``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dff_ros.recording.bags import messages_of
from dff_ros.recording.frames import RecordingError

DIAGNOSTIC_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
NAME = "frame_info"
"""Last part of the topic's name, which tells it from /diagnostics of the same type."""


@dataclass(frozen=True)
class FrameInfo:
    """How one frame was answered live; the fields are those of the engine's ``FrameResult``."""

    stamp: int
    """Of the image, nanoseconds."""
    is_key: bool
    reason: str
    key_age_frames: int
    key_age_ms: float
    disagreement: float | None


def read_frame_info(path: Path, topic: str | None = None) -> list[FrameInfo]:
    """All that a bag (sqlite3 or mcap) holds of one node's frame_info, in the order in which it was said.

    ``topic`` may be left out where the bag has one of that name. Raises RecordingError where it has none or several, and for messages that
    are not of the node's kind or carry no stamp.
    """
    messages = messages_of(path, topic, kind=DIAGNOSTIC_ARRAY, named=NAME)
    infos = [_parsed(message, f"frame_info {index} in bag {path}") for index, message in enumerate(messages)]
    if not infos:
        raise RecordingError(f"bag should hold frame_info messages, got {path} with none on that topic")
    return infos


def _parsed(message: Any, where: str) -> FrameInfo:
    stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
    if not stamp:
        raise RecordingError(f"{where} should carry its image's stamp, got 0: the frame cannot be told")
    values = {item.key: item.value for status in message.status for item in status.values}
    try:
        kind, age = values["kind"], int(values["key_age_frames"])
        if kind not in ("key", "propagated") or age < 0 or (kind == "key") != (age == 0):
            raise ValueError(f"{kind} {age}")
        disagreement = float(values["disagreement"]) if values["disagreement"] else None
        return FrameInfo(stamp, kind == "key", values["reason"], age, float(values["key_age_ms"]), disagreement)
    except (KeyError, ValueError):
        said = ", ".join(f"{key}={value}" for key, value in values.items()) or "nothing"
        expected = "kind, reason, key_age_frames, key_age_ms and disagreement"
        raise RecordingError(f"{where} should say {expected} as dff_node does, got {said}") from None
