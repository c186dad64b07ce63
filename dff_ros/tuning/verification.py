"""A candidate run for real: frames arrive by the clock, the engine works with its own threads, and the reference says what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth, Truth
from dff_ros.evaluation.measures.against_per_frame import AgainstPerFrame
from dff_ros.evaluation.measures.metrics import mean_or_none
from dff_ros.evaluation.measures.scores import Scores as TruthScores
from dff_ros.recording.frames import StampedFrame
from dff_ros.tuning.boxes_by_age import agreed
from dff_ros.tuning.figures import Figures, figures
from dff_ros.tuning.losses import Scores, losses

HELD_BYTES = 300_000_000
"""Decoded frames are held while they are played, so that decoding does not take the engine's time: at most so many bytes at once."""

WARM_UP = 5


@dataclass(frozen=True)
class Answered:
    """One answer, and how long after its frame's arrival it came."""

    item: StampedFrame
    result: FrameResult
    latency_ms: float


def clocked(model: LoadedModel, settings: EngineSettings, items: Sequence[StampedFrame]) -> list[Answered]:
    """The answers to the frames after the first, arriving by their stamps; the first is a key frame that comes before the clock starts."""
    stream = FeatureFlowStream(model, settings)
    answers = []
    try:
        stream.step(items[0].frame, items[0].stamp)
        arrivals = [(item.stamp - items[1].stamp) / 1e9 for item in items]
        started, place = time.perf_counter(), 1
        while place < len(items):
            now = time.perf_counter() - started
            if now < arrivals[place]:
                time.sleep(arrivals[place] - now)
                now = arrivals[place]
            first = place
            while place + 1 < len(items) and arrivals[place + 1] <= now:
                place += 1
            dropped = [item.stamp for item in items[first:place]]
            result = stream.step(items[place].frame, items[place].stamp, dropped=dropped)
            answers.append(Answered(items[place], result, (time.perf_counter() - started - arrivals[place]) * 1e3))
            place += 1
    finally:
        stream.close()
    return answers


def held(frames: Iterable[tuple[bool, StampedFrame]]) -> Iterator[list[StampedFrame]]:
    """The frames of one segment after the other, cut where they would take too much memory; pieces of one frame have nothing to play."""
    piece: list[StampedFrame] = []
    for begins, item in frames:
        full = sum(one.frame.nbytes for one in piece) + item.frame.nbytes > HELD_BYTES
        parts = piece and (item.frame.shape != piece[-1].frame.shape or item.stamp <= piece[-1].stamp)
        if begins or full or parts:
            if len(piece) > 1:
                yield piece
            piece = []
        piece.append(item)
    if len(piece) > 1:
        yield piece


class _Scoring(TruthScores):
    """One way of running against the truth and against the reference."""

    def __init__(self, segmentation_classes: tuple[str, ...], detection_classes: tuple[str, ...], *, score_threshold: float) -> None:
        super().__init__(segmentation_classes, detection_classes)
        self.detection_classes = detection_classes
        self.against = AgainstPerFrame(segmentation_classes, detection_classes, score_threshold=score_threshold)

    def add(self, result: FrameResult, reference: FrameResult, truth: FrameTruth) -> None:
        self.against.add(result, reference, age=0)
        self.score(result, truth, age=0)

    def scores(self) -> Scores:
        against = self.against.detection
        boxes = against.boxes(average_ages=False)
        counts = {label: boxes[name] or 0 for label, name in enumerate(self.detection_classes)}
        return Scores(
            agreement=self.against.agreement,
            agreement_ap50=agreed(against.precision(average_ages=False), counts).ap50,
            miou=mean_or_none(self.segmentation.iou(average_ages=False).values()) if self.segmentation else None,
            map50=self.detection.precision(average_ages=False).map50 if self.detection else None,
        )


def verify(
    frames: Iterable[tuple[bool, StampedFrame]],
    model: LoadedModel,
    settings: EngineSettings,
    truth: Truth,
    *,
    reference: tuple[LoadedModel, EngineSettings],
) -> Figures:
    """Run ``model`` under ``settings`` by the clock; the figures are those of the simulation, but real.

    ``reference`` is run per frame on the same frames, out of the clock. Raises ValueError where no two frames follow each other.
    """
    card = model.card
    classes = card.segmentation_classes, card.detection_classes
    run, per_frame = (_Scoring(*classes, score_threshold=settings.score_threshold) for _ in range(2))
    own = FeatureFlowStream(reference[0], reference[1].with_values({"schedule": "per-frame"}))
    answers: list[tuple[bool, float]] = []
    arrived = 0
    for piece in held(frames):
        if not answers:
            clocked(model, settings, piece[: WARM_UP + 1])
        arrived += len(piece) - 1
        for each in clocked(model, settings, piece):
            right = own.step(each.item.frame, each.item.stamp)
            known = truth.of(each.item)
            run.add(each.result, right, known)
            per_frame.add(right, right, known)
            answers.append((each.result.made_key, each.latency_ms))
    if not answers:
        raise ValueError("no two of the frames follow each other")
    made_key, latency_ms = zip(*answers, strict=True)
    scores = run.scores()
    return figures(made_key, latency_ms, dropped=arrived - len(answers), losses=losses(scores, per_frame.scores()), scores=scores)
