"""Tuning from beginning to end: time the networks, measure them on the frames that the time allows, try every candidate, run the best."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.measures.every_age import OLDEST
from dff_ros.recording.frames import Recording, StampedFrame
from dff_ros.tuning.candidates import Candidate, candidates_for, networks_for
from dff_ros.tuning.figures import Figures, figures
from dff_ros.tuning.losses import Answers, losses
from dff_ros.tuning.measuring import Measuring, measure
from dff_ros.tuning.recommendation import Goal, Tried, best, front
from dff_ros.tuning.sampling import LEAST, Segment, frames_of, shortened, spread, taken
from dff_ros.tuning.simulation import Played, Simulation
from dff_ros.tuning.timing import Times, measure_times, times_of
from dff_ros.tuning.verification import verify

T = TypeVar("T")

TIMED_FRAMES = 24
MEASURING_SHARE, VERIFYING_SHARE = 0.6, 0.25
"""Of the time that the user gives."""


MOST_VERIFIED = 6


@dataclass(frozen=True)
class Wish:
    """What the user wants; ``base`` holds the settings that are not tuned."""

    bundles: tuple[str, ...]
    sizes: tuple[float, ...]
    targets: tuple[tuple[str, float], ...] = ()
    minutes: float = 10.0
    verified: int = MOST_VERIFIED
    """Candidates run for real at most, the best first, until the best is one of them."""
    base: EngineSettings = field(default_factory=EngineSettings)


@dataclass(frozen=True)
class Tuned:
    """The outcome."""

    recording: str
    total: int
    segments: tuple[Segment, ...]
    looked_at: int
    goal: Goal
    tried: tuple[Tried, ...]
    recommended: Tried
    step_times: dict[str, Times]
    """By the network's name."""
    interrupted: bool

    @property
    def front(self) -> list[Tried]:
        """The candidates that no other beats."""
        return front(self.tried)

    @property
    def reached(self) -> bool:
        """Whether the recommendation meets every target."""
        return self.goal.excess(self.recommended.figures) <= 1.0


class NothingMeasured(KeyboardInterrupt):
    """Interrupted before there was anything to recommend from."""


class Tuning:
    """One recording and the networks to run on it: :func:`tune` goes through the steps in order."""

    def __init__(self, recording: Recording, wish: Wish, open_truth: Callable[[Card], Truth]) -> None:
        self.recording, self.wish = recording, wish
        self.models = load_bundles(wish)
        self.truth = open_truth(self.models[wish.bundles[0]].card)
        self.head, self.total = list(itertools.islice(recording, TIMED_FRAMES)), frames_of(recording)
        self.goal = Goal(frame_interval(self.head), wish.targets)
        self.networks = networks_for([(name, model.card.input_pixels) for name, model in self.models.items()], wish.sizes)
        self.segments: list[Segment] = []
        self.step_times: dict[str, Times] = {}

    def time_steps(self) -> None:
        """What steps take, and from that which frames are looked at."""
        started = time.monotonic()
        for network in shown(self.networks, "step times", "network"):
            model, settings = self.models[network.model], network.settings(self.wish.base)
            self.step_times[network.name] = measure_times(model, settings, self.head, interval_ms=self.goal.interval_ms)
        left = self.wish.minutes * 60.0 * MEASURING_SHARE - (time.monotonic() - started)
        self.segments = spread(self.total, affordable(self.step_times.values(), left))

    @property
    def looked_at(self) -> int:
        """Frames of the segments."""
        return sum(after - first for first, after in self.segments)

    def measure(self) -> tuple[list[Measuring], bool]:
        """Every network at every age, and whether the user ended it before the end, but after enough to go by."""
        labelled = self.truth.labels is not None
        networks = [Measuring(network, self.models[network.model], self.wish.base, labelled=labelled) for network in self.networks]
        frames = shown(taken(self.recording, self.segments), "every frame at every age", "frame", total=self.looked_at)
        try:
            measure(frames, networks, self.truth)
        except KeyboardInterrupt as error:
            if len(networks[-1]) < LEAST:
                raise NothingMeasured from error
            return networks, True
        return networks, False

    def simulate(self, measured: Sequence[Measuring]) -> list[Tried]:
        """Every candidate against the clock."""
        reference = measured[0].answers()
        tried: list[Tried] = []
        for one in shown(measured, "candidates", "network"):
            answers = reference if one is measured[0] else one.answers()
            for candidate in candidates_for(one.network, self.goal.interval_ms):
                settings = candidate.settings(self.wish.base)
                schedule = parse_schedule(settings.schedule, settings, estimator=one.model.card.estimator)
                times = times_of(candidate, self.step_times[one.network.name])
                played = Simulation(answers.table, times, schedule, settings).play()
                tried.append(Tried(candidate, simulated_figures(played, answers, reference)))
        return tried

    def verify(self, tried: Sequence[Tried], say: Callable[[str], None]) -> tuple[list[Tried], bool]:
        """The best run for real, until the best is one that was; and whether the user ended it before."""
        known = list(tried)
        seconds = self.wish.minutes * 60.0 * VERIFYING_SHARE / max(1, self.wish.verified)
        segments = shortened(self.segments, max(LEAST, int(seconds * 1e3 / self.goal.interval_ms)))
        for _ in range(self.wish.verified):
            chosen = best(known, self.goal)
            if chosen.verified is not None:
                break
            say(f"running {chosen.candidate.name} by the clock")
            frames = shown(taken(self.recording, segments), "real run", "frame", total=sum(after - first for first, after in segments))
            try:
                real = self.run(chosen.candidate, frames)
            except KeyboardInterrupt:
                return known, True
            known = [replace(one, verified=real) if one is chosen else one for one in known]
        return known, False

    def run(self, candidate: Candidate, frames: Iterable[tuple[bool, StampedFrame]]) -> Figures:
        """A candidate by the clock, on any frames."""
        reference = self.networks[0]
        beside = self.models[reference.model], reference.settings(self.wish.base)
        return verify(frames, self.models[candidate.network.model], candidate.settings(self.wish.base), self.truth, reference=beside)


