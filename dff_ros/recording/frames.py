"""What every recording is, a sequence of stamped frames read lazily; and two of them: image folders and videos."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""H x W x 3 uint8, RGB, any strides."""

FIRST_STAMP = 1_000_000_000
"""Stamp of frame 0 where a recording has none of its own: one second, since 0 means unknown."""

DEFAULT_RATE = 30.0
"""Hz of an image folder that was given no rate."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Files of an image folder, in small or capital letters."""


class RecordingError(ValueError):
    """A recording that cannot be read; one line that says which and why."""


@dataclass(frozen=True, eq=False)
class StampedFrame:
    """One frame of a recording.

    ``index`` counts the frames of the source from 0, ``stamp`` is in nanoseconds, ``frame`` is H x W x 3 uint8 RGB,
    ``name`` is the stem of the image's file ("" where there is none), ``frame_id`` the camera's coordinate frame. ``received`` is
    when a bag recorded it, in nanoseconds, 0 where nobody did.
    """

    index: int
    stamp: int
    frame: Frame
    name: str
    frame_id: str
    received: int = field(default=0, kw_only=True)


class Recording(Protocol):
    """Frames in source order. Iterating again starts again; only one frame is held at a time."""

    @property
    def rate(self) -> float | None:
        """Frames per second, None where the stamps alone say."""

    @property
    def description(self) -> str:
        """One line for logs and reports."""

    def __len__(self) -> int:
        """Number of frames; for a video what its header claims."""

    def __iter__(self) -> Iterator[StampedFrame]: ...


def stamp_at(index: int, rate: float) -> int:
    """Stamp in nanoseconds of frame ``index`` at ``rate`` Hz."""
    return FIRST_STAMP + round(index * 1e9 / rate)


class FrameFolder:
    """The images of a folder, ordered by the numbers in their names."""

    def __init__(self, folder: Path, files: list[Path], rate: float) -> None:
        self._folder, self._files, self._rate = folder, files, rate

    @property
    def rate(self) -> float:
        """The rate the folder was opened with."""
        return self._rate

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"{len(self._files)} images in {self._folder} at {self._rate:g} Hz"

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[StampedFrame]:
        for index, file in enumerate(self._files):
            yield StampedFrame(index, stamp_at(index, self._rate), read_image(file), file.stem, "camera")


class Video:
    """A video file, read from the beginning each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        capture = self._open()
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            self._count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            if not capture.grab():
                raise RecordingError(f"video should hold frames that OpenCV can decode, got {path}")
        finally:
            capture.release()
        self._rate = fps if 0 < fps < 1e6 else DEFAULT_RATE

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise RecordingError(f"video should be a file that OpenCV can decode, got {self._path}")
        return capture

    @property
    def rate(self) -> float:
        """Frames per second as the file says; ``DEFAULT_RATE`` where it does not."""
        return self._rate

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"video {self._path} at {self._rate:g} Hz"

    def __len__(self) -> int:
        """What the file claims, which may be wrong; 0 where it claims nothing."""
        return self._count

    def __iter__(self) -> Iterator[StampedFrame]:
        capture = self._open()
        try:
            for index in itertools.count():
                decoded, image = capture.read()
                if not decoded:
                    return
                yield StampedFrame(index, stamp_at(index, self._rate), _rgb(image), "", "camera")
        finally:
            capture.release()


@dataclass(frozen=True)
class Selection:
    """Frames ``first`` to ``last`` (inclusive) of a recording, with their indices and stamps."""

    recording: Recording
    first: int
    last: int

    @property
    def rate(self) -> float | None:
        """That of the recording."""
        return self.recording.rate

    @property
    def description(self) -> str:
        """One line for logs."""
        return f"frames {self.first}..{self.last} of {self.recording.description}"

    def __len__(self) -> int:
        return max(0, min(self.last + 1, len(self.recording)) - self.first)

    def __iter__(self) -> Iterator[StampedFrame]:
        nothing = True
        # By index, not by place: a damaged frame that the recording leaves out shifts no other.
        for frame in itertools.takewhile(lambda frame: frame.index <= self.last, self.recording):
            if frame.index >= self.first:
                nothing = False
                yield frame
            if frame.index == self.last:
                break
        if nothing:
            raise RecordingError(f"range should begin before the recording ends, got {self.description}")


def select(recording: Recording, first: int, last: int) -> Selection:
    """Frames ``first`` to ``last`` of ``recording``, both included, counted in source frames from 0; ends with the recording at the latest.

    Raises RecordingError where the range is empty or, on reading, begins after the end.
    """
    if not 0 <= first <= last:
        raise RecordingError(f"range should be FIRST:LAST with 0 <= FIRST <= LAST, got {first}:{last}")
    return Selection(recording, first, last)


def open_frames(folder: str | Path, *, rate: float | None = None) -> FrameFolder:
    """The PNG, JPEG and BMP images of a folder, in natural order (image2 before image10), ``rate`` Hz (default 30) apart.

    Images may differ in size. Raises RecordingError for a folder without images; a file that is none raises it when its turn comes.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RecordingError(f"frames should be a folder of images, got {path}")
    if rate is not None and not 0 < rate < 1e6:
        raise RecordingError(f"rate should be above 0 Hz, got {rate:g}")
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "." and file.is_file()]
    if not files:
        raise RecordingError(f"frames should be a folder with {', '.join(IMAGE_SUFFIXES)} images, got {path} without any")
    return FrameFolder(path, sorted(files, key=natural_key), rate or DEFAULT_RATE)


def open_video(path: str | Path) -> Video:
    """A video file that OpenCV can decode. Raises RecordingError where it is missing, empty or not a video."""
    if not Path(path).is_file():
        raise RecordingError(f"video should be a file, got {path}")
    return Video(Path(path))


def natural_key(file: Path) -> tuple[list[str | int], str]:
    """Sorts names by their numbers: image2 before image10; the name itself decides between 7.png and 007.png."""
    parts = re.split(r"([0-9]+)", file.stem.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def read_image(file: Path) -> Frame:
    """An image file as an RGB frame; RecordingError where it cannot be decoded."""
    try:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise RecordingError(f"image should be a picture that OpenCV can decode, got {file}")
    return _rgb(image)


def _rgb(image: Any) -> Frame:
    """The RGB view of one of OpenCV's images."""
    frame: Frame = image[..., ::-1]
    return frame
