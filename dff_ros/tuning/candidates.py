"""What is tried: bundles at several input sizes, and on each of them schedules with key frames that block or are made aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dff_ros.engine.settings import EngineSettings

SIZES = (1.0, 0.8, 0.6)
"""Pixels of the network's input, as shares of what the bundle was trained for."""

INTERVALS = (2, 3, 4, 5, 7, 10, 14)
"""Frames between key frames of fixed schedules: up to there the loss of every age is measured."""

PRICES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.8)
RATES = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Network:
    """A bundle at one input size."""

    model: str
    """As ``EngineSettings.model``: a shipped bundle's name, or a folder."""
    size: float
    input_pixels: int
    """0 where it is the bundle's own."""

    @property
    def name(self) -> str:
        """For tables: ``street`` or ``street at 0.6``."""
        short = self.model.rstrip("/").rsplit("/", 1)[-1]
        return short if self.size == 1.0 else f"{short} at {self.size:g}"

    def settings(self, base: EngineSettings) -> EngineSettings:
        """``base`` with this bundle and size."""
        return base.with_values({"model": self.model, "input_pixels": self.input_pixels})


@dataclass(frozen=True)
class Candidate:
    """A way to run the node."""

    network: Network
    schedule: str
    key_frames: str = "blocking"
    price: float | None = None
    """``adaptive_price`` where the schedule has no set-point."""

    @property
    def name(self) -> str:
        """Unique among the candidates, for tables and JSON."""
        price = "" if self.price is None else f" (price {self.price:g})"
        return f"{self.network.name}, {self.schedule}{price}, {self.key_frames}"

    @property
    def adaptive(self) -> bool:
        """Whether the schedule looks at the frames, which takes time."""
        return self.schedule.startswith("adaptive")

    @property
    def parameters(self) -> dict[str, object]:
        """The node's parameters that make it; what is not named has its default."""
        values: dict[str, object] = {"model": self.network.model, "schedule": self.schedule, "key_frames": self.key_frames}
        if self.network.input_pixels:
            values["input_pixels"] = self.network.input_pixels
        if self.price is not None:
            values["adaptive_price"] = self.price
        return values

    def settings(self, base: EngineSettings) -> EngineSettings:
        """``base`` with the candidate's parameters."""
        return self.network.settings(base).with_values(self.parameters)


def candidates_for(network: Network, interval_ms: float) -> list[Candidate]:
    """Everything that is tried on one network, for a camera whose frames are so many milliseconds apart."""
    schedules: list[tuple[str, float | None]] = [(timed(frames, interval_ms), None) for frames in INTERVALS]
    schedules += [("adaptive", price) for price in PRICES]
    schedules += [(f"adaptive:rate={rate:g}", None) for rate in RATES]
    tried = [Candidate(network, schedule, mode, price) for mode in ("blocking", "aside") for schedule, price in schedules]
    return [Candidate(network, "per-frame"), *tried]


def timed(frames: int, interval_ms: float) -> str:
    """The live form of ``fixed:N``: half a frame less than N of them take, so that a late stamp does not put the key frame off by one."""
    return f"fixed:{max(1, round((frames - 0.5) * interval_ms))}ms"


def networks_for(bundles: Sequence[tuple[str, int]], sizes: Sequence[float]) -> list[Network]:
    """Bundles, each with its own input size in pixels, at all sizes; the first at full size, which is the reference, first of all."""
    ordered = sorted(set(sizes) | {1.0}, reverse=True)
    return [Network(model, size, 0 if size == 1.0 else round(pixels * size)) for model, pixels in bundles for size in ordered]
