"""How ``dff_replay`` runs what it was told: in lock-step, at every offset, or in real time."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

from dff_ros.engine.adaptive import AdaptiveSchedule
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.schedule import FixedSchedule, Schedule, parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.every_offset import every_offset
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.latencies import Latencies
from dff_ros.evaluation.observer import Observer
from dff_ros.evaluation.options import PROPAGATION
from dff_ros.evaluation.real_time import real_time
from dff_ros.evaluation.recorded_keys import RecordedKeys
from dff_ros.evaluation.run import KEY_DELAY, Replay, lock_step
from dff_ros.recording.frames import StampedFrame


def check_mode(options: argparse.Namespace, settings: EngineSettings) -> None:
    """Raises ValueError where the settings, which may come from a file, do not go with the mode."""
    schedule = parse_schedule(settings.schedule, settings)
    if options.every_offset:
        offset_interval(schedule, settings.schedule)
        return
    aside = settings.key_frames == "aside" or options.keys_from is not None
    if PROPAGATION in options.without and aside:
        raise ValueError("--without propagation needs key_frames: blocking: a frame whose key is made aside has no answer of the key's own")


def offset_interval(schedule: Schedule, name: str) -> int:
    """l of ``fixed:l``; raises ValueError for another schedule, which has no ages to go through."""
    if not isinstance(schedule, FixedSchedule):
        raise ValueError(f"--every-offset needs --schedule fixed:N, got {name!r}")
    return schedule.key_frame_interval


def run_mode(
    options: argparse.Namespace,
    frames: Iterable[StampedFrame],
    model: LoadedModel,
    settings: EngineSettings,
    truth: Truth,
    *,
    latencies: Latencies | None,
    recorded: RecordedKeys | None,
    observers: Sequence[Observer],
) -> Replay:
    """Replay in the mode that the options name."""
    copy = PROPAGATION in options.without
    if options.every_offset:
        interval = offset_interval(parse_schedule(settings.schedule, settings), settings.schedule)
        return every_offset(frames, model, settings, truth, interval=interval, copy_outputs=copy)
    if options.real_time:
        return real_time(frames, model, settings, truth, baseline=options.baseline, latencies=latencies, observers=observers)
    return lock_step(
        frames,
        model,
        settings,
        truth,
        baseline=options.baseline,
        copy_outputs=copy,
        key_delay=options.key_delay or KEY_DELAY,
        recorded=recorded,
        latencies=latencies,
        observers=observers,
    )


def is_repeatable(options: argparse.Namespace, settings: EngineSettings) -> bool:
    """Whether another run gives the same answers: the clock decides nothing, or is another run's."""
    schedule = parse_schedule(settings.schedule, settings)
    by_the_clock = isinstance(schedule, AdaptiveSchedule) and schedule.goes_by_the_clock and options.keys_from is None
    return options.latencies is not None or not (options.real_time or (by_the_clock and not options.every_offset))


def clock_notes(options: argparse.Namespace, settings: EngineSettings) -> list[str]:
    """What to say of a lock-step run whose schedule holds a budget of milliseconds.

    It is not refused: with the times of this machine it is what somebody without a trace may want to see, and the report says that it
    cannot be repeated.
    """
    if options.real_time or is_repeatable(options, settings):
        return []
    return [f"{settings.schedule} goes by this machine's clock, so no two runs are the same: --latencies replays the times of another run"]


def evaluation_settings(options: argparse.Namespace, replay: Replay, keys: str | None) -> Mapping[str, object]:
    """What was asked of the replay besides the engine's settings, for its fingerprint; ``keys`` is the hash of recorded key decisions."""
    return {
        "mode": "every-offset" if options.every_offset else "real-time" if options.real_time else "lock-step",
        "baseline": options.baseline,
        "key_delay": replay.key_delay,
        "without": sorted(options.without),
        "ignore": sorted(options.ignore),
        "keys_from": keys,
    }
