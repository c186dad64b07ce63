"""One way to open whatever the user names."""

from __future__ import annotations

from pathlib import Path

from dff_ros.recording.bag_recording import BagRecording
from dff_ros.recording.bags import open_bag
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import Recording, RecordingError, Selection, open_frames, open_video

DRIVE_RATE = 15.0
"""Hz of a generated drive that was given no rate."""


def open_recording(
    *,
    video: str | Path | None = None,
    frames: str | Path | None = None,
    bag: str | Path | None = None,
    drive: int = 0,
    topic: str | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> Recording:
    """A video file, an image folder (at ``rate`` Hz), a bag (its only image topic, or ``topic``) or a drive of ``drive`` frames.

    Raises RecordingError where that is nothing, several things or cannot be read.
    """
    given = [name for name, value in (("video", video), ("frames", frames), ("bag", bag), ("drive", drive)) if value]
    if len(given) != 1:
        raise RecordingError(f"exactly one of video, frames, bag and drive should be given, got {', '.join(given) or 'none'}")
    if video:
        return open_video(video)
    if frames:
        return open_frames(frames, rate=rate or None)
    if bag:
        return open_bag(bag, topic or None)
    return GeneratedDrive(seed, drive, rate=rate or DRIVE_RATE)


def bag_of(recording: Recording) -> BagRecording | None:
    """The bag's images that ``recording`` is, or is a part of; None where it is of no bag."""
    if isinstance(recording, Selection):
        return bag_of(recording.recording)
    return recording if isinstance(recording, BagRecording) else None


def notes_of(recording: Recording) -> list[str]:
    """What of a recording cannot be read or is out of order, one line each, as far as is known by now; best asked after reading."""
    bag = bag_of(recording)
    return [] if bag is None else bag.notes
