"""Schedules against the clock: by hand, and against the engine itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_gap import made_up

from dff_ros.engine.key_worker import DelayedKeyWorker
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, join_tables, measure_table, play
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import StampedFrame
from dff_ros.tuning.simulation import MeasuredSteps, Played, Simulation

INTERVAL_MS = 66.0
AT_ONCE = MeasuredSteps(key=(0.0,), propagated=(0.0,))


def simulated(table: AgreementTable, times: MeasuredSteps, schedule: str, **changes: object) -> Played:
    settings = EngineSettings(max_key_age=0.0, max_gap=0.0).with_values({"schedule": schedule, **changes})
    return Simulation(table, times, parse_schedule(schedule, settings), settings).play()


def test_a_key_frame_that_blocks_makes_the_next_frames_late() -> None:
    played = simulated(made_up(8, 0), MeasuredSteps(key=(100.0,), propagated=(20.0,)), "fixed:3")
    # Frame 0 is the key before the clock. Frame 3 arrives at 198 and is done at 298; frame 4 came at 264 and waits 34 ms.
    assert played.frames.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert played.distances.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert played.made_key.tolist() == [False, False, True, False, False, True, False]
    assert played.latency_ms == pytest.approx([20, 20, 100, 54, 20, 100, 54])
    assert played.dropped == 0


def test_the_newest_frame_is_taken_and_those_before_it_are_dropped() -> None:
    played = simulated(made_up(8, 0), MeasuredSteps(key=(150.0,), propagated=(20.0,)), "fixed:2")
    # Frame 2, a key, keeps the engine from 132 to 282: frame 3 (198) is dropped for frame 4 (264), which is processed at age 1.
    assert played.frames.tolist() == [1, 2, 4, 5, 7]
    assert played.distances.tolist() == [1, 0, 2, 0, 2]
    assert played.latency_ms == pytest.approx([20, 150, 38, 150, 38])
    assert played.dropped == 2


def test_a_key_frame_aside_takes_over_when_it_is_ready() -> None:
    times = MeasuredSteps(key=(100.0,), propagated=(20.0,), beside=(30.0,), aside=(100.0,))
    played = simulated(made_up(9, 0), times, "fixed:3", key_frames="aside")
    # Ordered at frame 3 (198 ms), computed for 36 ms after each step: frames 4 (264) and 5 (330) find it not yet done, frame 6 (396)
    # has the new one, at age 3, which is when the next is due.
    assert played.distances.tolist() == [1, 2, 3, 4, 5, 3, 4, 5]
    assert played.made_key.tolist() == [False, False, True, False, False, True, False, False]
    assert played.latency_ms == pytest.approx([20, 20, 30, 30, 30, 30, 30, 30])


def test_times_are_drawn_in_order_and_again() -> None:
    played = simulated(made_up(6, 0), MeasuredSteps(key=(100.0,), propagated=(1.0, 2.0)), "fixed:9")
    assert played.latency_ms == pytest.approx([1, 2, 1, 2, 1])


def test_each_recording_begins_with_a_key_frame_that_is_not_counted() -> None:
    two = join_tables([made_up(4, 0), made_up(3, 1)])
    played = simulated(two, AT_ONCE, "fixed:3")
    assert played.frames.tolist() == [1, 2, 3, 5, 6] and played.distances.tolist() == [1, 2, 0, 1, 2]


def test_an_age_limit_and_a_gap_make_key_frames() -> None:
    table = made_up(8, 0)
    assert simulated(table, AT_ONCE, "fixed:9", max_key_age=0.14).distances.tolist() == [1, 2, 0, 1, 2, 0, 1]
    table.stamps[4:] += 2_000_000_000
    assert simulated(table, AT_ONCE, "fixed:9", max_gap=1.0).distances.tolist() == [1, 2, 3, 0, 1, 2, 3]


def test_steps_that_take_longer_than_a_gap_are_none() -> None:
    times = MeasuredSteps(key=(1500.0,), propagated=(700.0,))
    assert simulated(made_up(30, 0), times, "fixed:2", max_gap=0.5).made_key.tolist() == [False, True, False]


def test_beyond_the_table_its_oldest_age_stands_in() -> None:
    played = simulated(made_up(30, 0), AT_ONCE, "fixed:20")
    assert played.distances.max() == 19


@pytest.mark.parametrize("schedule", ["fixed:3", "fixed:150ms", "adaptive", "adaptive:rate=0.2"])
def test_without_a_clock_it_is_the_lock_step_of_the_table(schedule: str) -> None:
    table = made_up(120, 5)
    settings = EngineSettings(max_key_age=0.0, max_gap=0.0, adaptive_price=0.05, adaptive_max_age=8)
    keys = play(table, parse_schedule(schedule, settings))
    played = simulated(table, AT_ONCE, schedule, adaptive_price=0.05, adaptive_max_age=8)
    assert played.frames[played.made_key].tolist() == keys[1:]
    assert len(keys) > 5


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def drive() -> list[StampedFrame]:
    return list(GeneratedDrive(4, 20, width=160, height=120, rate=10.0))


@pytest.mark.parametrize("schedule", ["fixed:3", "fixed:5", "adaptive", "adaptive:rate=0.3"])
@pytest.mark.parametrize("mode", ["blocking", "aside"])
def test_the_engine_makes_the_same_key_frames(model: LoadedModel, drive: list[StampedFrame], schedule: str, mode: str) -> None:
    settings = EngineSettings(schedule=schedule, max_key_age=0.0, adaptive_price=0.05, key_frames=mode)
    table = measure_table(drive, model, settings)
    # A key aside that takes two and a half times what a step leaves of a frame's time is there for the third frame after its own.
    times = MeasuredSteps(key=(20.0,), propagated=(20.0,), aside=(200.0,))
    stream = FeatureFlowStream(model, settings, key_worker=DelayedKeyWorker(model, 3))
    results = [stream.step(item.frame, item.stamp) for item in drive]
    played = Simulation(table, times, parse_schedule(schedule, settings, estimator=model.card.estimator), settings).play()
    assert played.distances.tolist() == [result.key_age_frames for result in results[1:]]
    assert played.made_key.tolist() == [result.made_key for result in results[1:]]
    assert np.count_nonzero(played.made_key) > 1
