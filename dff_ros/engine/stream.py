"""One video through Deep Feature Flow: a frame in, a result out (DFF, algorithm 1).

The weights (``LoadedModel``) serve any number of videos; what is remembered of one, the key frame above all, lives here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dff_ros.core.bundle import Card
from dff_ros.core.propagate import FlowFields, propagate
from dff_ros.core.results import ALL_TASKS, Detections, ImageGeometry, LabelMap, Task
from dff_ros.core.signals import Signals, measure_signals, surprise
from dff_ros.engine.frame_pair import Decision, FramePair, Renewal
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.preprocess import check_frame, fit, to_image
from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.track import KeyFrame, PreparedFrame, Track


@dataclass(frozen=True)
class FrameResult:
    """The answer for one frame; times are milliseconds, lengths source pixels."""

    stamp: int
    is_key: bool
    reason: str
    """Why this is a key frame; empty for a propagated one."""
    key_age_frames: int
    """Processed frames since the key frame: 0 for the key frame itself."""
    key_age_ms: float
    """By the stamps; 0 where one is unknown."""
    motion_px: float | None
    """Mean flow length from this frame to its key frame; None where no flow was computed."""
    disagreement: float | None
    """How far the propagated answer is expected to be off; None where nothing estimates it."""
    detections: Detections | None
    label_map: LabelMap | None
    step_ms: float
    feature_ms: float
    flow_ms: float
    refine_ms: float
    head_ms: float

    @property
    def kind(self) -> str:
        """``key`` or ``propagated``."""
        return "key" if self.is_key else "propagated"


@dataclass
class StepTimes:
    """Milliseconds spent in each part of one step."""

    parts: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def measure(self, part: str, device: torch.device) -> Iterator[None]:
        """Add the time of the block to ``part``; on a GPU the block is waited for."""
        before = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.parts[part] = self.parts.get(part, 0.0) + (time.perf_counter() - before) * 1e3

    def total(self) -> float:
        """Milliseconds since the step began."""
        return (time.perf_counter() - self.started) * 1e3


class FeatureFlowStream:
    """One video. ``step`` takes its frames in order; ``reset`` forgets the key frame."""

    def __init__(self, model: LoadedModel, settings: EngineSettings) -> None:
        self._model = model
        self._settings = settings
        self._schedule = parse_schedule(settings.schedule, settings, estimator=model.card.estimator)
        self._renewal: Renewal | None = None
        self._spent_ms: float | None = None
        self._track: Track | None = None
        self._last_stamp = 0
        self._reset_reason = "first frame"

    @property
    def card(self) -> Card:
        """The card of the bundle that runs."""
        return self._model.card

    @property
    def settings(self) -> EngineSettings:
        """What the stream currently runs with."""
        return self._settings

    def apply(self, settings: EngineSettings) -> None:
        """Take over changed dynamic settings from the next frame on; raises ValueError for a schedule that does not parse."""
        renewed = ("schedule", "adaptive_price", "adaptive_min_age", "adaptive_max_age")
        if any(getattr(settings, name) != getattr(self._settings, name) for name in renewed):
            self._schedule = parse_schedule(settings.schedule, settings, estimator=self.card.estimator, previous=self._schedule)
        self._settings = settings

    def reset(self, reason: str = "reset") -> None:
        """Forget the key frame: the next frame is one, for ``reason``."""
        self._track = self._renewal = None
        self._last_stamp = 0
        self._reset_reason = reason
        self._schedule.reset()

    @torch.inference_mode()
    def step(
        self, frame: NDArray[np.uint8], stamp: int, *, tasks: frozenset[Task] = ALL_TASKS, turn_rate: float | None = None
    ) -> FrameResult:
        """Process the next frame of the video.

        ``frame`` is (H, W, 3) uint8 RGB of any strides, ``stamp`` its time in nanoseconds (0: unknown), ``tasks`` the heads to run,
        ``turn_rate`` how fast the camera turns by another sensor, radians a second (a hint to the schedule).
        Raises ValueError for a frame that is none; the stream then stays as it was.
        """
        check_frame(frame)
        times = StepTimes()
        self._drop_unfitting_key(frame, stamp)
        image, geometry = self._preprocess(frame)
        prepared = PreparedFrame(self._model.networks, image)
        track = self._track
        pair = None if track is None else self._pair(track, prepared, stamp, times, turn_rate)
        decision = self._decide(pair)
        if decision or track is None or pair is None:
            key = KeyFrame(self._extract(image, times), prepared, geometry, stamp)
            self._renewal = None if track is None or pair is None else self._renewed(track.key, key, pair)
            result = self._answer(key.feature, key, pair, age=0, stamp=stamp, reason=decision.reason, tasks=tasks, times=times)
            self._track = Track(self._model, key)
        else:
            feature = self._propagate(track.key, prepared, pair, times)
            result = self._answer(feature, track.key, pair, age=pair.age, stamp=stamp, reason="", tasks=tasks, times=times)
            result = replace(result, disagreement=decision.disagreement)
            track.advance(prepared, pair.fields)
        self._last_stamp = stamp
        self._spent_ms = result.step_ms
        return result

    @torch.inference_mode()
    def start_track(self, frame: NDArray[np.uint8], stamp: int) -> tuple[Track, FrameResult]:
        """A track from ``frame`` on and the answer of its own feature, for evaluations that choose their keys; the stream keeps its own."""
        check_frame(frame)
        times = StepTimes()
        image, geometry = self._preprocess(frame)
        key = KeyFrame(self._extract(image, times), PreparedFrame(self._model.networks, image), geometry, stamp)
        result = self._answer(key.feature, key, None, age=0, stamp=stamp, reason="chosen", tasks=ALL_TASKS, times=times)
        return Track(self._model, key), result

    @torch.inference_mode()
    def follow(self, track: Track, frame: NDArray[np.uint8], stamp: int, *, tasks: frozenset[Task] = ALL_TASKS) -> FrameResult:
        """The answer for the next frame of a track of :meth:`start_track`, which goes on to it. It has to be told of every frame."""
        check_frame(frame)
        times = StepTimes()
        image, _ = self._preprocess(frame)
        prepared = PreparedFrame(self._model.networks, image)
        pair = self._pair(track, prepared, stamp, times)
        feature = self._propagate(track.key, prepared, pair, times)
        result = self._answer(feature, track.key, pair, age=pair.age, stamp=stamp, reason="", tasks=tasks, times=times)
        track.advance(prepared, pair.fields)
        return result

    def _drop_unfitting_key(self, frame: NDArray[np.uint8], stamp: int) -> None:
        """Hard triggers: a new size or a jump in time makes the key frame useless."""
        if self._track is None:
            return
        geometry = self._track.key.geometry
        if frame.shape[:2] != (geometry.source_height, geometry.source_width):
            self.reset("size changed")
        elif stamp and self._last_stamp and stamp < self._last_stamp:
            self.reset("time went back")
        elif stamp and self._last_stamp and 0 < self._settings.max_gap * 1e9 < stamp - self._last_stamp:
            self.reset("gap")

    def _preprocess(self, frame: NDArray[np.uint8]) -> tuple[Tensor, ImageGeometry]:
        pixels = self._settings.input_pixels or self.card.input_pixels
        geometry = fit(frame.shape[0], frame.shape[1], input_pixels=pixels, stride=self._model.input_multiple)
        return to_image(frame, geometry, self._model.device), geometry

    def _extract(self, image: Tensor, times: StepTimes) -> Tensor:
        with times.measure("feature", self._model.device):
            return self._model.extract(image)

    def _pair(
        self, track: Track, prepared: PreparedFrame, stamp: int, times: StepTimes, turn_rate: float | None = None
    ) -> FramePair:
        key, stride = track.key, self._model.networks.stride

        def compute_fields() -> FlowFields:
            with times.measure("flow", self._model.device):
                return track.fields_of(prepared)

        def compute_signals(fields: FlowFields) -> Signals:
            return measure_signals(prepared.cells, key.prepared.cells, fields.flow, age=track.age + 1)

        return FramePair(
            age=track.age + 1,
            age_ns=stamp - key.stamp if stamp and key.stamp else None,
            pixels_per_cell=stride / key.geometry.scale_x,
            compute_fields=compute_fields,
            compute_signals=compute_signals,
            renewal=self._renewal,
            interval_ns=stamp - self._last_stamp if stamp and self._last_stamp else None,
            spent_ms=self._spent_ms,
            turn_rate=turn_rate,
        )

    def _decide(self, pair: FramePair | None) -> Decision:
        if pair is None:
            return Decision(True, self._reset_reason, hard=True)
        limit = self._settings.max_key_age * 1e9
        decision = self._schedule.is_key_frame(pair)
        if not decision and limit and pair.age_ns is not None and pair.age_ns > limit:
            return Decision(True, "age", decision.disagreement)
        return decision

    def _renewed(self, before: KeyFrame, key: KeyFrame, pair: FramePair) -> Renewal | None:
        """What the new key frame shows of the one before, where the schedule has looked at it and there are classes to compare."""
        networks = self._model.networks
        if not pair.signals_measured or Task.SEGMENTATION not in networks.tasks:
            return None
        seen = surprise(networks.head(Task.SEGMENTATION), before.feature, pair.fields, key.feature)
        return Renewal(pair.signals, seen)

    def _propagate(self, key: KeyFrame, prepared: PreparedFrame, pair: FramePair, times: StepTimes) -> Tensor:
        fields = pair.fields
        with times.measure("flow", self._model.device):
            feature = propagate(key.feature, fields)
        if not self._model.refines(self._settings):
            return feature
        with times.measure("refine", self._model.device):
            return self._model.refine(prepared.refine, key.prepared.refine, feature, fields, pair.age)

    def _answer(
        self,
        feature: Tensor,
        key: KeyFrame,
        pair: FramePair | None,
        *,
        age: int,
        stamp: int,
        reason: str,
        tasks: frozenset[Task],
        times: StepTimes,
    ) -> FrameResult:
        with times.measure("head", self._model.device):
            answers = self._run_heads(feature, key.geometry, tasks)
        return FrameResult(
            stamp=stamp,
            is_key=age == 0,
            reason=reason,
            key_age_frames=age,
            key_age_ms=(stamp - key.stamp) / 1e6 if stamp and key.stamp else 0.0,
            motion_px=pair.motion_px if pair is not None and pair.flow_computed else None,
            disagreement=None,
            detections=answers.get(Task.DETECTION),
            label_map=answers.get(Task.SEGMENTATION),
            step_ms=times.total(),
            feature_ms=times.parts.get("feature", 0.0),
            flow_ms=times.parts.get("flow", 0.0),
            refine_ms=times.parts.get("refine", 0.0),
            head_ms=times.parts["head"],
        )

    def _run_heads(self, feature: Tensor, geometry: ImageGeometry, tasks: frozenset[Task]) -> dict[Task, Any]:
        enabled = {Task.SEGMENTATION: self._settings.segmentation, Task.DETECTION: self._settings.detection}
        networks = self._model.networks
        wanted = [task for task in sorted(tasks & networks.tasks, key=lambda task: task.value) if enabled[task]]
        return {task: networks.head(task).decode(networks.head(task)(feature), geometry) for task in wanted}
