"""How a budget is held: a step of the set-point, a change of scene, and another program on the same cores; docs/schedules.md.

    python benchmarks/budget.py --data $DATA [--model street]

And what deciding costs. Everything runs through the engine, frame by frame as fast as it goes; stamps are those of 15 Hz. For the
contention as many processes as there are cores compute beside it from the middle on, so run it on a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_report import merge_into, table

from dff_ros.engine.frame_pair import KEEP, Decision, FramePair, Renewal, Schedule
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.recording.frames import Frame, select
from dff_ros.recording.opening import open_recording

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- budget: begin (benchmarks/budget.py writes what follows) -->", "<!-- budget: end -->")

WINDOW = 20
"""Key frames over which a rate is counted."""

EVERY = 10
"""Key frame interval at which the cost of deciding is told."""

INTERVAL_NS = 66_666_667
"""All recordings are played at 15 Hz: one that jumps between rates would be a study of something else."""


@dataclass(frozen=True)
class Played:
    """What happened frame by frame."""

    keys: list[bool]
    step_ms: list[float]

    def rate(self, first: int, after: int | None = None) -> float:
        """Key frames a frame."""
        return float(np.mean(self.keys[first:after]))

    def busy(self, first: int, after: int | None = None) -> float:
        """Milliseconds of computing in a second of the recording."""
        return float(np.mean(self.step_ms[first:after])) * 1e9 / INTERVAL_NS

    def settled(self, middle: int, wanted: float) -> int | None:
        """Key frames after ``middle`` until every later stretch of WINDOW keys is within 10 % of ``wanted``; None where it never is."""
        at = [index for index, key in enumerate(self.keys) if key and index >= middle]
        rates = [WINDOW / (at[number + WINDOW] - at[number]) for number in range(len(at) - WINDOW)]
        off = [number for number, rate in enumerate(rates) if abs(rate / wanted - 1) > 0.1]
        settled = off[-1] + 1 if off else 0
        return settled if settled < len(rates) else None


def back_and_forth(frames: Sequence[Frame], count: int) -> Iterator[Frame]:
    """``count`` frames of a recording, played forwards and backwards in turn, so that nothing jumps."""
    return itertools.islice(itertools.cycle([*frames, *reversed(frames[1:-1])]), count)


def play(
    model: LoadedModel, settings: EngineSettings, frames: Iterator[Frame], *, at: int, then: Callable[[FeatureFlowStream], None]
) -> Played:
    """Step through the frames; ``then`` is called before frame ``at``."""
    stream, played = FeatureFlowStream(model, settings), Played([], [])
    for index, frame in enumerate(frames):
        if index == at:
            then(stream)
        result = stream.step(frame, 1_000_000_000 + index * INTERVAL_NS)
        played.keys.append(result.is_key)
        played.step_ms.append(result.step_ms)
    return played


def leave(stream: FeatureFlowStream) -> None:
    """Change nothing."""


def burn(parent: int) -> None:
    """Compute until killed, or until ``parent`` has ended without doing so."""
    numbers = np.ones((256, 256))
    while os.getppid() == parent:
        numbers = numbers @ numbers / 256.0


def contention(model: LoadedModel, settings: EngineSettings, frames: Sequence[Frame], count: int) -> Played:
    """The second half beside as many other processes as there are cores."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=burn, args=(os.getpid(),), daemon=True) for _ in range(os.cpu_count() or 1)]

    def start(stream: FeatureFlowStream) -> None:
        for other in others:
            other.start()

    try:
        return play(model, settings, back_and_forth(frames, count), at=count // 2, then=start)
    finally:
        for other in others:
            if other.pid is not None:
                other.kill()
                other.join()


class Watched:
    """A schedule that makes every ``EVERY``-th frame a key frame and otherwise does what the adaptive one does, by the clock."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.decided: list[tuple[int, float]] = []
        """Age of the key, and milliseconds beside the flow, of every decision."""

    def is_key_frame(self, pair: FramePair) -> Decision:
        _ = pair.fields
        started = time.perf_counter()
        decision = self._schedule.is_key_frame(pair)
        self.decided.append((pair.age, 1e3 * (time.perf_counter() - started)))
        return Decision(True, "interval", decision.disagreement) if pair.age >= EVERY else KEEP

    def reset(self) -> None:
        self._schedule.reset()


@dataclass(frozen=True)
class Deciding:
    """Milliseconds, medians."""

    propagated: float
    """A propagated step without any decision."""
    decide: float
    """Deciding, beside the flow."""
    fresh: float
    """The same on the first frame after a key frame, which measures that one's doubt."""
    look_back: float
    """Looking back at a new key frame."""

    @property
    def share(self) -> float:
        """Of a propagated step, everything that deciding adds with every EVERY-th frame a key frame."""
        return (self.decide + (self.fresh - self.decide + self.look_back) / EVERY) / self.propagated


def deciding(model: LoadedModel, base: EngineSettings, frames: Sequence[Frame]) -> Deciding:
    """What an adaptive schedule costs on top of a fixed one."""
    fixed = FeatureFlowStream(model, base.with_values({"schedule": f"fixed:{EVERY}"}))
    steps = [fixed.step(frame, 0) for frame in frames]
    stream = FeatureFlowStream(model, base.with_values({"schedule": "adaptive", "adaptive_price": 100.0, "adaptive_max_age": 1000}))
    watched = Watched(stream._schedule)
    stream._schedule = watched
    renewed, looked_back = stream._renewed, []

    def timed(*arguments: Any) -> Renewal | None:
        started = time.perf_counter()
        answer = renewed(*arguments)
        looked_back.append(1e3 * (time.perf_counter() - started))
        return answer

    stream._renewed = timed  # type: ignore[method-assign]
    for frame in frames:
        stream.step(frame, 0)
    warm = len(frames) // 10
    later, fresh = ([spent for age, spent in watched.decided[warm:] if (age == 1) == first] for first in (False, True))
    propagated = [step.step_ms for step in steps[warm:] if not step.is_key]
    return Deciding(*(float(np.median(each)) for each in (propagated, later, fresh, looked_back)))


def per_cent(rate: float) -> str:
    return f"{rate:.1%}"


def told(keys: int | None) -> str:
    return "not within the run" if keys is None else f"after {keys} keys"


def report(model: LoadedModel, base: EngineSettings, calm: Sequence[Frame], lively: Sequence[Frame], count: int) -> list[str]:
    """Play all three and write the table."""
    middle, early = count // 2, count // 4
    rate = base.with_values({"schedule": "adaptive:rate=0.1"})
    doubled = rate.with_values({"schedule": "adaptive:rate=0.2"})
    step = play(model, rate, back_and_forth(calm, count), at=middle, then=lambda stream: stream.apply(doubled))
    halves = itertools.chain(back_and_forth(calm, middle), back_and_forth(lively, count - middle))
    scene = play(model, rate, halves, at=0, then=leave)
    unburdened = play(model, base.with_values({"schedule": "fixed:10"}), back_and_forth(calm, early), at=0, then=leave)
    allowed = min(round(1.15 * unburdened.busy(0)), 1000)
    busy = base.with_values({"schedule": f"adaptive:ms_per_s={allowed}"})
    burdened = contention(model, busy, calm, count)
    lines = [
        [title, per_cent(played.rate(early, middle)), per_cent(played.rate(middle + early)), told(played.settled(middle, wanted))]
        for title, played, wanted in (("set-point 10 %, then 20 %", step, 0.2), ("10 %, cars, then another camera's people", scene, 0.1))
    ]
    cost = deciding(model, base, list(back_and_forth(calm, 300)))
    slowed = np.mean(burdened.step_ms[middle + early :]) / np.mean(burdened.step_ms[early:middle])
    return [
        *table(["key rate", "before", "after", f"within 10 % over any {WINDOW} keys"], lines),
        "",
        *table(
            [f"{allowed} ms a second", "alone", "beside other programs"],
            [
                ["milliseconds a second", f"{burdened.busy(early, middle):.0f}", f"{burdened.busy(middle + early):.0f}"],
                ["key rate", per_cent(burdened.rate(early, middle)), per_cent(burdened.rate(middle + early))],
                ["mean step", f"{np.mean(burdened.step_ms[early:middle]):.1f} ms", f"{slowed:.2f} times as long"],
            ],
        ),
        "",
        (f"Deciding takes {cost.decide:.2f} ms beside the flow ({cost.fresh:.2f} on the first frame after a key), looking back at a key "
        f"frame {cost.look_back:.2f} ms; together, with every {EVERY}th frame a key frame, {cost.share:.1%} of a propagated frame "
        f"({cost.propagated:.1f} ms)."),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print and write the tables; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data, laid out as docs/data.md says")
    parser.add_argument("--model", default="street", help="bundle (%(default)s)")
    parser.add_argument("--frames", type=int, default=1600, help="frames of each run (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where schedules.md is")
    options = parser.parse_args(arguments)
    try:
        settings = EngineSettings(model=options.model, max_key_age=0.0, max_gap=0.0)
        calm = select(open_recording(frames=options.data / "highway/images"), 630, 779)
        lively = select(open_recording(video=options.data / "pets09/video.mp4"), 470, 579)
        decoded = [[item.frame for item in recording] for recording in (calm, lively)]
        text = "\n".join(report(load_model(settings), settings, *decoded, options.frames))
        print(text)
        merge_into(options.docs / "schedules.md", text, MARKS)
    except (ValueError, OSError) as error:
        print(f"budget: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
