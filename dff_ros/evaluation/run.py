"""Replaying a recording in lock-step, and what any way of replaying gathers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

from dff_ros.core.bundle import Card
from dff_ros.engine.key_worker import DelayedKeyWorker
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.step_times import Timing
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth, Truth
from dff_ros.evaluation.latencies import Latencies, timing_of
from dff_ros.evaluation.measures.against_per_frame import AgainstPerFrame
from dff_ros.evaluation.measures.consistency import TemporalConsistency
from dff_ros.evaluation.measures.delay import DelayFigures
from dff_ros.evaluation.measures.motion import MotionMeter
from dff_ros.evaluation.measures.scores import Scores
from dff_ros.evaluation.measures.streaming import Live
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.recorded_keys import RecordedKeys, RecordedKeyWorker, as_recorded
from dff_ros.recording.frames import StampedFrame

WARM_UP_STEPS = 6

KEY_DELAY = 3
"""Frames after which a key frame made aside is ready, where nobody says: lock-step has no clock. What one of ``street`` takes between
frames that come at 15 Hz, on a CPU that computes it in 120 ms.
"""


class Tally(Scores):
    """What one way of running has gathered: scores by age, and the times of its steps."""

    def __init__(self, segmentation_classes: tuple[str, ...], detection_classes: tuple[str, ...]) -> None:
        super().__init__(segmentation_classes, detection_classes)
        self.consistency = TemporalConsistency(segmentation_classes)
        self.key_ms: list[float] = []
        self.propagated_ms: list[float] = []

    def add(self, result: FrameResult, truth: FrameTruth, *, age: int, index: int = 0, motion: str | None = None) -> None:
        """Take the result for one source frame; its scores are filed under ``age`` and ``motion``, and its time as that of blocking mode.

        Made aside in lock-step, a key's feature comes on top of its frame's propagation, which a blocking key frame does without.
        """
        if not result.made_key:
            self.propagated_ms.append(result.step_ms)
        else:
            self.key_ms.append(result.step_ms if result.is_key else result.step_ms - result.flow_ms - result.refine_ms)
        self.score(result, truth, age=age, index=index, motion=motion)

    @property
    def step_ms(self) -> list[float]:
        """The times of all steps, in no particular order."""
        return self.key_ms + self.propagated_ms


@dataclass
class Replay(Observer):
    """The outcome of a replay."""

    run: Tally
    baseline: Tally | None
    """Per-frame on the same frames, its scores filed under the age that the run had there."""
    every_offset: bool
    key_delay: int | None = None
    """Frames until a key frame made aside was ready; None where key frames blocked."""
    delay: DelayFigures | None = None
    """Of new objects, where every offset ran and the truth tells objects apart."""
    frames: int = 0
    against: AgainstPerFrame | None = None
    """The run held against per-frame, where that ran."""
    meter: MotionMeter | None = None
    """Measures the motion of frames, where something is scored."""
    motion: Counter[str] = field(default_factory=Counter)
    """How many frames are of each group of motion."""
    live: Live | None = None
    """Where frames arrived by a clock: what the run made of that."""
    per_frame_live: Live | None = None
    """The same of per-frame by itself, with drops of its own; what else is said of it is on the frames that the run answered."""

    def add(self, answered: AnsweredFrame) -> None:
        """Take what the run and, where it ran, per-frame say about one frame."""
        item, result, per_frame, truth = answered.item, answered.result, answered.per_frame, answered.truth
        motion = None if self.meter is None else self.meter.of(item)
        where: Where = {"age": result.key_age_frames, "index": item.index, "motion": None if motion is None else motion.group}
        if where["motion"] is not None and (where["age"] == 0 or not self.every_offset):
            self.motion[where["motion"]] += 1
        self.run.add(result, truth, **where)
        if not self.every_offset and self.meter is not None:
            self.run.consistency.add(result.label_map, motion)
        if self.baseline is None or per_frame is None:
            return
        self.baseline.add(per_frame, truth, **where)
        if not self.every_offset and self.meter is not None:
            self.baseline.consistency.add(per_frame.label_map, motion)
        if self.against is not None:
            self.against.add(result, per_frame, **where)


class Where(TypedDict):
    """What a frame's scores are filed under."""

    age: int
    index: int
    motion: str | None


