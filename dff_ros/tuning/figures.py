"""The figures of a candidate, simulated or from a real run, in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dff_ros.evaluation.measures.metrics import describe
from dff_ros.tuning.losses import Losses, Scores


@dataclass(frozen=True)
class Figures:
    """Shares are fractions, times milliseconds; terms as in the README."""

    frames: int
    """That arrived; the key frames before the clock starts do not count."""
    dropped: int
    key_rate: float
    """Key frames a processed frame."""
    loss: float
    losses: Losses
    scores: Scores
    mean_ms: float
    """Latency, from a frame's arrival to its answer."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def drop_rate(self) -> float:
        """Dropped frames a frame that arrived."""
        return self.dropped / self.frames

    def as_json(self) -> dict[str, Any]:
        """Under the names of ``tune.json``."""
        names = ("mean", "p50", "p95", "p99", "max")
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "key_rate": self.key_rate,
            "loss": self.loss,
            "loss_by_task": asdict(self.losses),
            "scores": asdict(self.scores),
            "latency_ms": {name: getattr(self, f"{name}_ms") for name in names},
        }


def figures(made_key: Sequence[bool], latency_ms: Sequence[float], *, dropped: int, losses: Losses, scores: Scores) -> Figures:
    """Of one run, its answered frames in order; raises ValueError where nothing was answered or scored."""
    loss = losses.loss
    if loss is None or not latency_ms:
        raise ValueError("nothing can be compared: the bundles answer neither classes nor boxes on these frames")
    times = {f"{name}_ms": float(value or 0.0) for name, value in describe(latency_ms).items()}
    key_rate = sum(made_key) / len(made_key)
    return Figures(len(latency_ms) + dropped, dropped, key_rate, loss, losses, scores, **times)
