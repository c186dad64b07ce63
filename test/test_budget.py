"""The budget's controller: set-points held, steps followed, bounds kept; costs are made up, no clock takes part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from test_schedule import SETTINGS, pair

from dff_ros.engine.adaptive import AdaptiveSchedule
from dff_ros.engine.budget import Budget, Measure, PIController, SetPoint
from dff_ros.engine.schedule import Schedule, parse_schedule

KEY_MS, PROPAGATED_MS = 100.0, 20.0


def play(
    schedule: Schedule,
    frames: int,
    growth: Callable[[int], float],
    *,
    slower: Callable[[int], float] = lambda index: 1.0,
    interval_ms: float = 66.0,
) -> list[bool]:
    """Which frames become keys where the loss grows by ``growth(frame)`` a frame and steps take ``slower(frame)`` times as long."""
    keys, age, loss, spent = [True], 0, 0.0, KEY_MS * slower(0)
    for index in range(1, frames):
        age, loss = age + 1, loss + growth(index)
        key = bool(schedule.is_key_frame(pair(age, loss=min(loss, 0.05 + 0.5 * loss), interval_ms=interval_ms, spent_ms=spent)))
        spent = (KEY_MS if key else PROPAGATED_MS) * slower(index)
        age, loss = (0, 0.0) if key else (age, loss)
        keys.append(key)
    return keys


def adaptive(text: str, **values: object) -> Schedule:
    return parse_schedule(text, SETTINGS.with_values({"adaptive_max_age": 1000, **values}))


def rate(keys: Sequence[bool]) -> float:
    return sum(keys) / len(keys)


def lively(index: int) -> float:
    """A scene that is now calmer, now livelier by half."""
    return 0.004 * (1 + (index // 25) % 3 / 2)


@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("speed", [0.2, 1.0, 4.0])
def test_the_key_rate_is_held_over_twenty_keys_at_any_speed(wanted: float, speed: float) -> None:
    keys = play(adaptive(f"adaptive:rate={wanted}"), 3000, lambda index: speed * lively(index))
    stretch = round(20 / wanted)
    for first in range(1000, 3000 - stretch, stretch):
        assert rate(keys[first : first + stretch]) == pytest.approx(wanted, rel=0.101)


def test_a_step_of_the_set_point_is_followed() -> None:
    schedule = adaptive("adaptive:rate=0.1")
    before = play(schedule, 1000, lively)
    after = play(parse_schedule("adaptive:rate=0.25", SETTINGS, previous=schedule), 600, lively)
    assert rate(before[400:]) == pytest.approx(0.1, rel=0.1)
    assert rate(after[120:]) == pytest.approx(0.25, rel=0.1)  # settled within 30 key frames


def test_a_change_of_scene_is_followed() -> None:
    keys = play(adaptive("adaptive:rate=0.1"), 2400, lambda index: lively(index) * (5 if index >= 1200 else 1))
    assert rate(keys[600:1200]) == pytest.approx(0.1, rel=0.1)
    assert rate(keys[1200:1400]) < 0.25  # it spends more at first, but not without end
    assert rate(keys[1500:]) == pytest.approx(0.1, rel=0.1)


def test_milliseconds_a_second_are_held() -> None:
    # 15 frames a second, 20 ms each, are 303 ms; the 97 beyond them pay 1.2 keys at 80 ms more.
    keys = play(adaptive("adaptive:ms_per_s=400"), 2000, lively)
    assert rate(keys[800:]) * 15.15 * 80 + 303 == pytest.approx(400, rel=0.05)


def test_a_machine_that_slows_down_makes_fewer_keys() -> None:
    keys = play(adaptive("adaptive:ms_per_s=500"), 3000, lively, slower=lambda index: 1.3 if index >= 1500 else 1.0)
    before, after = rate(keys[700:1500]), rate(keys[1800:])
    assert before * 15.15 * 80 + 303 == pytest.approx(500, rel=0.05)
    assert 1.3 * (after * 15.15 * 80 + 303) == pytest.approx(500, rel=0.05)
    assert after < 0.5 * before


def test_the_mean_latency_is_held() -> None:
    keys = play(adaptive("adaptive:latency_ms=30"), 2000, lively)
    assert rate(keys[800:]) * 80 + 20 == pytest.approx(30, rel=0.05)


def test_a_budget_that_cannot_be_held_stays_within_the_ages() -> None:
    poor = play(adaptive("adaptive:latency_ms=5", adaptive_max_age=30), 1200, lively)
    assert rate(poor[600:]) == pytest.approx(1 / 30, rel=0.05)
    rich = play(adaptive("adaptive:latency_ms=500", adaptive_min_age=3), 1200, lively)
    assert rate(rich[600:]) == pytest.approx(1 / 3, rel=0.05)


def test_a_long_still_scene_winds_nothing_up() -> None:
    keys = play(adaptive("adaptive:rate=0.1", adaptive_max_age=50), 6000, lambda index: 0.0 if index < 4000 else lively(index))
    assert rate(keys[4000:4100]) < 0.4  # the price had fallen, but not without bound
    assert rate(keys[4400:]) == pytest.approx(0.1, rel=0.1)


def test_one_long_step_is_not_believed() -> None:
    pauses = play(adaptive("adaptive:ms_per_s=400"), 1600, lively, slower=lambda index: 300.0 if index == 800 else 1.0)
    assert rate(pauses[1000:]) * 15.15 * 80 + 303 == pytest.approx(400, rel=0.1)


def test_without_stamps_milliseconds_a_second_are_unknown_and_the_price_stays() -> None:
    budget = Budget(SetPoint(Measure.BUSY, 300.0), price=0.5)
    budget.spent(pair(2, spent_ms=80.0), was_key=False)
    budget.spent(pair(2, interval_ms=66.0), was_key=False)
    assert budget.price == 0.5
    budget.spent(pair(2, spent_ms=80.0, interval_ms=66.0), was_key=False)
    assert budget.price > 0.5


def test_the_controllers_integral_stops_at_the_bounds() -> None:
    controller = PIController(proportional=0.5, low=-1.0, high=1.0)
    for _ in range(100):
        assert controller.update(error=1.0, gained=0.2) <= 1.0
    assert controller.integral <= 1.0
    assert controller.update(error=-1.0, gained=-0.2) < 0.5  # it turns back at once
    assert controller.update(error=0.0, gained=0.0) == pytest.approx(controller.integral)
    with pytest.raises(ValueError, match="bounds should rise"):
        PIController(proportional=0.5, low=1.0, high=1.0)


def test_another_set_point_keeps_the_price() -> None:
    first = adaptive("adaptive:rate=0.1")
    play(first, 500, lively)
    second = parse_schedule("adaptive:rate=0.2", SETTINGS, previous=first)
    assert isinstance(first, AdaptiveSchedule) and isinstance(second, AdaptiveSchedule)
    assert second.price == first.price
