"""How far every frame's answer is from per-frame's with its key at every age: schedules are tried on the table instead of the video.

All that a schedule sees depends on the frame and the age of its key alone, so the table is computed once for a recording, and
any schedule, or the oracle, is then run over it in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dff_ros.core.results import Task
from dff_ros.core.signals import SIGNALS, Signals
from dff_ros.engine.frame_pair import FramePair, Renewal, Schedule
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.ground_truth.truth import LabelSource
from dff_ros.evaluation.measures.every_age import OLDEST, EveryAge, Told
from dff_ros.evaluation.schedule_study.oracle import Losses
from dff_ros.recording.frames import StampedFrame


@dataclass(frozen=True)
class AgreementTable:
    """Everything at [frame, age of its key]; NaN where the recording had not begun."""

    losses: Losses
    """(frames, ages) share of pixels whose class is another than per-frame's; 0 at age 0."""
    signals: NDArray[np.float32]
    """(frames, ages, signals) what a schedule sees, in the order of the fields of :class:`dff_ros.core.signals.Signals`."""
    surprises: NDArray[np.float32]
    """(frames, ages) what a new key frame there shows."""
    stamps: NDArray[np.int64]
    """(frames,) nanoseconds."""
    firsts: NDArray[np.int64]
    """Frames at which a recording begins, 0 first."""
    confusions: NDArray[np.int64] | None = None
    """(frames, ages, classes, classes) counts of truth against answer, where there is truth for every frame."""

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def oldest(self) -> int:
        """The age up to which the table reaches."""
        ages: int = self.losses.shape[1]
        return ages - 1

    def save(self, path: Path) -> None:
        """Write the table as .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {name: value for name, value in vars(self).items() if value is not None}
        np.savez_compressed(path, **known)

    def up_to(self, oldest: int) -> AgreementTable:
        """The same with keys of no greater age."""
        ages = slice(oldest + 1)
        confusions = None if self.confusions is None else self.confusions[:, ages]
        return AgreementTable(
            self.losses[:, ages], self.signals[:, ages], self.surprises[:, ages], self.stamps, self.firsts, confusions=confusions
        )

    def part(self, number: int) -> AgreementTable:
        """One of the recordings."""
        first, after = [*self.firsts, len(self)][number : number + 2]
        confusions = None if self.confusions is None else self.confusions[first:after]
        rows = (self.losses[first:after], self.signals[first:after], self.surprises[first:after], self.stamps[first:after])
        return AgreementTable(*rows, firsts=np.zeros(1, np.int64), confusions=confusions)


def load_table(path: Path) -> AgreementTable:
    """A table that was saved."""
    with np.load(path) as content:
        return AgreementTable(**{name: content[name] for name in content.files})


def join_tables(tables: Sequence[AgreementTable]) -> AgreementTable:
    """Several recordings one after the other: each begins with a key frame, and with nothing known of the scene."""
    lengths = np.cumsum([0, *map(len, tables)])
    firsts = np.concatenate([table.firsts + offset for table, offset in zip(tables, lengths, strict=False)])
    losses, signals, surprises, stamps = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("losses", "signals", "surprises", "stamps")
    )
    return AgreementTable(losses, signals, surprises, stamps, firsts)


class TableRows:
    """An agreement table in the making, frame by frame."""

    def __init__(self, oldest: int) -> None:
        self._oldest = oldest
        self._rows: list[tuple[int, Sequence[float], Sequence[Told], Sequence[NDArray[np.int64]]]] = []
        self._firsts: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self) -> None:
        """The next frame begins a recording."""
        self._firsts.append(len(self))

    def add(self, stamp: int, told: Sequence[Told], losses: Sequence[float], confusions: Sequence[NDArray[np.int64]]) -> None:
        """One frame, everything by age; no confusions where there is no truth."""
        self._rows.append((stamp, losses, told, confusions))

    def table(self) -> AgreementTable:
        """Of all frames so far."""
        frames, ages = len(self), self._oldest + 1
        losses = np.full((frames, ages), np.nan, np.float32)
        signals = np.full((frames, ages, len(SIGNALS)), np.nan, np.float32)
        surprises = np.full((frames, ages), np.nan, np.float32)
        labelled = bool(self._rows) and all(confused for _, _, _, confused in self._rows)
        confusions = np.zeros((frames, ages, *self._rows[0][3][0].shape), np.int64) if labelled else None
        for index, (_, lost, told, confused) in enumerate(self._rows):
            losses[index, : len(lost)] = lost
            surprises[index, : len(told)] = [each.surprise for each in told]
            for age, each in enumerate(told):
                if each.signals is not None:
                    signals[index, age] = astuple(each.signals)
            if confusions is not None:
                confusions[index, : len(confused)] = confused
        stamps = np.array([stamp for stamp, _, _, _ in self._rows], np.int64)
        return AgreementTable(losses, signals, surprises, stamps, np.array(self._firsts or [0], np.int64), confusions)


@torch.inference_mode()
def measure_table(
    frames: Iterable[StampedFrame], model: LoadedModel, settings: EngineSettings, *, truth: LabelSource | None = None, oldest: int = OLDEST
) -> AgreementTable:
    """Run the model from every frame to the ``oldest`` frames after it.

    All frames must have one size. Raises ValueError where the model has no segmentation.
    """
    if Task.SEGMENTATION not in model.networks.tasks:
        raise ValueError("agreement is measured on class maps: the bundle should have a segmentation head")
    head = model.networks.head(Task.SEGMENTATION)
    classes = len(model.card.segmentation_classes)
    every_age, rows = EveryAge(model, settings, oldest=oldest), TableRows(oldest)
    for item in frames:
        labels = None if truth is None else truth.labels_of(item)
        told, answers = [], []
        for aged in every_age.step(item):
            told.append(aged.told)
            answers.append(head.decode(head(aged.feature), aged.geometry).labels)
        losses = [float((answer != answers[0]).mean()) for answer in answers]
        rows.add(item.stamp, told, losses, [] if labels is None else [confusion(labels, answer, classes) for answer in answers])
    return rows.table()


def confusion(truth: NDArray[np.uint8], answer: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts of pixels, truth downwards; what truth does not label is left out."""
    scored = truth < classes
    counts = np.bincount(truth[scored].astype(np.int64) * classes + answer[scored], minlength=classes**2)
    return counts[: classes**2].reshape(classes, classes)


