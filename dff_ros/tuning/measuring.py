"""One pass over the frames looked at: what every network answers with its key at every age, held against the reference and the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dff_ros.core.results import Detections, Task
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, FrameTruth, Truth
from dff_ros.evaluation.measures.against_per_frame import as_truth
from dff_ros.evaluation.measures.average_precision import ScoredFrame, scorable
from dff_ros.evaluation.measures.every_age import OLDEST, Aged, EveryAge, Told
from dff_ros.evaluation.schedule_study.agreement import TableRows, confusion
from dff_ros.recording.frames import StampedFrame
from dff_ros.tuning.boxes_by_age import BoxesByAge
from dff_ros.tuning.candidates import Network
from dff_ros.tuning.losses import Answers

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Reference:
    """Per-frame's answer to one frame."""

    labels: Labels | None
    boxes: Mapping[int, ClassBoxes]


class Measuring:
    """One network on the way through the recording."""

    def __init__(self, network: Network, model: LoadedModel, base: EngineSettings, *, labelled: bool) -> None:
        self.network, self.model = network, model
        self.settings = network.settings(base)
        self._labelled = labelled
        self._every_age = EveryAge(model, self.settings)
        self._rows = TableRows(OLDEST)
        self._against_reference: list[list[ScoredFrame]] = []
        self._against_truth: list[list[ScoredFrame]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self) -> None:
        """The next frame begins a segment."""
        self._every_age.reset()
        self._rows.begin()

    @torch.inference_mode()
    def add(self, item: StampedFrame, truth: FrameTruth, reference: Reference | None) -> Reference:
        """Take one frame; returns its reference, which is this network's own answer where none is given."""
        told: list[Told] = []
        disagreements: list[float] = []
        confusions: list[NDArray[np.int64]] = []
        against_reference: list[ScoredFrame] = []
        against_truth: list[ScoredFrame] = []
        for aged in self._every_age.step(item):
            labels, detections = self._answer(aged)
            if reference is None:
                reference = self._as_reference(labels, detections)
            told.append(aged.told)
            known = None if labels is None or reference.labels is None else float((labels != reference.labels).mean())
            disagreements.append(np.nan if known is None else known)
            if self._labelled and labels is not None:
                confusions.append(self._confusion(truth.labels, labels))
            if detections is not None:
                against_reference.append(_scored(detections, reference.boxes))
                if truth.boxes:
                    against_truth.append(_scored(detections, truth.boxes))
        assert reference is not None, "a frame has an answer at age 0"
        self._against_reference.append(against_reference)
        self._against_truth.append(against_truth)
        self._rows.add(item.stamp, told, disagreements, confusions)  # the last: an interruption leaves a frame in all of them or uncounted
        return reference

    def answers(self) -> Answers:
        """Everything so far."""
        count = len(self)
        return Answers(self._rows.table(), BoxesByAge(self._against_reference[:count]), BoxesByAge(self._against_truth[:count]))

    def _answer(self, aged: Aged) -> tuple[Labels | None, Detections | None]:
        networks, labels, detections = self.model.networks, None, None
        if Task.SEGMENTATION in networks.tasks:
            head = networks.head(Task.SEGMENTATION)
            labels = head.decode(head(aged.feature), aged.geometry).labels
        if Task.DETECTION in networks.tasks:
            head = networks.head(Task.DETECTION)
            detections = head.decode(head(aged.feature), aged.geometry)
        return labels, detections

    def _as_reference(self, labels: Labels | None, detections: Detections | None) -> Reference:
        classes = len(self.model.card.detection_classes)
        return Reference(labels, {} if detections is None else as_truth(detections, classes, self.settings.score_threshold))

    def _confusion(self, truth: Labels | None, labels: Labels) -> NDArray[np.int64]:
        classes = len(self.model.card.segmentation_classes)
        return np.zeros((classes, classes), np.int64) if truth is None else confusion(truth, labels, classes)


def _scored(detections: Detections, truth: Mapping[int, ClassBoxes]) -> ScoredFrame:
    held = {label: replace(known, unknown=None) for label, known in truth.items()}  # masks would add up over a long recording
    return ScoredFrame(scorable(detections, truth), held)


def measure(frames: Iterable[tuple[bool, StampedFrame]], networks: Sequence[Measuring], truth: Truth) -> None:
    """Lead all networks through the frames, each with whether it begins a segment; the first network's per-frame answer is the reference.

    Frames whose size or place in time does not go on from the one before begin a segment too.
    """
    before: StampedFrame | None = None
    for begins, item in frames:
        known = truth.of(item)
        parts = begins or before is None or item.frame.shape != before.frame.shape or item.stamp <= before.stamp
        reference: Reference | None = None
        for network in networks:
            if parts:
                network.begin()
            reference = network.add(item, known, reference)
        before = item
