"""Where the time of one step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class StepTimes:
    """Milliseconds spent in each part of one step."""

    parts: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def measure(self, part: str, device: torch.device) -> Iterator[None]:
        """Add the time of the block to ``part``; on a GPU the block is waited for."""
        before = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # not the device: a key frame may be computed beside
        self.parts[part] = self.parts.get(part, 0.0) + (time.perf_counter() - before) * 1e3

    def total(self) -> float:
        """Milliseconds since the step began."""
        return (time.perf_counter() - self.started) * 1e3


class Timing:
    """What a stream's work is said to have taken: what the clock measured.

    A replay may put other figures in their place, so that neither its report nor a schedule with a budget depends on the machine's mood.
    """

    def key_feature(self, measured_ms: float) -> float:
        """Milliseconds of a key frame's feature, made in its step or aside; told of each before the step that made it ends."""
        return measured_ms

    def step(self, measured: StepTimes, *, is_key: bool) -> dict[str, float]:
        """Milliseconds of a step's parts, and of all of it as ``step``; with a ``feature`` but not ``is_key`` it made a key aside."""
        return {**measured.parts, "step": measured.total()}
