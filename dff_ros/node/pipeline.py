"""From an image message to a result: which images are skipped, what drops the key frame, and what happens on errors.

Nothing here knows rclpy: messages are read by their fields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dff_ros.core.results import Task
from dff_ros.engine.memory import free_memory, is_out_of_memory
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.image_encoding import ENCODINGS, EncodingError, decode_compressed, to_frame
from dff_ros.node.counters import Counters
from dff_ros.node.messages import stamp_of

SMALLEST_INPUT = 20_000
"""Pixels below which a smaller input is no remedy for a lack of memory; then the detection head goes."""

Report = Callable[[str, str], None]
"""Called with ``warning`` or ``error`` and one line, what it is about up to the first colon."""


@dataclass(frozen=True)
class Answer:
    """One processed image: its message, its pixels (H, W, 3) RGB and what the engine says."""

    message: Any
    frame: NDArray[np.uint8]
    result: FrameResult


class Pipeline:
    """One camera's images through one stream. ``process`` runs in the worker thread; requests may come from any thread."""

    def __init__(self, stream: FeatureFlowStream, *, counters: Counters, report: Report) -> None:
        self._stream = stream
        self._counters = counters
        self._report = report
        self._source: tuple[str, str] | None = None
        self._last_stamp = 0
        self._passed_by: list[int] = []
        """Stamps since the last image that was taken on."""
        self._warned_of_zero = False
        self._requests: deque[Callable[[], None]] = deque()
        self._reduction: dict[str, object] = {}

    def request_reset(self, reason: str) -> None:
        """Drop the key frame before the next frame."""
        self._requests.append(lambda: self._stream.reset(reason))

    def request_settings(self, settings: EngineSettings) -> None:
        """Run with ``settings`` from the next frame on."""
        self._requests.append(lambda: self._stream.apply(settings.with_values(self._reduction)))

    def process(
        self,
        message: Any,
        *,
        tasks: frozenset[Task],
        now_ns: int,
        max_age: float,
        turn_rate: float | None = None,
        dropped: Sequence[int] = (),
    ) -> Answer | None:
        """The answer for ``message``, None where it is skipped or cannot be answered; counted and reported either way.

        ``now_ns`` is the node's time, ``max_age`` the limit in seconds on an image's age (0: none), ``turn_rate`` how fast
        the camera turns, in radians a second, where another sensor tells, ``dropped`` the stamps of the images before it that a newer one
        replaced.
        """
        stamp = stamp_of(message.header)
        self._passed_by += dropped
        if self._is_skipped(stamp, now_ns, max_age):
            self._passed_by.append(stamp)
            return None
        passed_by, self._passed_by = self._passed_by, []
        self._take_requests()
        try:
            frame = decode(message)
            self._drop_key_of_other_source(message)
            return Answer(message, frame, self._stream.step(frame, stamp, tasks=tasks, turn_rate=turn_rate, dropped=passed_by))
        except ValueError as error:  # EncodingError among them
            self._counters.bad += 1
            self._report("warning", f"image skipped: {error}")
        except Exception as error:  # noqa: BLE001 - whatever one frame does, it is reported and the next one is tried
            self._counters.failed += 1
            self._recover(error)
        return None

    def _is_skipped(self, stamp: int, now_ns: int, max_age: float) -> bool:
        if stamp == 0:
            if not self._warned_of_zero:
                self._warned_of_zero = True
                self._report("warning", "images carry stamp 0, which means unknown: none is skipped as a duplicate, ages cannot be told")
            return False
        if stamp == self._last_stamp:
            self._counters.duplicate += 1
            return True
        self._last_stamp = stamp
        if max_age and now_ns - stamp > max_age * 1e9:
            self._counters.stale += 1
            return True
        return False

    def _take_requests(self) -> None:
        while self._requests:
            self._requests.popleft()()

    def _drop_key_of_other_source(self, message: Any) -> None:
        source = (message.header.frame_id, getattr(message, "encoding", ""))
        if self._source is not None and source != self._source:
            self._stream.reset("frame_id changed" if source[0] != self._source[0] else "encoding changed")
        self._source = source

    def _recover(self, error: Exception) -> None:
        """Start over with the next frame; after a lack of memory with less to do."""
        self._stream.reset("error")
        if not is_out_of_memory(error):
            self._report("error", f"processing failed: {type(error).__name__}: {error}")
            return
        free_memory()
        self._report("error", f"out of memory, {self._reduce()}: {error}")

    def _reduce(self) -> str:
        settings = self._stream.settings
        pixels = settings.input_pixels or self._stream.card.input_pixels
        if pixels // 2 >= SMALLEST_INPUT:
            self._reduction["input_pixels"] = pixels // 2
            remedy = f"input reduced to {pixels // 2} pixels"
        elif settings.detection and settings.segmentation:
            self._reduction["detection"] = False
            remedy = "detection switched off"
        else:
            return "nothing left to reduce"
        self._stream.apply(settings.with_values(self._reduction))
        return remedy


def decode(message: Any) -> NDArray[np.uint8]:
    """The pixels of an Image or a CompressedImage, (H, W, 3) RGB; raises EncodingError."""
    if hasattr(message, "format"):
        return decode_compressed(memoryview(message.data), message.format)
    if message.encoding in ENCODINGS:
        return to_frame(message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data)
    return _decode_with_cv_bridge(message)


def _decode_with_cv_bridge(message: Any) -> NDArray[np.uint8]:
    """Encodings outside our table (16-bit colour, for one), where a ROS installation has cv_bridge; imported when one comes."""
    try:
        from cv_bridge import CvBridge

        frame: NDArray[np.uint8] = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), np.uint8)
        if frame.shape != (message.height, message.width, 3):  # rows shorter than the width pass through it
            raise ValueError(f"{message.height}x{message.width} with step {message.step} became {frame.shape}")
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # none, one for another numpy, or its refusal
        expected = f"encoding should be one of {', '.join(ENCODINGS)}"
        raise EncodingError(f"{expected}, got {message.encoding!r} (cv_bridge: {' '.join(str(error).split())})") from error
    return frame
