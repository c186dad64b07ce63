"""Schedules on a table of agreement: what is read off it, and what share of the gap they close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_schedule import AS_IT_IS

from dff_ros.core.signals import SIGNALS
from dff_ros.engine.adaptive import AdaptiveSchedule
from dff_ros.engine.frame_pair import Schedule
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import FixedSchedule, RandomSchedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, join_tables, load_table, losses_of, measure_table, miou_of, play
from dff_ros.evaluation.schedule_study.gap import fixed_at, fixed_keys, gap_at, mean_interval, oracle_at, worst_part
from dff_ros.evaluation.schedule_study.oracle import loss_of
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import StampedFrame

OLDEST = 10


def made_up(frames: int, seed: int, *, speeds: tuple[float, ...] = (0.002, 0.02)) -> AgreementTable:
    """A video that is now calm, now lively: what differs is what has happened since the key, and the residual says so."""
    random = np.random.default_rng(seed)
    speed = np.array([speeds[(frame // 20) % len(speeds)] for frame in range(frames)]) * random.uniform(0.5, 1.5, frames)
    past = np.concatenate([[0.0], np.cumsum(speed)])
    losses = np.full((frames, OLDEST + 1), np.nan, np.float32)
    for age in range(min(OLDEST + 1, frames)):
        losses[age:, age] = past[age:frames] - past[: frames - age]
    signals = np.zeros((frames, OLDEST + 1, len(SIGNALS)), np.float32)
    signals[:, :, 0], signals[:, :, 1] = np.arange(OLDEST + 1), losses
    stamps = 1_000_000_000 + 66_000_000 * np.arange(frames)
    return AgreementTable(losses, signals, losses.copy(), stamps, np.zeros(1, np.int64))


def adaptive(price: float) -> Schedule:
    return AdaptiveSchedule(AS_IT_IS, reason="residual", price=price, min_age=1, max_age=OLDEST + 1)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def drive() -> list[StampedFrame]:
    return list(GeneratedDrive(4, 14, width=160, height=120, rate=10.0))


def test_the_table_is_what_the_engine_answers(model: LoadedModel, drive: list[StampedFrame]) -> None:
    settings = EngineSettings(model="", schedule="fixed:4", max_key_age=0.0)
    table = measure_table(drive, model, settings, oldest=5)
    stream, per_frame = FeatureFlowStream(model, settings), FeatureFlowStream(model, settings.with_values({"schedule": "per-frame"}))
    for index, item in enumerate(drive):
        answer, own = stream.step(item.frame, item.stamp), per_frame.step(item.frame, item.stamp)
        assert answer.label_map is not None and own.label_map is not None
        differs = float((answer.label_map.labels != own.label_map.labels).mean())
        assert table.losses[index, answer.key_age_frames] == pytest.approx(differs, abs=1e-6)
    assert np.isnan(table.losses[2, 3:]).all() and table.losses.shape == (14, 6)


@pytest.mark.parametrize("schedule", ["fixed:3", "adaptive", "adaptive:rate=0.3", "random:0.3"])
def test_a_schedule_makes_the_same_keys_on_the_table_as_on_the_video(
    model: LoadedModel, drive: list[StampedFrame], schedule: str
) -> None:
    settings = EngineSettings(schedule=schedule, max_key_age=0.0, adaptive_price=0.05)
    stream = FeatureFlowStream(model, settings)
    keys = [index for index, item in enumerate(drive) if stream.step(item.frame, item.stamp).is_key]
    table = measure_table(drive, model, settings, oldest=13)
    assert play(table, FeatureFlowStream(model, settings)._schedule) == keys
    assert len(keys) > 1


def test_a_table_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    table = made_up(30, 0)
    table.save(tmp_path / "a" / "table.npz")
    again = load_table(tmp_path / "a" / "table.npz")
    np.testing.assert_array_equal(again.losses, table.losses)
    assert again.confusions is None and again.firsts.tolist() == [0]


def test_losses_are_read_at_the_age_of_each_frame() -> None:
    table = made_up(12, 1)
    keys = [0, 3, 4, 9]
    assert losses_of(table, keys).mean() == pytest.approx(loss_of(table.losses, keys))
    assert losses_of(table, keys)[8] == table.losses[8, 4]


def test_every_recording_begins_with_a_key_frame() -> None:
    joined = join_tables([made_up(15, 0), made_up(12, 1)])
    assert joined.firsts.tolist() == [0, 15]
    assert play(joined, FixedSchedule(7)) == [0, 7, 14, 15, 22]
    assert fixed_keys(joined, 0.2, 0.0) == [0, 5, 10, 15, 20, 25]
    np.testing.assert_array_equal(joined.part(1).losses, made_up(12, 1).losses)


def test_keys_come_where_the_table_ends() -> None:
    assert play(made_up(40, 0), adaptive(1e6)) == [0, 11, 22, 33]
    assert fixed_keys(made_up(30, 0), 0.01, 0.0) == [0, 11, 22]


@pytest.mark.parametrize("rate", [0.12, 0.2, 0.35])
def test_fixed_holds_its_rate(rate: float) -> None:
    reached, losses = fixed_at(made_up(400, 0), rate)
    assert reached == pytest.approx(rate, rel=0.02)
    assert losses.shape == (400,)


def test_a_good_signal_closes_much_of_the_gap_and_chance_none() -> None:
    table = join_tables([made_up(200, 0), made_up(200, 1)])
    gaps = [gap_at(table, adaptive, rate) for rate in (0.15, 0.2, 0.3)]
    assert all(gap.tried.rate == pytest.approx(rate, rel=0.02) for gap, rate in zip(gaps, (0.15, 0.2, 0.3), strict=True))
    assert all(0.6 < gap.closed <= 1.0 for gap in gaps)
    low, high = mean_interval(gaps, table.firsts.tolist())
    assert low < np.mean([gap.closed for gap in gaps]) < high
    chance = gap_at(table, lambda price: RandomSchedule(min(0.01 / price, 1.0)), 0.2)
    assert chance.closed < 0


def test_the_oracle_is_never_worse() -> None:
    table = made_up(120, 3)
    gap = gap_at(table, adaptive, 0.2)
    assert gap.oracle.mean() <= gap.tried.loss
    assert oracle_at(table, len(gap.tried.keys)).mean() == gap.oracle.mean()


def test_the_worst_recording_is_found() -> None:
    calm, lively = made_up(100, 0, speeds=(0.01,)), made_up(100, 1, speeds=(0.002, 0.02))
    joined = join_tables([calm, lively])
    wasted = [0, 1, 2, 3, *range(13, 100, 11), *fixed_keys(lively, 0.2, 0.0)]
    keys = wasted[: wasted.index(0, 1)] + [100 + key for key in wasted[wasted.index(0, 1) :]]
    number, gain = worst_part(joined, keys)
    assert number == 0 and gain < 0


def test_mean_iou_follows_the_keys() -> None:
    table = made_up(4, 0)
    confusions = np.zeros((4, OLDEST + 1, 2, 2), np.int64)
    confusions[:, 0] = [[5, 0], [0, 5]]
    confusions[:, 1:] = [[3, 2], [0, 5]]
    labelled = AgreementTable(table.losses, table.signals, table.surprises, table.stamps, table.firsts, confusions)
    assert miou_of(labelled, [0, 1, 2, 3]) == 1.0
    assert miou_of(labelled, [0, 2]) == pytest.approx((16 / 20 + 20 / 24) / 2)
    assert miou_of(table, [0]) is None
