"""The frames of a replay on which the run loses most, kept small enough for a report, whatever the recording's length."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.core.bundle import Card
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import FrameTruth
from dff_ros.evaluation.measures.frame_loss import RULE, Loss, loss_of
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.recording.frames import Frame
from dff_ros.report.pictures import Answer, Palette, WorstFrame, pictures_of

KEPT = 10
LONGEST_SIDE = 560
"""Pixels of a kept frame."""


@dataclass(frozen=True)
class Candidate:
    """A frame that may be among the worst, made small."""

    place: int
    """Which frame of the replay it is, from 0."""
    loss: Loss
    title: str
    frame: Frame
    run: Answer
    per_frame: Answer | None
    truth: Answer | None


class WorstFrames:
    """Keeps the ``KEPT`` worst of the frames it is told of, at least ``apart`` frames from one another.

    A frame closer than that to one that is kept takes its place where it is worse, and is passed over where it is not.
    """

    def __init__(self, card: Card, *, apart: int, score_threshold: float) -> None:
        self._card = card
        self._apart = max(1, apart)
        self._threshold = score_threshold
        self._kept: list[Candidate] = []
        self._frames = 0

    @property
    def rule(self) -> str:
        """How the frames were chosen, in words."""
        return f"{RULE} Shown are at most {KEPT} frames, at least {self._apart} apart, so that they are not of one moment."

    def add(self, answered: AnsweredFrame) -> None:
        """Look at one frame."""
        place, self._frames = self._frames, self._frames + 1
        loss = loss_of(answered, self._threshold)
        if loss is None or loss.share <= 0:
            return
        if self._kept and place - self._kept[-1].place < self._apart:
            if loss <= self._kept[-1].loss:
                return
            self._kept.pop()
        elif len(self._kept) == KEPT:
            least = min(self._kept, key=lambda candidate: candidate.loss)
            if loss <= least.loss:
                return
            self._kept.remove(least)
        self._kept.append(self._candidate(place, loss, answered))

    def frames(self) -> list[WorstFrame]:
        """With their pictures, the worst first."""
        card = self._card
        palette = Palette(card.detection_classes, card.palette)
        worst = sorted(self._kept, key=lambda candidate: candidate.loss, reverse=True)
        return [
            WorstFrame(item.title, item.loss.words, pictures_of(item.frame, item.run, item.per_frame, item.truth, palette, name=item.title))
            for item in worst
        ]

    def _candidate(self, place: int, loss: Loss, answered: AnsweredFrame) -> Candidate:
        item, result = answered.item, answered.result
        rows, columns = item.frame.shape[:2]
        scale = min(1.0, LONGEST_SIDE / max(rows, columns))
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        small = np.asarray(cv2.resize(np.ascontiguousarray(item.frame), size, interpolation=cv2.INTER_AREA), np.uint8)
        per_frame = None if answered.per_frame is None else self._answer(answered.per_frame, size, scale)
        kind = "key frame" if result.is_key else f"age {result.key_age_frames}"
        if result.motion_px is not None:
            kind += f", motion {result.motion_px:.1f} px"
        title = f"frame {item.index}" + (f" ({item.name})" if item.name else "")
        truth = self._truth(answered.truth, size, scale)
        return Candidate(place, loss, f"{title}, {kind}", small, self._answer(result, size, scale), per_frame, truth)

    def _answer(self, result: FrameResult, size: tuple[int, int], scale: float) -> Answer:
        labels = None if result.label_map is None else shrunk(result.label_map.labels, size)
        if result.detections is None:
            return Answer(labels)
        shown = result.detections.above(self._threshold)
        return Answer(labels, shown.boxes * np.float32(scale), shown.labels, shown.scores)

    def _truth(self, truth: FrameTruth, size: tuple[int, int], scale: float) -> Answer | None:
        if truth.labels is None and not truth.boxes:
            return None
        labels = None if truth.labels is None else shrunk(truth.labels, size)
        if not truth.boxes:
            return Answer(labels)
        boxes = [known.boxes[~known.ignored] for known in truth.boxes.values()]
        classes = np.repeat([*truth.boxes], [len(those) for those in boxes])
        return Answer(labels, np.concatenate(boxes).astype(np.float32) * np.float32(scale), classes)


def shrunk(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A label map (H, W) at (width, height) ``size``; no label is invented."""
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
