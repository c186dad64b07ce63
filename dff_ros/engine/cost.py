"""What a key frame and a propagated frame cost on this machine, measured at start-up (DFF, sec. 3.3: r and s)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dff_ros.core.results import ALL_TASKS
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream

PAYS_BELOW = 0.7
"""Above this cost ratio per-frame is the better choice: propagation loses accuracy and gains almost no time."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one step of each kind, on one machine at one input size."""

    key_ms: float
    propagated_ms: float

    @property
    def cost_ratio(self) -> float:
        """r: the cost of a propagated frame over that of a key frame."""
        return self.propagated_ms / self.key_ms

    def speedup(self, key_frame_interval: int) -> float:
        """s = l / (1 + (l - 1) r): the expected speed-up over per-frame."""
        return key_frame_interval / (1 + (key_frame_interval - 1) * self.cost_ratio)

    @property
    def advice(self) -> str:
        """One line for the log."""
        facts = f"key frame {self.key_ms:.1f} ms, propagated {self.propagated_ms:.1f} ms, cost ratio {self.cost_ratio:.2f}"
        if self.cost_ratio > PAYS_BELOW:
            return f"{facts}: above {PAYS_BELOW}, so per-frame (schedule:=per-frame) is the better choice here"
        return f"{facts}, expected speed-up {self.speedup(5):.1f} at l=5 and {self.speedup(10):.1f} at l=10"


def measure_cost(model: LoadedModel, settings: EngineSettings, height: int, width: int, *, repeats: int = 5) -> Cost:
    """Time both kinds of step on noise of the given source size, after warming both up.

    The fastest of ``repeats`` counts: what else the machine does at that moment can only add to it.
    """
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    stream = FeatureFlowStream(model, settings.with_values({"schedule": "fixed:3", "key_frames": "blocking", "max_key_age": 0.0}))
    keys: list[float] = []
    propagated: list[float] = []
    for index in range(3 * (repeats + 1)):
        result = stream.step(frames[index % 2], 0, tasks=ALL_TASKS)
        (keys if result.is_key else propagated).append(result.step_ms)
    return Cost(min(keys[1:]), min(propagated[2:]))
