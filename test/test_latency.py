"""The figures of ``benchmarks/latency.py``: what counts as sustainable, and which result is known when a frame arrives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from latency import WARM_UP, Bench, Result, StreamingAccuracy, newest_finished

from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.recording.frames import StampedFrame


def result(index: int, finished: float) -> Result:
    """A result of a run at 10 Hz whose frame 0 arrived at 100 s."""
    return Result(index, 100 + index / 10, finished, False, np.full((1, 1), index, np.uint8))


def test_a_frame_is_scored_against_what_was_finished_when_it_came() -> None:
    results = [result(1, 100.19), result(2, 100.45), result(4, 100.5)]  # 0 and 3 were dropped
    found = [(index, newest.index) for index, newest in newest_finished(results, 10, 7)]
    assert found == [(2, 1), (3, 1), (4, 1), (5, 4), (6, 4)]
    assert results[1].latency_ms == pytest.approx(250)


def items(count: int) -> list[StampedFrame]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, 120, 160, 3), np.uint8)
    return [StampedFrame(index, 0, frames[index], "", "") for index in range(count)]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))


def bench(model: LoadedModel, count: int) -> Bench:
    ways = {
        name: EngineSettings(schedule=schedule, key_frames=mode, max_gap=0.0, max_key_age=0.0)
        for name, schedule, mode in (("aside", "fixed:3", "aside"), ("per-frame", "per-frame", "blocking"))
    }
    return Bench(model, ways, items(4), count)


def test_a_short_recording_is_played_back_and_forth(model: LoadedModel) -> None:
    shown = [bench(model, 5).item(index - WARM_UP).index for index in range(9)]
    assert shown == [0, 1, 2, 3, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("limit", [0, 1, 2, 37, 90])
def test_the_sustainable_rate_is_the_highest_that_drops_nothing(
    model: LoadedModel, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "_keeps_up", lambda self, name, rate: rate <= limit)
    assert bench(model, 5).sustainable("per-frame") == limit


def test_a_run_is_scored_against_per_frame(model: LoadedModel) -> None:
    tested = bench(model, 8)
    accuracy = StreamingAccuracy(tested, None, model.card.segmentation_classes)
    row = tested.row("aside", 5.0, accuracy)
    assert row.key_rate > 0 and 0 <= row.dropped < tested.count
    assert 0 < row.p50 <= row.p95 <= row.p99 <= row.max
    assert row.accuracy is not None and 0 < row.accuracy <= 1
    assert f"of {tested.count}" in row.line(tested.count)
