"""One video through Deep Feature Flow: a frame in, a result out (DFF, algorithm 1).

The weights (``LoadedModel``) serve any number of videos; what is remembered of one, the key frame above all, lives here. A key frame
is computed within its step or, with the setting ``key_frames: aside``, beside the steps (``aside``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dff_ros.core.bundle import Card
from dff_ros.core.propagate import FlowFields, propagate
from dff_ros.core.results import ALL_TASKS, Detections, ImageGeometry, LabelMap, Task
from dff_ros.core.signals import surprise
from dff_ros.engine.aside import KeyFrameAside, Ready
from dff_ros.engine.frame_pair import Decision, FramePair, Renewal, Schedule
from dff_ros.engine.key_worker import KeyWorker, ThreadKeyWorker
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.preprocess import check_frame, fit, to_image
from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.step_times import StepTimes, Timing
from dff_ros.engine.track import KeyFrame, PreparedFrame, Step, Track, Way
from dff_ros.engine.turns import Turns


@dataclass(frozen=True)
class FrameResult:
    """The answer for one frame; times are milliseconds, lengths source pixels."""

    stamp: int
    is_key: bool
    reason: str
    """Why this frame was made a key frame, at once or aside (then it is itself still a propagated one); empty where it was not."""
    key_age_frames: int
    """Processed frames since the key frame: 0 for the key frame itself."""
    key_age_ms: float
    """By the stamps; 0 where one is unknown."""
    key_ms: float
    """How long the key frame's feature took, whether a step waited for it or not; aside without what it waited for steps, and longer where
    it had half of the threads."""
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
    waited_ms: float = 0.0
    """Before the step, for an operation of a key frame aside to end."""

    @property
    def kind(self) -> str:
        """``key`` or ``propagated``."""
        return "key" if self.is_key else "propagated"

    @property
    def made_key(self) -> bool:
        """Whether this frame was made a key frame, at once or aside: what key rates count."""
        return self.is_key or bool(self.reason)

    @property
    def own_ms(self) -> float:
        """The step but for a key's feature made aside, which a replay computes within the step."""
        return self.step_ms if self.is_key else self.step_ms - self.feature_ms


@dataclass(frozen=True)
class Current:
    """The frame that a step is about, made ready for the networks."""

    prepared: PreparedFrame
    geometry: ImageGeometry
    stamp: int
    tasks: frozenset[Task]
    times: StepTimes


