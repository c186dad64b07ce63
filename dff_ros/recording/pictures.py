"""Pictures and videos written to files."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from dff_ros.recording.frames import DEFAULT_RATE, Frame


def write_picture(path: Path, frame: Frame) -> None:
    """Write an RGB frame (H, W, 3) in the format that the name's ending says; raises OSError where that is not possible."""
    if not cv2.imwrite(str(path), np.ascontiguousarray(frame[..., ::-1])):
        raise OSError(f"{path} cannot be written as a picture")


class VideoFile:
    """An MP4 file; as a context manager it is closed at the end. Frames of another size than the first are resized."""

    def __init__(self, path: Path, *, rate: float | None) -> None:
        self._path = path
        self._rate = rate or DEFAULT_RATE
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def add(self, frame: Frame) -> None:
        """Append an RGB frame (H, W, 3); raises OSError where the file cannot be written."""
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self._size = size
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter_fourcc(*"mp4v"), self._rate, size)  # type: ignore[attr-defined]
            if not self._writer.isOpened():
                raise OSError(f"{self._path} cannot be written as a video")
        picture = frame if size == self._size else np.asarray(cv2.resize(frame, self._size), np.uint8)
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))
