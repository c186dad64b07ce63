"""Schedules: which frames become key frames, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dff_ros.core.propagate import FlowFields
from dff_ros.core.signals import BY_RESIDUAL, Estimator, Signals
from dff_ros.engine.adaptive import AdaptiveSchedule, Correction, Worth
from dff_ros.engine.frame_pair import FramePair, Renewal
from dff_ros.engine.schedule import FixedSchedule, RandomSchedule, Schedule, TimedSchedule, parse_schedule
from dff_ros.engine.settings import EngineSettings

SETTINGS = EngineSettings()
AS_IT_IS = Estimator({"residual": 1.0}, bias=0.0)
"""The residual itself, a ten-thousandth aside."""


def still() -> FlowFields:
    return FlowFields(torch.zeros(1, 2, 4, 5))


def pair(
    age: int,
    *,
    loss: float = 0.01,
    age_ms: float | None = None,
    renewal: Renewal | None = None,
    turn_rate: float | None = None,
    interval_ms: float | None = None,
    spent_ms: float | None = None,
) -> FramePair:
    """A pair whose residual is ``loss``."""
    return FramePair(
        age=age,
        age_ns=None if age_ms is None else round(age_ms * 1e6),
        pixels_per_cell=8.0,
        compute_fields=still,
        compute_signals=lambda fields: signals(age, loss),
        renewal=renewal,
        turn_rate=turn_rate,
        interval_ns=None if interval_ms is None else round(interval_ms * 1e6),
        spent_ms=spent_ms,
    )


def signals(age: int, loss: float) -> Signals:
    return Signals(age, loss, 0.0, 0.0, 0.0, 0.0)


def adaptive(price: float, *, min_age: int = 1, max_age: int = 100, estimator: Estimator = AS_IT_IS) -> AdaptiveSchedule:
    return AdaptiveSchedule(estimator, reason="residual", price=price, min_age=min_age, max_age=max_age)


def keys(schedule: Schedule, frames: int, *, losses: Sequence[float] = (0.0,)) -> list[int]:
    """Frames that become key frames when the schedule runs over a video; frame 0 is one without being asked.

    A frame whose key is so many frames old loses ``losses[age]``, past their end as much as the last.
    """
    found, key = [0], 0
    for index in range(1, frames):
        age = index - key
        if schedule.is_key_frame(pair(age, loss=losses[min(age, len(losses) - 1)])):
            found.append(index)
            key = index
    return found


def test_fixed_makes_every_lth_frame_a_key() -> None:
    assert keys(FixedSchedule(5), 16) == [0, 5, 10, 15]
    assert keys(FixedSchedule(1), 4) == [0, 1, 2, 3]


def test_fixed_schedules_never_ask_for_the_flow() -> None:
    asked = pair(3)
    FixedSchedule(2).is_key_frame(asked)
    TimedSchedule(100).is_key_frame(asked)
    assert not asked.flow_computed


def test_timed_counts_stamps_whatever_frames_were_dropped() -> None:
    schedule = TimedSchedule(400)
    assert not schedule.is_key_frame(pair(5, age_ms=333.333))
    assert schedule.is_key_frame(pair(6, age_ms=400.0 - 0.2))  # stamps are rounded
    assert schedule.is_key_frame(pair(1, age_ms=2000))
    assert schedule.is_key_frame(pair(1, age_ms=None)).reason == "stamp unknown"


def test_random_keeps_its_rate_and_repeats_itself() -> None:
    first, second = keys(RandomSchedule(0.2), 2000), keys(RandomSchedule(0.2), 2000)
    assert first == second
    assert len(first) == pytest.approx(400, rel=0.15)


def renewal_interval(losses: Sequence[float], price: float) -> int:
    """The key frame interval with the least cost a frame, by trying all of them."""
    costs = [(price + sum(losses[1:length])) / length for length in range(1, len(losses))]
    return 1 + costs.index(min(costs))


@pytest.mark.parametrize("price", [0.02, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("growth", [0.002, 0.01, 0.05])
def test_in_a_steady_scene_keys_come_as_far_apart_as_is_cheapest(price: float, growth: float) -> None:
    losses = [0.0, *(0.001 + growth * age for age in range(60))]
    best = renewal_interval(losses, price)
    found = keys(adaptive(price), 300, losses=losses)
    assert found[-1] - found[-2] == pytest.approx(best, abs=1.0, rel=0.2)


def test_a_key_frame_is_worth_more_where_more_is_lost() -> None:
    calm = keys(adaptive(0.3), 200, losses=[0.0, *(0.004 * age for age in range(1, 60))])
    lively = keys(adaptive(0.3), 200, losses=[0.0, *(0.04 * age for age in range(1, 60))])
    assert len(lively) > 2.5 * len(calm)


def test_a_loss_that_fresh_keys_have_too_asks_for_few() -> None:
    flicker = keys(adaptive(0.3), 200, losses=[0.0, *[0.05] * 60])  # large from the first frame on, and no larger later
    growing = keys(adaptive(0.3), 200, losses=[0.0, *(0.01 * age for age in range(1, 11))])
    assert len(flicker) < 0.6 * len(growing)


def test_adaptive_keeps_its_bounds_on_the_age() -> None:
    assert keys(adaptive(0.05, min_age=3, max_age=8), 13, losses=[0.0, 0.05]) == [0, 3, 6, 9, 12]
    assert keys(adaptive(0.1, min_age=2, max_age=8), 17) == [0, 8, 16]


def test_adaptive_says_why_and_what_it_expects() -> None:
    schedule = adaptive(0.3, max_age=3)
    first = schedule.is_key_frame(pair(1, loss=0.05))
    assert (bool(first), first.reason) == (False, "")
    assert first.disagreement == pytest.approx(0.0501)
    assert schedule.is_key_frame(pair(2, loss=0.13)).reason == ""
    assert schedule.is_key_frame(pair(3, loss=0.2)).reason == "residual"
    assert adaptive(100.0, max_age=3).is_key_frame(pair(3)).reason == "age"


def test_a_sudden_rise_of_the_residual_is_a_cut_whatever_the_age() -> None:
    schedule = adaptive(100.0, min_age=5)
    assert not schedule.is_key_frame(pair(1, loss=0.06))
    cut = schedule.is_key_frame(pair(2, loss=0.2))
    assert cut and cut.hard and cut.reason == "scene cut"
    gradual = adaptive(100.0)
    assert not any(gradual.is_key_frame(pair(age, loss=0.05 * age)) for age in range(1, 8))


def test_a_schedule_that_comes_in_late_takes_nothing_for_a_cut() -> None:
    schedule = adaptive(100.0)
    assert not schedule.is_key_frame(pair(6, loss=0.2))  # another schedule made the key, and nobody knows the residual before
    assert not schedule.is_key_frame(pair(7, loss=0.25))
    assert schedule.is_key_frame(pair(8, loss=0.4)).hard


def test_a_cut_forgets_the_scene() -> None:
    schedule = adaptive(100.0)
    for _ in range(12):
        schedule.is_key_frame(pair(1, loss=0.05, renewal=Renewal(signals(4, 0.1), 0.4)))
    learnt = schedule.is_key_frame(pair(2, loss=0.05)).disagreement
    assert learnt is not None and learnt > 0.1
    assert schedule.is_key_frame(pair(3, loss=0.5)).hard
    assert schedule.is_key_frame(pair(1, loss=0.05)).disagreement == pytest.approx(0.0501)


@pytest.mark.parametrize(("loss", "is_cut"), [(0.3, False), (0.45, True)])
def test_a_key_that_takes_over_at_some_age_is_no_cut_by_itself(loss: float, is_cut: bool) -> None:
    schedule = adaptive(100.0)
    assert not any(schedule.is_key_frame(pair(age, loss=0.05 * age)) for age in range(1, 7))
    assert schedule.is_key_frame(pair(4, loss=loss)).hard == is_cut


def test_what_keys_showed_corrects_what_is_expected_of_the_scene() -> None:
    def expected(surprise: float) -> float:
        schedule = adaptive(100.0)
        for _ in range(12):
            schedule.is_key_frame(pair(1, loss=0.05, renewal=Renewal(signals(4, 0.1), surprise)))
        answer = schedule.is_key_frame(pair(2, loss=0.05)).disagreement
        assert answer is not None
        return answer

    assert expected(0.1) == pytest.approx(0.05, rel=0.05)
    assert expected(0.3) == pytest.approx(0.15, rel=0.15)
    assert expected(0.02) == pytest.approx(0.01, rel=0.3)


def test_one_key_frame_is_learnt_from_once() -> None:
    schedule, seen = adaptive(100.0), Renewal(signals(4, 0.1), 0.4)
    answers = [schedule.is_key_frame(pair(age, loss=0.05, renewal=seen)).disagreement for age in range(1, 6)]
    assert len(set(answers)) == 1


def test_the_correction_knows_the_scale_of_the_estimator() -> None:
    schedule = adaptive(100.0, estimator=Estimator({"residual": 1.0}, bias=0.0, surprise=0.6931))  # keys show twice the loss
    schedule.is_key_frame(pair(1, loss=0.05, renewal=Renewal(signals(4, 0.1), 0.2)))
    assert schedule.is_key_frame(pair(2, loss=0.05)).disagreement == pytest.approx(0.0501, rel=0.01)


def test_a_correction_is_the_mean_factor_and_weighs_the_latest_most() -> None:
    correction = Correction()
    assert correction.factor == 1.0
    correction.learn(0.1, 0.4)
    assert correction.factor == pytest.approx(4.0 ** (1 / 1.7))  # the prior, which has faded to 0.7, says 1
    for _ in range(30):
        correction.learn(0.1, 0.05)
    assert correction.factor == pytest.approx(0.5, rel=0.01)
    correction.learn(0.1, 0.0)  # nothing changed at all: a large step, but a bounded one
    assert correction.factor > 0.5 * 0.1
    correction.reset()
    assert correction.factor == 1.0


def test_worth_is_what_is_lost_beyond_fresh_keys_and_now() -> None:
    worth = Worth()
    assert worth.add(0.1) == pytest.approx(0.1 + 0.1 - 0.07)
    assert worth.add(0.3) == pytest.approx(0.4 + 0.3 - 0.14)
    worth.renew()
    assert worth.add(0.2) == pytest.approx(0.2 + 0.2 - 0.7 * 0.13)  # the loss of fresh keys has followed by 0.3


def test_a_turning_camera_asks_for_keys_before_the_picture_shows_it() -> None:
    def first_key(turn_rate: float | None) -> int:
        schedule = adaptive(0.5)
        return next(age for age in range(1, 100) if schedule.is_key_frame(pair(age, loss=0.01 + 0.001 * age, turn_rate=turn_rate)))

    assert first_key(1.0) < first_key(0.3) < first_key(None) == first_key(0.0)
    assert first_key(-1.0) == first_key(1.0)


def test_a_reset_forgets_the_scene() -> None:
    schedule = adaptive(0.5)
    schedule.is_key_frame(pair(1, loss=0.4, renewal=Renewal(signals(4, 0.01), 0.1)))
    schedule.reset()
    assert schedule.is_key_frame(pair(1, loss=0.05)).disagreement == pytest.approx(0.0501)
    assert not schedule.is_key_frame(pair(2, loss=0.05))


def test_another_set_point_goes_on_from_what_is_known() -> None:
    before = parse_schedule("adaptive:rate=0.2", SETTINGS)
    keys(before, 400, losses=[0.0, *(0.004 * age for age in range(1, 60))])
    after = parse_schedule("adaptive:rate=0.1", SETTINGS, previous=before)
    fresh = parse_schedule("adaptive:rate=0.1", SETTINGS)
    assert isinstance(before, AdaptiveSchedule) and isinstance(after, AdaptiveSchedule) and isinstance(fresh, AdaptiveSchedule)
    assert after.price == before.price != fresh.price
    assert isinstance(parse_schedule("fixed:3", SETTINGS, previous=before), FixedSchedule)


def test_another_signal_takes_over_the_scene_but_not_the_correction_of_the_old_one() -> None:
    before = parse_schedule("adaptive:signal=residual", SETTINGS)
    for age in range(1, 4):
        before.is_key_frame(pair(age, loss=0.05, renewal=Renewal(signals(4, 0.01), 0.9)))
    same = parse_schedule("adaptive:signal=residual,rate=0.1", SETTINGS, previous=before)
    other = parse_schedule("adaptive", SETTINGS, estimator=AS_IT_IS, previous=before)
    assert other.is_key_frame(pair(4, loss=0.05)).disagreement == pytest.approx(0.0501)
    assert same.is_key_frame(pair(4, loss=0.05)).disagreement > 1.5 * BY_RESIDUAL(signals(4, 0.05))  # type: ignore[operator]


def test_the_signal_is_the_bundles_own_where_it_has_one() -> None:
    own = Estimator({"own_motion": 1.0}, bias=-1.0)
    named = {text: parse_schedule(f"adaptive{text}", SETTINGS, estimator=own) for text in ("", ":signal=residual", ":signal=motion")}
    reasons = [schedule.reason for schedule in named.values() if isinstance(schedule, AdaptiveSchedule)]
    assert reasons == ["disagreement", "residual", "motion"]
    without = parse_schedule("adaptive", SETTINGS)
    assert isinstance(without, AdaptiveSchedule) and without.reason == "residual"
    assert without.is_key_frame(pair(1, loss=0.02)).disagreement == pytest.approx(BY_RESIDUAL(signals(1, 0.02)))


@pytest.mark.parametrize(
    "text",
    [
        *("", "fixed", "fixed:0", "fixed:x", "fixed:-5ms", "fixed:nanms", "random:0", "random:2", "never"),
        *("adaptive:", "adaptive:rate=2", "adaptive:rate=", "adaptive:rate=0.1,rate=0.2", "adaptive:ms_per_s=0", "adaptive:ms_per_s=1001"),
        *("adaptive:latency_ms=-1", "adaptive:signal=colour", "adaptive:speed=3", "adaptive:rate=0.1,ms_per_s=300"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match=r"schedule should be per-frame, fixed:N, fixed:Nms.* got"):
        parse_schedule(text, SETTINGS)


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="adaptive_min_age should be at most adaptive_max_age"):
        parse_schedule("adaptive", SETTINGS.with_values({"adaptive_min_age": 9, "adaptive_max_age": 3}))


@pytest.mark.parametrize(
    "text",
    [
        *("per-frame", "fixed:5", "fixed:400ms", "random:0.1", "adaptive", "adaptive:rate=0.1", "adaptive:ms_per_s=300"),
        *("adaptive:latency_ms=20", "adaptive:signal=motion", "adaptive:rate=0.1,signal=residual"),
    ],
)
def test_the_whole_grammar_parses(text: str) -> None:
    assert parse_schedule(text, SETTINGS).is_key_frame(pair(1)) is not None