def tune(recording: Recording, wish: Wish, open_truth: Callable[[Card], Truth], *, say: Callable[[str], None] = print) -> Tuned:
    """Find what to run on a recording; raises ValueError in one line.

    An interruption (KeyboardInterrupt) ends the step at hand, and what is known by then counts; NothingMeasured where that is nothing.
    """
    tuning = Tuning(recording, wish, open_truth)
    try:
        tuning.time_steps()
    except KeyboardInterrupt as error:
        raise NothingMeasured from error
    rate = f"{1e3 / tuning.goal.interval_ms:.3g} Hz"
    say(f"{recording.description}, {rate}: looking at {tuning.looked_at} of {tuning.total} frames, in {len(tuning.segments)} segments")
    measured, interrupted = tuning.measure()
    tried = tuning.simulate(measured)
    if not interrupted:
        tried, interrupted = tuning.verify(tried, say)
    return Tuned(
        recording=recording.description,
        total=tuning.total,
        segments=tuple(tuning.segments),
        looked_at=len(measured[0]),
        goal=tuning.goal,
        tried=tuple(tried),
        recommended=best([one for one in tried if one.verified is not None] or tried, tuning.goal),
        step_times=tuning.step_times,
        interrupted=interrupted,
    )


def load_bundles(wish: Wish) -> dict[str, LoadedModel]:
    """By the names that the user gave; raises ValueError where they do not answer the same classes, and cannot be compared."""
    models = {name: load_model(wish.base.with_values({"model": name})) for name in wish.bundles}
    first = models[wish.bundles[0]].card
    for name, model in models.items():
        for kind in ("segmentation_classes", "detection_classes"):
            expected, came = getattr(first, kind), getattr(model.card, kind)
            if expected != came:
                raise ValueError(f"bundles should have the same {kind.replace('_', ' ')}, got {expected} and, of {name!r}, {came}")
    return models


def frame_interval(head: Sequence[StampedFrame]) -> float:
    """Milliseconds between frames, the median; raises ValueError where there are too few, or no clock can be told."""
    if len(head) < LEAST:
        raise ValueError(f"a recording to tune on should have at least {LEAST} frames, got {len(head)}")
    interval = float(np.median(np.diff([item.stamp for item in head]))) / 1e6
    if interval <= 0:
        raise ValueError("stamps should rise from frame to frame: without them nobody can say what keeps up")
    return interval


def affordable(step_times: Iterable[Times], seconds: float) -> int:
    """Frames that all networks can be measured on in that time: each is a key frame once, and propagated to every age."""
    each_ms = 0.0
    for times in step_times:
        each_ms += float(np.mean(times[False, False].key)) + OLDEST * float(np.mean(times[True, False].propagated))
    return int(max(0.0, seconds) * 1e3 / each_ms)


def simulated_figures(played: Played, answers: Answers, reference: Answers) -> Figures:
    """What was answered when, scored."""
    scores = answers.scores(played.frames, played.distances)
    lost = losses(scores, reference.scores(played.frames, np.zeros_like(played.frames)))
    return figures(played.made_key.tolist(), played.latency_ms.tolist(), dropped=played.dropped, losses=lost, scores=scores)


def shown(items: Iterable[T], title: str, unit: str, *, total: int | None = None) -> Iterable[T]:
    """The items, with their progress and the time left."""
    bar: Iterable[T] = tqdm(items, desc=title, unit=unit, total=total)
    return bar
