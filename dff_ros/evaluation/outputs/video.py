"""A replay to look at: the frames with boxes, mask and key age drawn in."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from dff_ros.core.bundle import Card
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.overlay import draw_results
from dff_ros.recording.frames import DEFAULT_RATE, Frame, StampedFrame
from dff_ros.recording.pictures import VideoFile


class OverlayVideo(Observer):
    """An MP4 file, written as a context manager. Frames of another size than the first are resized.

    Without a ``rate`` it is that of the first two frames' stamps.
    """

    def __init__(self, path: Path, *, rate: float | None, card: Card, score_threshold: float) -> None:
        self._path = path
        self._rate = rate
        self._card = card
        self._threshold = score_threshold
        self._first: tuple[int, Frame] | None = None
        """Stamp and picture of the first frame, while the rate is unknown."""
        self._shown: Frame | None = None
        self._video: VideoFile | None = None

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._first is not None:
            self._write(self._first[1], DEFAULT_RATE)
        if self._video is not None:
            self._video.close()

    def add(self, answered: AnsweredFrame) -> None:
        """Append one frame; raises OSError where the file cannot be written."""
        self._append(answered.item.stamp, self._draw(answered.item.frame, answered.result))

    def dropped(self, item: StampedFrame) -> None:
        """Show the picture before once more, so that time goes on as it did."""
        if self._shown is not None:
            self._append(item.stamp, self._shown)

    def _append(self, stamp: int, picture: Frame) -> None:
        self._shown = picture
        if self._rate is None and self._first is None:
            self._first = stamp, picture
            return
        if self._first is not None:
            (before, first), self._first = self._first, None
            self._rate = 1e9 / (stamp - before) if stamp > before else DEFAULT_RATE
            self._write(first, self._rate)
        self._write(picture, self._rate or DEFAULT_RATE)

    def _write(self, picture: Frame, rate: float) -> None:
        if self._video is None:
            self._video = VideoFile(self._path, rate=rate)
        self._video.add(picture)

    def _draw(self, frame: Frame, result: FrameResult) -> Frame:
        shown = None if result.detections is None else result.detections.above(self._threshold)
        return draw_results(
            frame,
            shown,
            result.label_map,
            class_names=self._card.detection_classes,
            palette=self._card.palette,
            caption="key" if result.is_key else f"propagated, age {result.key_age_frames}",
        )
