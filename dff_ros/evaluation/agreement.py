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

from dff_ros.core.propagate import propagate
from dff_ros.core.results import Task
from dff_ros.core.signals import Signals, measure_signals, surprise
from dff_ros.engine.frame_pair import FramePair, Renewal, Schedule
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.preprocess import fit, to_image
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.track import KeyFrame, PreparedFrame, Step, Track, Way
from dff_ros.evaluation.oracle import Losses
from dff_ros.evaluation.truth import LabelSource
from dff_ros.recording.frames import StampedFrame

OLDEST = 16
"""Age up to which a table reaches."""


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

    def save(self, path: Path) -> None:
        """Write the table as .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {name: value for name, value in vars(self).items() if value is not None}
        np.savez_compressed(path, **known)

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


@torch.inference_mode()
def measure_table(
    frames: Iterable[StampedFrame], model: LoadedModel, settings: EngineSettings, *, truth: LabelSource | None = None, oldest: int = OLDEST
) -> AgreementTable:
    """Run the model, its branch included where it is loaded and switched on, from every frame to the ``oldest`` frames after it.

    All frames must have one size. Raises ValueError where the model has no segmentation.
    """
    networks = model.networks
    if Task.SEGMENTATION not in networks.tasks:
        raise ValueError("agreement is measured on class maps: the bundle should have a segmentation head")
    head = networks.head(Task.SEGMENTATION)
    tracks: list[Track] = []
    rows: list[tuple[list[float], list[list[float]], list[float], list[NDArray[np.int64]]]] = []
    stamps = []
    classes = len(model.card.segmentation_classes)
    for item in frames:
        pixels = settings.input_pixels or model.card.input_pixels
        geometry = fit(*item.frame.shape[:2], input_pixels=pixels, stride=model.input_multiple)
        image = to_image(item.frame, geometry, model.device)
        prepared, feature = PreparedFrame(networks, image), model.extract(image)
        own = head.decode(head(feature), geometry).labels
        labels = None if truth is None else truth.labels_of(item)
        losses, signals, surprises = [0.0], [[np.nan] * 5], [np.nan]
        confusions = [] if labels is None else [confusion(labels, own, classes)]
        step = tracks[0].way.step_to(prepared) if tracks else Step(model, prepared, prepared)  # one for all tracks
        for age, track in enumerate(tracks, start=1):
            fields = track.way.fields_of(step)
            carried = propagate(track.key.carried, fields)
            told = measure_signals(prepared.cells, track.key.prepared.cells, fields.flow, age=age)
            if model.refines(settings):
                carried = model.refine(prepared.refine, track.key.prepared.refine, carried, fields, age)
            answer = head.decode(head(carried), geometry).labels
            losses.append(float((answer != own).mean()))
            signals.append([float(value) for value in astuple(told)])
            surprises.append(surprise(head, track.key.carried, fields, feature))
            if labels is not None:
                confusions.append(confusion(labels, answer, classes))
            track.way.advance(step, fields)
        rows.append((losses, signals, surprises, confusions))
        stamps.append(item.stamp)
        tracks = [Track(KeyFrame(feature, prepared, geometry, item.stamp, 0.0), Way(model, prepared)), *tracks][:oldest]
    return _table(rows, stamps, oldest)


def _table(
    rows: Sequence[tuple[list[float], list[list[float]], list[float], list[NDArray[np.int64]]]], stamps: list[int], oldest: int
) -> AgreementTable:
    losses = np.full((len(rows), oldest + 1), np.nan, np.float32)
    signals = np.full((len(rows), oldest + 1, 5), np.nan, np.float32)
    surprises = np.full((len(rows), oldest + 1), np.nan, np.float32)
    labelled = bool(rows) and all(row[3] for row in rows)
    confusions = np.zeros((len(rows), oldest + 1, *rows[0][3][0].shape), np.int64) if labelled else None
    for index, (lost, told, surprised, confused) in enumerate(rows):
        losses[index, : len(lost)], signals[index, : len(told)], surprises[index, : len(surprised)] = lost, told, surprised
        if confusions is not None:
            confusions[index, : len(confused)] = confused
    return AgreementTable(losses, signals, surprises, np.array(stamps, np.int64), np.zeros(1, np.int64), confusions)


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
    told = table.signals.astype(float)
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
        pair = _pair(table, frame, age, Signals(age, *told[frame, age, 1:]), renewal)
        decision = schedule.is_key_frame(pair)
        if decision:
            keys.append(frame)
            renewal = None if decision.hard else Renewal(pair.signals, float(table.surprises[frame, age]))
    return keys


def _pair(table: AgreementTable, frame: int, age: int, signals: Signals, renewal: Renewal | None) -> FramePair:
    def no_fields() -> None:
        """The table holds signals alone; a schedule must not need more."""

    return FramePair(
        age=age,
        age_ns=int(table.stamps[frame] - table.stamps[frame - age]),
        pixels_per_cell=1.0,
        compute_fields=no_fields,  # type: ignore[arg-type]
        compute_signals=lambda fields: signals,
        renewal=renewal,
        interval_ns=int(table.stamps[frame] - table.stamps[frame - 1]),
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
