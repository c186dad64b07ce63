"""One camera while the node is active: its images come in, a worker answers the newest, the answers go out."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.node.counters import Statistics
from dff_ros.node.inputs import Input
from dff_ros.node.mailbox import Worker
from dff_ros.node.messages import stamp_of
from dff_ros.node.motion import MotionHint
from dff_ros.node.outputs import Outputs
from dff_ros.node.parameters import NodeSettings
from dff_ros.node.pipeline import Answer, Pipeline

_REPEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Arrival:
    """An image message, the how manieth it is, and when it came, in ``time.perf_counter`` seconds."""

    message: Any
    number: int
    at: float


class ThrottledLog:
    """A logger that says the same thing, what stands before the first colon, at most every five seconds."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._said: dict[str, float] = {}

    def __call__(self, level: str, text: str) -> None:
        subject, now = text.partition(":")[0], time.monotonic()
        if now - self._said.get(subject, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._said[subject] = now
            # Not on one line: rclpy raises where a line that has logged a warning logs an error later.
            if level == "error":
                self._logger.error(text)
            else:
                self._logger.warning(text)


class Camera:
    """Subscription, mailbox, worker and pipeline of one camera; ``stop`` ends all of them."""

    def __init__(self, node: Node, stream: FeatureFlowStream, outputs: Outputs, settings: NodeSettings) -> None:
        self._node = node
        self._stream = stream
        self._outputs = outputs
        self._settings = settings
        self._engine_settings = stream.settings
        self._log = ThrottledLog(node.get_logger())
        self._enabled = True
        self._stopping = False
        self._received = 0
        self._stamps: deque[tuple[int, int]] = deque()  # number and stamp of each image that came and was not taken yet
        self.statistics = Statistics()
        self._pipeline = Pipeline(stream, counters=self.statistics.counters, report=self._log)
        # May be refused, so it comes before the thread; no image arrives until the executor spins again.
        self.input = Input(node, settings.image_transport, self._receive)
        self._motion = MotionHint(node, settings.motion_topic, settings.motion_type, warn=self._log)
        self._worker: Worker[Arrival] = Worker(self._work, name="dff_worker")

    @property
    def enabled(self) -> bool:
        """Whether images are taken at all."""
        return self._enabled

    def enable(self, enabled: bool) -> None:
        """Start or stop taking images; the first one after a pause is a key frame."""
        if enabled and not self._enabled:
            self._pipeline.request_reset("enabled")
        self._enabled = enabled

    def reset(self) -> None:
        """Make the next frame a key frame."""
        self._pipeline.request_reset("reset")

    def apply(self, settings: NodeSettings, engine_settings: EngineSettings) -> None:
        """Take over changed settings with the next frame."""
        self._settings = settings
        self._engine_settings = engine_settings
        self._pipeline.request_settings(engine_settings)

    def stop(self, timeout: float | None = None) -> bool:
        """End the subscription, the worker and what computes key frames aside; False where one is still busy after ``timeout`` seconds."""
        self._stopping = True
        self.input.destroy()
        self._motion.destroy()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._worker.stop(timeout):
            return False
        return self._stream.close(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _receive(self, message: Any) -> None:
        if self._enabled:
            self._received += 1
            self._stamps.append((self._received, stamp_of(message.header)))
            replaced = self._worker.put(Arrival(message, self._received, time.perf_counter()))
            self.statistics.arrived(replaced=replaced)

    def _work(self, arrival: Arrival) -> None:
        try:
            self._answer(arrival)
        except Exception as error:  # noqa: BLE001 - the worker must outlive any message; what went wrong is said
            if not self._stopping:  # publishers vanish under a worker that was busy when the process was told to end
                self._log("error", f"publishing failed: {type(error).__name__}: {error}")

    def _answer(self, arrival: Arrival) -> None:
        taken = time.perf_counter()
        now_ns = self._node.get_clock().now().nanoseconds
        answer = self._pipeline.process(
            arrival.message,
            tasks=self._outputs.wanted_tasks,
            now_ns=now_ns,
            max_age=self._settings.max_image_age,
            turn_rate=self._motion.turn_rate(stamp_of(arrival.message.header)),
            dropped=self._dropped_before(arrival),
        )
        if answer is None or self._stopping:
            return
        threshold = self._engine_settings.score_threshold
        self._outputs.publish_results(answer, threshold=threshold, class_id_format=self._settings.class_id_format)
        wait_ms = (taken - arrival.at) * 1e3 + answer.result.waited_ms
        self._publish_times(answer, wait_ms=wait_ms, latency_ms=(time.perf_counter() - arrival.at) * 1e3)
        self._outputs.publish_pictures(answer, threshold=threshold, jpeg_quality=self._settings.jpeg_quality)

    def _dropped_before(self, arrival: Arrival) -> list[int]:
        """The stamps of the images that a newer one replaced since the last that was taken."""
        taken = []
        while self._stamps and self._stamps[0][0] <= arrival.number:
            taken.append(self._stamps.popleft()[1])
        return taken[:-1]

    def _publish_times(self, answer: Answer, *, wait_ms: float, latency_ms: float) -> None:
        """``latency_ms`` counts from the image's arrival, ``wait_ms`` of it in the mailbox and for a key frame aside."""
        result = answer.result
        times = {"latency_ms": latency_ms, "wait_ms": wait_ms, "step_ms": result.step_ms}
        self._outputs.publish_frame_info(answer, times)
        self.statistics.answered(
            made_key=result.made_key, latency_ms=latency_ms, step_ms=result.step_ms, overhead_ms=latency_ms - wait_ms - result.step_ms
        )
        stamp = stamp_of(answer.message.header)
        pipeline_ms = (self._node.get_clock().now().nanoseconds - stamp) / 1e6 if stamp else None
        self._outputs.publish_numbers(step_ms=result.step_ms, pipeline_ms=pipeline_ms)
