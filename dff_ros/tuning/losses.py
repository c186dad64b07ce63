"""What a candidate loses, as one number.

The reference is per-frame of the first bundle at its own input size, on the same frames. The loss of a task is

- without truth: for segmentation the share of pixels whose class is another than the reference's; for detection 1 - AP50 with the
  reference's detections in the place of truth, the mean over classes weighted by their boxes;
- with truth: the reference's mIoU or AP50 minus the candidate's (below 0 where the candidate is the better one).

The loss of a candidate is the larger of its tasks' losses. Where truth is given for one task only, that task alone counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dff_ros.evaluation.measures.metrics import mean_or_none
from dff_ros.evaluation.schedule_study.agreement import AgreementTable
from dff_ros.tuning.boxes_by_age import BoxesByAge

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Scores:
    """Of one run, each None where it was not measured; ``agreement`` and ``agreement_ap50`` are against the reference."""

    agreement: float | None
    agreement_ap50: float | None
    miou: float | None
    map50: float | None


@dataclass(frozen=True)
class Losses:
    """Fractions, None where not measured."""

    segmentation: float | None
    detection: float | None

    @property
    def loss(self) -> float | None:
        """The larger one."""
        return max((loss for loss in (self.segmentation, self.detection) if loss is not None), default=None)


@dataclass(frozen=True)
class Answers:
    """All that a network answers to the frames looked at, with its key at every age."""

    table: AgreementTable
    """Its losses are against the reference; NaN everywhere where there is no segmentation."""
    against_reference: BoxesByAge
    against_truth: BoxesByAge

    def scores(self, frames: Indices, ages: Indices) -> Scores:
        """Of ``frames`` answered with keys of ``ages``; beyond the oldest age measured its answer stands in."""
        ages = np.minimum(ages, self.table.oldest)
        disagreement = self.table.losses[frames, ages].astype(np.float64)
        measured = len(frames) > 0 and not np.isnan(disagreement).any()
        return Scores(
            agreement=1.0 - float(disagreement.mean()) if measured else None,
            agreement_ap50=self.against_reference.precision(frames, ages).ap50,
            miou=self._miou(frames, ages),
            map50=self.against_truth.precision(frames, ages).map50,
        )

    def _miou(self, frames: Indices, ages: Indices) -> float | None:
        if self.table.confusions is None:
            return None
        counts = self.table.confusions[frames, ages].sum(axis=0)
        hits, true = counts.diagonal(), counts.sum(axis=1)
        union = counts.sum(axis=0) + true - hits
        return mean_or_none(float(hits[label] / union[label]) for label in np.flatnonzero(true))


def losses(scores: Scores, reference: Scores) -> Losses:
    """What a run loses whose reference scored ``reference`` on the same frames."""
    by_truth = Losses(_below(reference.miou, scores.miou), _below(reference.map50, scores.map50))
    if by_truth.loss is not None:
        return by_truth
    return Losses(_below(1.0, scores.agreement), _below(1.0, scores.agreement_ap50))


def _below(reference: float | None, score: float | None) -> float | None:
    return None if reference is None or score is None else reference - score
