"""Replaying every frame with its key at each of the ages that a fixed schedule gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from dff_ros.core.results import Task
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.engine.track import Track
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.measures.delay import LEAST_SEEN, DetectionDelay
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.evaluation.run import Replay, copied, new_replay, warmed_up
from dff_ros.recording.frames import StampedFrame


@dataclass(frozen=True)
class AnsweredKey:
    """A track and the answer of its key frame itself, which is per-frame's."""

    track: Track
    answer: FrameResult


def every_offset(
    frames: Iterable[StampedFrame], model: LoadedModel, settings: EngineSettings, truth: Truth, *, interval: int, copy_outputs: bool = False
) -> Replay:
    """Score every frame from the ``interval``-th on with its key at each of 0..interval-1 frames before it.

    Each frame's feature is computed once, and answers for per-frame at age 0. The last ``interval`` keys are held. Together the
    offsets are all phases of the schedule, so the delay of new objects is followed through the same answers.
    """
    stream = FeatureFlowStream(model, settings)
    replay = new_replay(model.card, settings, truth, baseline=True, every_offset=True)
    detects = settings.detection and Task.DETECTION in model.networks.tasks
    delay = DetectionDelay(interval, score_threshold=settings.score_threshold) if detects and truth.identified else None
    apparent = DetectionDelay(interval, score_threshold=settings.score_threshold, least_seen=LEAST_SEEN) if detects else None
    keys: deque[AnsweredKey] = deque(maxlen=interval)
    for item in warmed_up(frames, model, settings):
        earlier = [*keys][-(interval - 1) :] if interval > 1 else []
        keys.append(AnsweredKey(*stream.start_track(item.frame, item.stamp)))
        replay.frames += 1
        if keys[0].track.key.geometry != keys[-1].track.key.geometry:
            raise ValueError(f"every-offset needs frames of one size, frame {item.index} has another than those before it")
        known = truth.of(item)
        answers = [keys[-1].answer]
        answers += [_answer_from(stream, key, item, age, copy_outputs=copy_outputs) for age, key in enumerate(reversed(earlier), 1)]
        for answer in answers if len(keys) == interval else ():
            replay.add(AnsweredFrame(item, answer, answers[0], known))
        found = [answer.detections for answer in answers if answer.detections is not None]
        if delay is not None:
            delay.add(known.boxes, found)
        if apparent is not None and replay.against is not None:
            apparent.add(replay.against.truth_of(found[0]), found)
    if replay.frames < interval:
        raise ValueError(f"every-offset at fixed:{interval} needs at least {interval} frames, got {replay.frames}")
    replay.delay = None if delay is None else delay.figures()
    if apparent is not None and replay.against is not None:
        replay.against.delay = apparent.figures()
    return replay


def _answer_from(stream: FeatureFlowStream, held: AnsweredKey, item: StampedFrame, age: int, *, copy_outputs: bool) -> FrameResult:
    """The answer to a frame whose key lies ``age`` frames back."""
    if copy_outputs:
        return copied(held.answer, item.stamp, age=age)
    return stream.follow(held.track, item.frame, item.stamp)
