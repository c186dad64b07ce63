"""What steps take on this machine: short runs of the engine itself, one for each kind of schedule and of key frame."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.recording.frames import StampedFrame
from dff_ros.tuning.candidates import Candidate
from dff_ros.tuning.simulation import MeasuredSteps

STEPS = 36
"""Steps of each run."""

KEY_INTERVAL = 4
"""Frames between key frames in these runs: enough of both kinds."""

WARM_UP = 6

PAUSE_MS = 30.0
"""Most that is waited after a step, where the camera is slower: after a pause steps take longer, as caches and threads have gone cold.
Where key frames are made aside, so long is always waited: they are computed in it."""

Way = tuple[bool, bool]
"""Whether the schedule is an adaptive one, and whether key frames are made aside."""

Times = Mapping[Way, MeasuredSteps]


def times_of(candidate: Candidate, times: Times) -> MeasuredSteps:
    """Those of the candidate's way of running."""
    return times[candidate.adaptive, candidate.key_frames == "aside"]


def measure_times(model: LoadedModel, settings: EngineSettings, frames: Sequence[StampedFrame], *, interval_ms: float) -> Times:
    """Time all ways of running one network on ``frames``, played forwards and backwards with a pause that such a frame interval leaves."""
    times: dict[Way, MeasuredSteps] = {}
    for adaptive, aside in itertools.product((False, True), repeat=2):
        # An adaptive schedule that looks at every frame, whose age limit decides: the same keys as the fixed one's.
        changes: dict[str, object] = {"schedule": "adaptive" if adaptive else f"fixed:{KEY_INTERVAL}", "max_key_age": 0.0}
        changes |= {"adaptive_price": 100.0, "adaptive_max_age": KEY_INTERVAL, "key_frames": "aside" if aside else "blocking"}
        # By turns alone: the pause here is not the camera's, and it is for the simulation to say when threads are shared.
        changes |= {"key_share": 0.0}
        stream = FeatureFlowStream(model, settings.with_values(changes))
        try:
            pause = math.inf if aside else interval_ms
            results = [timed_step(stream, item, pause) for item in back_and_forth(frames, WARM_UP + STEPS)]
        finally:
            stream.close()
        measured = sort_times(results, times.get((adaptive, False)), skipped=WARM_UP)
        times[adaptive, aside] = replace(measured, takes_turns=model.device.type == "cpu")
    return times


def timed_step(stream: FeatureFlowStream, item: StampedFrame, interval_ms: float) -> FrameResult:
    """One step and the pause after it."""
    result = stream.step(item.frame, 0)
    time.sleep(max(0.0, min(PAUSE_MS, interval_ms - result.step_ms)) / 1e3)
    return result


def back_and_forth(frames: Sequence[StampedFrame], count: int) -> Iterator[StampedFrame]:
    """So many frames without a jump."""
    return itertools.islice(itertools.cycle([*frames, *reversed(frames[1:-1])]), count)


def sort_times(results: Sequence[FrameResult], blocking: MeasuredSteps | None, *, skipped: int = 0) -> MeasuredSteps:
    """The times of a run by kind, but for those of its first ``skipped`` steps.

    What does not occur in it (key frames that block, where they are made aside) is ``blocking``'s.
    """
    key: list[float] = []
    propagated: list[float] = []
    beside: list[float] = []
    aside: list[float] = []
    in_flight = False
    before: FrameResult | None = None
    for index, result in enumerate(results):
        took_over = in_flight and before is not None and result.key_age_frames <= before.key_age_frames
        if took_over and index >= skipped:
            aside.append(result.key_ms)
        in_flight = (in_flight and not took_over and not result.is_key) or (result.made_key and not result.is_key)
        if index >= skipped:
            (key if result.is_key else beside if in_flight else propagated).append(result.waited_ms + result.step_ms)
        before = result
    if blocking is not None:
        key, propagated = key or [*blocking.key], propagated or [*blocking.propagated]
    return MeasuredSteps(tuple(key), tuple(propagated), tuple(beside), tuple(aside))
