"""Holding a budget: a PI controller moves the price of a key frame until what the frames spend is what the operator set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from dff_ros.engine.frame_pair import FramePair


class Measure(Enum):
    """What is held, by its name in the schedule's grammar."""

    KEY_RATE = "rate"
    """Key frames a processed frame."""
    BUSY = "ms_per_s"
    """Milliseconds of computing in a second of the camera's time: under contention fewer key frames are made."""
    LATENCY = "latency_ms"
    """Mean milliseconds of computing a frame."""


@dataclass(frozen=True)
class SetPoint:
    """A measure and the value to hold; raises ValueError for one that cannot be."""

    measure: Measure
    value: float

    def __post_init__(self) -> None:
        highest = {Measure.KEY_RATE: 1.0, Measure.BUSY: 1000.0, Measure.LATENCY: math.inf}[self.measure]
        if not 0 < self.value <= highest or math.isinf(self.value):
            raise ValueError(f"{self.measure.value} should be more than 0 and at most {highest:g}, got {self.value:g}")


class PIController:
    """Proportional and integral control with bounds on the output.

    ``error`` is relative (measured / set-point - 1). The integral is the output's memory; it stops at the bounds (anti-windup: what
    pushes further out is not summed up, so that a long still scene does not have to be undone).
    """

    def __init__(self, *, proportional: float, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"bounds should rise, got {low} and {high}")
        self.proportional = proportional
        self.low, self.high = low, high
        self.integral = 0.0

    def update(self, *, error: float, gained: float) -> float:
        """The output for this ``error``; ``gained`` is what it adds to the integral."""
        output = self.proportional * error + self.integral + gained
        outwards = (output > self.high and gained > 0) or (output < self.low and gained < 0)
        if not outwards:
            self.integral = min(max(self.integral + gained, self.low), self.high)
        return min(max(self.proportional * error + self.integral, self.low), self.high)


class Budget:
    """The price of a key frame that holds a set-point; told of every frame.

    The controller works on the logarithm of the price: a scene twice as lively needs twice the price. Its integral sums what was
    spent beyond the set-point in units of key frames, so that over any stretch the count of key frames is off by no more than the
    change of price asks for.
    """

    INTEGRAL = 0.5
    """Change of the price's logarithm for each key frame in excess."""
    PROPORTIONAL = 0.3
    """Change for twice the set-point, smoothed over ``SMOOTHED_KEYS`` key frames."""
    SMOOTHED_KEYS = 4.0
    BOUND = math.log(100.0)
    """The price stays within this factor of where it started, which a long still scene does not wind up."""
    LARGEST_ERROR = 4.0
    """Relative error of a single frame that is believed: one step that the machine slept through tells nothing of the next."""
    RATE_BOUNDS = (0.02, 0.5)

    def __init__(self, set_point: SetPoint, *, price: float) -> None:
        self.set_point = set_point
        self._start = price
        self.price = price
        self._controller = PIController(proportional=self.PROPORTIONAL, low=-self.BOUND, high=self.BOUND)
        self._key_rate = set_point.value if set_point.measure is Measure.KEY_RATE else 0.1
        self._smoothed = 0.0

    def hold(self, set_point: SetPoint) -> None:
        """Go on with another set-point from the price reached."""
        self.set_point = set_point
        if set_point.measure is Measure.KEY_RATE:
            self._key_rate = set_point.value
        self._smoothed = 0.0

    def spent(self, pair: FramePair, *, was_key: bool) -> None:
        """Take in what the frame before this pair cost."""
        spent = self._spent_by(pair, was_key=was_key)
        if spent is None:
            return
        most = math.inf if self.set_point.measure is Measure.KEY_RATE else self.LARGEST_ERROR / self._key_rate
        error = min(spent / self.set_point.value - 1.0, most)
        self._smoothed += self._key_rate / self.SMOOTHED_KEYS * (error - self._smoothed)
        log_price = self._controller.update(error=self._smoothed, gained=self.INTEGRAL * self._key_rate * error)
        self.price = self._start * math.exp(log_price)
        if self.set_point.measure is not Measure.KEY_RATE:
            low, high = self.RATE_BOUNDS  # it follows afterwards and slowly: a rate that rose with each key would weigh keys more
            self._key_rate = min(max(self._key_rate + 0.01 * (float(was_key) - self._key_rate), low), high)

    def _spent_by(self, pair: FramePair, *, was_key: bool) -> float | None:
        """In the set-point's unit; None where it is not known."""
        if self.set_point.measure is Measure.KEY_RATE:
            return float(was_key)
        if self.set_point.measure is Measure.LATENCY or pair.spent_ms is None:
            return pair.spent_ms
        return pair.spent_ms / (pair.interval_ns / 1e9) if pair.interval_ns else None
