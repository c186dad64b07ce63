"""What the node counts and times: totals since activation, and rates and percentiles over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields

import numpy as np

WINDOW_SECONDS = 5.0
_MOST = 2000


@dataclass
class Counters:
    """Images since activation; each one received ends up in exactly one of the other fields."""

    received: int = 0
    dropped: int = 0
    """Replaced in the mailbox by a newer one before the worker was free."""
    processed: int = 0
    duplicate: int = 0
    """Same stamp as the one before."""
    stale: int = 0
    """Older than ``max_image_age``."""
    bad: int = 0
    """Not an image that can be read."""
    failed: int = 0
    """An error while processing it."""

    def since(self, earlier: Counters) -> Counters:
        """What was counted after ``earlier``."""
        return Counters(**{item.name: getattr(self, item.name) - getattr(earlier, item.name) for item in fields(self)})


@dataclass(frozen=True)
class Timing:
    """One processed frame: when (``time.monotonic``), whether it was made a key frame (at once or aside), and its times in milliseconds."""

    at: float
    made_key: bool
    latency_ms: float
    step_ms: float
    overhead_ms: float


@dataclass
class Statistics:
    """Counters, and what happened within the last ``WINDOW_SECONDS``. One thread writes each field, any thread reads."""

    counters: Counters = field(default_factory=Counters)
    since: float = field(default_factory=time.monotonic)
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))
    _timings: deque[Timing] = field(default_factory=lambda: deque(maxlen=_MOST))

    def arrived(self, *, replaced: bool) -> None:
        """An image came in, perhaps in place of one that nobody had looked at."""
        self.counters.received += 1
        self.counters.dropped += replaced
        self._arrivals.append(time.monotonic())

    def answered(self, *, made_key: bool, latency_ms: float, step_ms: float, overhead_ms: float) -> None:
        """A frame was processed and its answer published."""
        self.counters.processed += 1
        self._timings.append(Timing(time.monotonic(), made_key, latency_ms, step_ms, overhead_ms))

    @property
    def recent_frames(self) -> list[Timing]:
        """Frames processed within the window."""
        moment = time.monotonic() - WINDOW_SECONDS
        return [timing for timing in self._timings.copy() if timing.at > moment]

    @property
    def input_rate(self) -> float:
        """Images per second that arrived within the window."""
        moment = time.monotonic() - WINDOW_SECONDS
        return sum(at > moment for at in self._arrivals.copy()) / self._seconds

    @property
    def output_rate(self) -> float:
        """Frames per second that were processed within the window."""
        return len(self.recent_frames) / self._seconds

    @property
    def silence(self) -> float:
        """Seconds since the last image, or since activation where none came."""
        return time.monotonic() - (self._arrivals[-1] if self._arrivals else self.since)

    @property
    def _seconds(self) -> float:
        return max(min(WINDOW_SECONDS, time.monotonic() - self.since), 1e-3)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 of ``values``; empty without values."""
    if not values:
        return {}
    return dict(zip(("p50", "p95", "p99"), np.percentile(values, (50, 95, 99)).tolist(), strict=True))