def play(table: AgreementTable, schedule: Schedule) -> list[int]:
    """The key frames that ``schedule``, a fresh one, makes; recordings begin with one, and one is made where the table ends."""
    keys: list[int] = []
    renewal: Renewal | None = None
    ages = table.losses.shape[1]
    beginnings = set(table.firsts.tolist())
    for frame in range(len(table)):
        if frame in beginnings:
            if frame:
                schedule.reset()
            keys.append(frame)
            renewal = None
            continue
        age = frame - keys[-1]
        if age >= ages:
            keys.append(frame)
            renewal = None
            continue
        interval = int(table.stamps[frame] - table.stamps[frame - 1])
        pair = pair_on(table, frame, age, age=age, renewal=renewal, interval_ns=interval)
        decision = schedule.is_key_frame(pair)
        if decision:
            keys.append(frame)
            renewal = None if decision.hard else Renewal(pair.signals, float(table.surprises[frame, age]))
    return keys


def pair_on(
    table: AgreementTable,
    frame: int,
    distance: int,
    *,
    age: int,
    renewal: Renewal | None,
    interval_ns: int | None = None,
    spent_ms: float | None = None,
) -> FramePair:
    """What a schedule is shown of a frame whose key lies ``distance`` frames of the recording before it, of which ``age`` were processed.

    Signals are those of the oldest age where the table ends before.
    """

    def no_fields() -> None:
        """The table holds signals alone; a schedule must not need more."""

    told = table.signals[frame, min(distance, table.oldest), 1:].astype(float)
    return FramePair(
        age=age,
        age_ns=int(table.stamps[frame] - table.stamps[frame - distance]),
        pixels_per_cell=1.0,
        compute_fields=no_fields,  # type: ignore[arg-type]
        compute_signals=lambda fields: Signals(age, *told),
        renewal=renewal,
        interval_ns=interval_ns,
        spent_ms=spent_ms,
    )


def losses_of(table: AgreementTable, keys: Sequence[int]) -> NDArray[np.float64]:
    """(frames,) what each frame loses with key frames at ``keys``."""
    frames = np.arange(len(table))
    newest = np.asarray(keys)[np.searchsorted(keys, frames, side="right") - 1]
    losses: NDArray[np.float64] = table.losses[frames, frames - newest].astype(np.float64)
    return losses


def miou_of(table: AgreementTable, keys: Sequence[int]) -> float | None:
    """Mean IoU over classes that occur, with key frames at ``keys``; None without truth."""
    if table.confusions is None:
        return None
    frames = np.arange(len(table))
    newest = np.asarray(keys)[np.searchsorted(keys, frames, side="right") - 1]
    counts = table.confusions[frames, frames - newest].sum(axis=0)
    union = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    occurs = counts.sum(axis=1) > 0
    return float((counts.diagonal()[occurs] / union[occurs]).mean())