def new_replay(card: Card, settings: EngineSettings, truth: Truth, *, baseline: bool, every_offset: bool = False) -> Replay:
    """A replay that has taken no frame yet; with ``baseline`` it compares with per-frame. Nothing is measured that is not scored."""
    classes = card.segmentation_classes, card.detection_classes
    replay = Replay(Tally(*classes), Tally(*classes) if baseline else None, every_offset)
    replay.against = AgainstPerFrame(*classes, score_threshold=settings.score_threshold) if baseline else None
    replay.meter = MotionMeter() if baseline or truth.given else None
    return replay


def lock_step(
    frames: Iterable[StampedFrame],
    model: LoadedModel,
    settings: EngineSettings,
    truth: Truth,
    *,
    baseline: bool,
    copy_outputs: bool = False,
    key_delay: int = KEY_DELAY,
    recorded: RecordedKeys | None = None,
    latencies: Latencies | None = None,
    observers: Sequence[Observer] = (),
) -> Replay:
    """Step through every frame under the settings' schedule; with ``baseline``, per-frame steps through the same frames.

    The two take turns in going first, so that neither finds a frame in the caches more often than the other. With
    ``copy_outputs`` frames between keys get the key's own answer: what propagation has to beat. Where the settings have key frames
    made aside, each is ready ``key_delay`` frames after its own. With ``recorded`` a live run's decisions are made again in place of the
    schedule's, and what it dropped is dropped. With ``latencies`` steps are said to take what they took in another run. ``observers``
    are told of every frame in order.
    """
    stream = open_stream(model, settings, key_delay, recorded, timing_of(latencies))
    per_frame = FeatureFlowStream(model, settings.with_values({"schedule": "per-frame"}), timing=timing_of(latencies))
    replay = new_replay(model.card, settings, truth, baseline=baseline)
    replay.key_delay = key_delay if stream.makes_keys_aside and recorded is None else None
    key_answer: FrameResult | None = None
    for item in warmed_up(frames, model, settings):
        if recorded is not None and not recorded.turn_to(item.stamp):
            for observer in (replay, *observers):
                observer.dropped(item)
            continue
        reference = None
        if baseline and replay.frames % 2:
            reference = per_frame.step(item.frame, item.stamp)
        result = stream.step(item.frame, item.stamp)
        if baseline and reference is None:
            reference = per_frame.step(item.frame, item.stamp)
        if result.is_key or key_answer is None:
            key_answer = result
        elif copy_outputs:
            result = copied(key_answer, item.stamp, age=result.key_age_frames)
        answered = AnsweredFrame(item, result, reference, truth.of(item))
        replay.frames += 1
        for observer in (replay, *observers):
            observer.add(answered)
    return replay


def open_stream(
    model: LoadedModel, settings: EngineSettings, key_delay: int, recorded: RecordedKeys | None, timing: Timing
) -> FeatureFlowStream:
    """The stream of a replay, which has no clock: keys aside are ready ``key_delay`` frames after their own, or as ``recorded``."""
    if recorded is None:
        return FeatureFlowStream(model, settings, key_worker=DelayedKeyWorker(model, key_delay, timing=timing), timing=timing)
    worker = RecordedKeyWorker(model, recorded, timing)
    return FeatureFlowStream(model, as_recorded(settings), key_worker=worker, schedule=recorded, timing=timing)


def copied(key_answer: FrameResult, stamp: int, *, age: int) -> FrameResult:
    """The key's answer given again ``age`` frames later: nothing is computed, so it takes no time."""
    return replace(
        key_answer,
        stamp=stamp,
        is_key=False,
        reason="",
        key_age_frames=age,
        key_age_ms=(stamp - key_answer.stamp) / 1e6 if stamp and key_answer.stamp else 0.0,
        motion_px=None,
        step_ms=0.0,
        feature_ms=0.0,
        flow_ms=0.0,
        refine_ms=0.0,
        head_ms=0.0,
    )


def warmed_up(frames: Iterable[StampedFrame], model: LoadedModel, settings: EngineSettings) -> Iterator[StampedFrame]:
    """The same frames; before the first of them some key and propagated steps are made on it, in a stream of their own.

    First steps pay for memory, thread pools and the choice of kernels, which is not what is to be measured.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("the recording holds no frame")
    stream = FeatureFlowStream(model, settings.with_values({"schedule": "fixed:2", "key_frames": "blocking"}))
    for _ in range(WARM_UP_STEPS):
        stream.step(first.frame, first.stamp)
    yield from itertools.chain([first], frames)