class FeatureFlowStream:
    """One video. ``step`` takes its frames in order; ``reset`` forgets the key frame; ``close`` leaves no thread behind.

    ``key_worker`` is what computes key frames aside, by default a thread, which starts with the first of them. ``schedule`` decides in
    place of the one that the settings name, ``timing`` says what a step took in place of the clock.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: EngineSettings,
        *,
        key_worker: KeyWorker | None = None,
        schedule: Schedule | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._schedule = schedule or parse_schedule(settings.schedule, settings, estimator=model.card.estimator)
        self._timing = timing or Timing()
        self._renewal: Renewal | None = None
        self._spent_ms: float | None = None
        self._track: Track | None = None
        self._turns = Turns(settings.key_share, threads=model.threads)
        self._aside = KeyFrameAside(model, key_worker or ThreadKeyWorker(model, self._turns))
        self._queue = _urgent_queue(model.device)
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

    @property
    def makes_keys_aside(self) -> bool:
        """As the settings say; per-frame always blocks, as each frame is a key frame there and nothing is propagated."""
        return self._settings.key_frames == "aside" and not self._is_per_frame

    @property
    def _is_per_frame(self) -> bool:
        return self._settings.schedule.strip() == "per-frame"

    def apply(self, settings: EngineSettings) -> None:
        """Take over changed dynamic settings from the next frame on; raises ValueError for a schedule that does not parse."""
        renewed = ("schedule", "adaptive_price", "adaptive_min_age", "adaptive_max_age")
        if any(getattr(settings, name) != getattr(self._settings, name) for name in renewed):
            self._schedule = parse_schedule(settings.schedule, settings, estimator=self.card.estimator, previous=self._schedule)
        self._settings = settings
        if self._is_per_frame:
            self._aside.cancel()  # no frame waits for it

    def reset(self, reason: str = "reset") -> None:
        """Forget the key frame, and the one in flight: the next frame is one, for ``reason``."""
        self._track = self._renewal = None
        self._aside.cancel()
        self._last_stamp = 0
        self._reset_reason = reason
        self._schedule.reset()

    def close(self, timeout: float | None = None) -> bool:
        """Forget the key frames and end the thread that computes them aside; False where it is still busy after ``timeout`` seconds."""
        self.reset("first frame")
        return self._aside.close(timeout)

    @torch.inference_mode()
    def step(
        self,
        frame: NDArray[np.uint8],
        stamp: int,
        *,
        tasks: frozenset[Task] = ALL_TASKS,
        turn_rate: float | None = None,
        dropped: Sequence[int] = (),
    ) -> FrameResult:
        """Process the next frame of the video.

        ``frame`` is (H, W, 3) uint8 RGB of any strides, ``stamp`` its time in nanoseconds (0: unknown), ``tasks`` the heads to run,
        ``turn_rate`` how fast the camera turns by another sensor, radians a second (a hint to the schedule). ``dropped`` are the stamps of
        the frames before this one that nobody had time for: a camera that went on made no pause.
        Raises ValueError for a frame that is none; the stream then stays as it was. Raises too what went wrong with a key frame aside.
        """
        check_frame(frame)
        self._drop_unfitting_key(frame, stamp, dropped)
        with self._on_queue():
            # Before the turn: a key frame that shares the threads is then in flight for the whole step, and no other is ordered in it.
            ready = self._aside.take()
            with self._turns.step() as waited:
                times = StepTimes()
                self._take_over(ready)
                result = self._process(self._current(frame, stamp, tasks, times), turn_rate)
        self._last_stamp = stamp
        self._spent_ms = result.own_ms
        return replace(result, waited_ms=waited * 1e3)

    @torch.inference_mode()
    def start_track(self, frame: NDArray[np.uint8], stamp: int) -> tuple[Track, FrameResult]:
        """A track from ``frame`` on and the answer of its own feature, for evaluations that choose their keys; the stream keeps its own."""
        check_frame(frame)
        with self._on_queue():
            return self._key_step(self._current(frame, stamp, ALL_TASKS, StepTimes()), None, Decision(True, "chosen"))

    @torch.inference_mode()
    def follow(self, track: Track, frame: NDArray[np.uint8], stamp: int, *, tasks: frozenset[Task] = ALL_TASKS) -> FrameResult:
        """The answer for the next frame of a track of :meth:`start_track`, which goes on to it. It has to be told of every frame."""
        check_frame(frame)
        with self._on_queue():
            current = self._current(frame, stamp, tasks, StepTimes())
            step = track.way.step_to(current.prepared)
            return self._propagated_step(current, track, step, self._pair(current, track, step), "")

    def _take_over(self, ready: Ready | None) -> None:
        """Go on with the key frame aside where its feature is ready. The frame before is said to have cost the time it took."""
        if ready is None:
            return
        key = ready.track.key
        if self._track is not None:
            self._renewal = self._renewed(self._track.key, key, ready.asked)
        self._track = ready.track
        self._spent_ms = (self._spent_ms or 0.0) + key.feature_ms

    def _process(self, current: Current, turn_rate: float | None) -> FrameResult:
        if self._track is None:
            self._track, result = self._key_step(current, None, Decision(True, self._reset_reason))
            return result
        step = self._track.way.step_to(current.prepared)
        pair = self._pair(current, self._track, step, turn_rate)
        decision = self._decide(pair)  # asked while a key is in flight too: it sums up what every frame loses, and a cut cannot wait
        if decision.hard or (decision and not self.makes_keys_aside and not self._aside.in_flight):
            self._aside.cancel()
            self._turns.take_all()
            self._track, result = self._key_step(current, pair, decision)
            return result
        reason = decision.reason if decision and not self._aside.in_flight else ""
        try:
            if reason:
                with current.times.measure("feature", self._model.device):
                    self._aside.order(current.prepared, current.geometry, current.stamp, pair)
            else:
                with current.times.measure("flow", self._model.device):
                    self._aside.advance(step)
            result = self._propagated_step(current, self._track, step, pair, reason)
            return replace(result, disagreement=decision.disagreement)
        except Exception:
            self._aside.cancel()  # its way and the track's have parted
            raise

    def _key_step(self, current: Current, pair: FramePair | None, decision: Decision) -> tuple[Track, FrameResult]:
        times = current.times
        with times.measure("feature", self._model.device):
            feature = self._model.extract(current.prepared.image)
        feature_ms = self._timing.key_feature(times.parts["feature"])
        key = KeyFrame(self._model.networks, feature, current.prepared, current.geometry, current.stamp, feature_ms)
        if pair is not None and self._track is not None:
            # After a cut the old key's scene is gone: what it lost tells nothing of this one.
            self._renewal = None if decision.hard else self._renewed(self._track.key, key, pair)
        result = self._answer(feature, current, key, pair, age=0, reason=decision.reason)
        return Track(key, Way(self._model, current.prepared)), result

    def _propagated_step(self, current: Current, track: Track, step: Step, pair: FramePair, reason: str) -> FrameResult:
        feature = self._propagate(track.key, current, pair)
        result = self._answer(feature, current, track.key, pair, age=pair.age, reason=reason)
        track.way.advance(step, pair.fields)
        return result

    def _drop_unfitting_key(self, frame: NDArray[np.uint8], stamp: int, dropped: Sequence[int]) -> None:
        """Hard triggers: a new size or a jump in time makes the key frame useless."""
        if self._track is None:
            return
        geometry = self._track.key.geometry
        if frame.shape[:2] != (geometry.source_height, geometry.source_width):
            self.reset("size changed")
        elif stamp and self._last_stamp and stamp < self._last_stamp:
            self.reset("time went back")
        elif stamp and self._last_stamp and 0 < self._settings.max_gap * 1e9 < longest_pause((self._last_stamp, *dropped, stamp)):
            self.reset("gap")

    def _on_queue(self) -> AbstractContextManager[object]:
        return nullcontext() if self._queue is None else torch.cuda.stream(self._queue)

    def _current(self, frame: NDArray[np.uint8], stamp: int, tasks: frozenset[Task], times: StepTimes) -> Current:
        pixels = self._settings.input_pixels or self.card.input_pixels
        geometry = fit(frame.shape[0], frame.shape[1], input_pixels=pixels, stride=self._model.input_multiple)
        prepared = PreparedFrame(self._model.networks, to_image(frame, geometry, self._model.device))
        return Current(prepared, geometry, stamp, tasks, times)

    def _pair(self, current: Current, track: Track, step: Step, turn_rate: float | None = None) -> FramePair:
        key, stride = track.key, self._model.networks.stride

        def compute_fields() -> FlowFields:
            with current.times.measure("flow", self._model.device):
                return track.way.fields_of(step)

        age, stamp = track.age + 1, current.stamp
        return FramePair(
            age=age,
            age_ns=stamp - key.stamp if stamp and key.stamp else None,
            pixels_per_cell=stride / key.geometry.scale_x,
            compute_fields=compute_fields,
            compute_signals=lambda fields: key.signals(current.prepared, fields, age),
            renewal=self._renewal,
            interval_ns=stamp - self._last_stamp if stamp and self._last_stamp else None,
            spent_ms=self._spent_ms,
            turn_rate=turn_rate,
        )

    def _decide(self, pair: FramePair) -> Decision:
        limit = self._settings.max_key_age * 1e9
        decision = self._schedule.is_key_frame(pair)
        if not decision and limit and pair.age_ns is not None and pair.age_ns > limit:
            return Decision(True, "age", decision.disagreement)
        return decision

    def _renewed(self, before: KeyFrame, key: KeyFrame, pair: FramePair) -> Renewal | None:
        """What the new key frame shows of the one before, carried to the new one's frame by ``pair``.

        None where the schedule did not look at that pair, or there are no classes to compare.
        """
        networks = self._model.networks
        if not pair.signals_measured or Task.SEGMENTATION not in networks.tasks:
            return None
        seen = surprise(networks.head(Task.SEGMENTATION), before.carried, pair.fields, key.feature)
        return Renewal(pair.signals, seen)

    def _propagate(self, key: KeyFrame, current: Current, pair: FramePair) -> Tensor:
        fields = pair.fields
        with current.times.measure("flow", self._model.device):
            feature = propagate(key.carried, fields)
        if not self._model.refines(self._settings):
            return feature
        with current.times.measure("refine", self._model.device):
            return self._model.refine(current.prepared.refine, key.prepared.refine, feature, fields, pair.age)

    def _answer(
        self, feature: Tensor, current: Current, key: KeyFrame, pair: FramePair | None, *, age: int, reason: str
    ) -> FrameResult:
        stamp, times = current.stamp, current.times
        with times.measure("head", self._model.device):
            answers = self._run_heads(feature, key.geometry, current.tasks)
        motion_px = pair.motion_px if pair is not None and pair.flow_computed else None
        took = self._timing.step(times, is_key=age == 0)
        return FrameResult(
            stamp=stamp,
            is_key=age == 0,
            reason=reason,
            key_age_frames=age,
            key_age_ms=(stamp - key.stamp) / 1e6 if stamp and key.stamp else 0.0,
            key_ms=key.feature_ms,
            motion_px=motion_px,
            disagreement=None,
            detections=answers.get(Task.DETECTION),
            label_map=answers.get(Task.SEGMENTATION),
            step_ms=took["step"],
            feature_ms=took.get("feature", 0.0),
            flow_ms=took.get("flow", 0.0),
            refine_ms=took.get("refine", 0.0),
            head_ms=took.get("head", 0.0),
        )

    def _run_heads(self, feature: Tensor, geometry: ImageGeometry, tasks: frozenset[Task]) -> dict[Task, Any]:
        enabled = {Task.SEGMENTATION: self._settings.segmentation, Task.DETECTION: self._settings.detection}
        networks = self._model.networks
        wanted = [task for task in sorted(tasks & networks.tasks, key=lambda task: task.value) if enabled[task]]
        return {task: networks.head(task).decode(networks.head(task)(feature), geometry) for task in wanted}


def longest_pause(stamps: Sequence[int]) -> int:
    """Nanoseconds between one of several frames and the next, at the most; unknown stamps (0) are left out."""
    known = [stamp for stamp in stamps if stamp]
    return max((after - before for before, after in itertools.pairwise(known)), default=0)


def _urgent_queue(device: torch.device) -> torch.cuda.Stream | None:
    """On a GPU, where the steps run: ahead of the queue of key frames aside, which has the lowest priority."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)  # the weights may still be on their way in the queue that loaded them
    queue: torch.cuda.Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
    return queue
