"""Schedules: which frames become key frames, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dff_ros.core.propagate import FlowFields
from dff_ros.engine.schedule import FixedSchedule, FramePair, RandomSchedule, Schedule, TimedSchedule, parse_schedule
from dff_ros.engine.settings import EngineSettings

SETTINGS = EngineSettings()


def pair(age: int, *, motion: float = 0.0, age_ms: float | None = None) -> FramePair:
    """A pair whose flow, less its median, is ``motion`` source pixels long on average."""

    def compute_fields() -> FlowFields:
        flow = torch.zeros(1, 2, 4, 5)
        flow[:, 0] = 3.0  # the camera's turn, which the median takes away
        flow[:, 0, 0, :4] += motion / 8 * 5  # a fifth of the cells moves
        return FlowFields(flow)

    age_ns = None if age_ms is None else round(age_ms * 1e6)
    return FramePair(age=age, age_ns=age_ns, pixels_per_cell=8.0, compute_fields=compute_fields)


def keys(schedule: Schedule, frames: int, *, motion: Sequence[float] | float = 0.0) -> list[int]:
    """Frames that become key frames when the schedule runs over a video; frame 0 is one without being asked."""
    found, key = [0], 0
    for index in range(1, frames):
        moved = motion if isinstance(motion, float) else motion[index]
        if schedule.is_key_frame(pair(index - key, motion=moved)):
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


def test_adaptive_sums_own_motion_up_to_its_threshold() -> None:
    settings = SETTINGS.with_values({"adaptive_motion": 10.0, "adaptive_min_age": 2, "adaptive_max_age": 8})
    assert keys(parse_schedule("adaptive", settings), 13, motion=3.0) == [0, 4, 8, 12]  # 3 + 3 + 3 + 3 reaches 10
    assert keys(parse_schedule("adaptive", settings), 13, motion=100.0) == [0, 2, 4, 6, 8, 10, 12]  # not below the least age
    assert keys(parse_schedule("adaptive", settings), 17, motion=0.0) == [0, 8, 16]  # nor beyond the largest


def test_adaptive_does_not_count_the_cameras_turn() -> None:
    assert pair(1, motion=0.0).own_motion_px == 0.0
    assert pair(1, motion=2.0).own_motion_px == pytest.approx(2.0)
    assert pair(1, motion=0.0).motion_px == pytest.approx(24.0)


def test_adaptive_says_why() -> None:
    settings = SETTINGS.with_values({"adaptive_motion": 10.0, "adaptive_max_age": 3, "adaptive_min_age": 1})
    schedule = parse_schedule("adaptive", settings)
    assert schedule.is_key_frame(pair(1, motion=20.0)).reason == "motion"
    assert schedule.is_key_frame(pair(3)).reason == "age"
    assert schedule.is_key_frame(pair(1)).reason == ""


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("speed", [0.5, 5.0, 50.0])
def test_adaptive_holds_the_key_rate_at_any_speed(rate: float, speed: float) -> None:
    schedule = parse_schedule(f"adaptive:rate={rate}", SETTINGS.with_values({"adaptive_max_age": 1000}))
    motion = [speed * (1 + (index // 50) % 3) for index in range(2000)]
    settled = [index for index in keys(schedule, 2000, motion=motion) if index >= 400]
    assert len(settled) / 1600 == pytest.approx(rate, rel=0.1)


def test_a_reset_forgets_the_motion_summed_up() -> None:
    settings = SETTINGS.with_values({"adaptive_motion": 10.0, "adaptive_min_age": 1})
    schedule = parse_schedule("adaptive", settings)
    assert not schedule.is_key_frame(pair(1, motion=9.0))
    schedule.reset()
    assert not schedule.is_key_frame(pair(2, motion=9.0))


@pytest.mark.parametrize(
    "text",
    ["", "fixed", "fixed:0", "fixed:x", "fixed:-5ms", "fixed:nanms", "random:0", "random:2", "adaptive:", "adaptive:rate=2", "never"],
)
def test_what_is_no_schedule_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match=r"schedule should be per-frame, fixed:N, fixed:Nms.* got"):
        parse_schedule(text, SETTINGS)


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="adaptive_min_age should be at most adaptive_max_age"):
        parse_schedule("adaptive", SETTINGS.with_values({"adaptive_min_age": 9, "adaptive_max_age": 3}))


@pytest.mark.parametrize("text", ["per-frame", "fixed:5", "fixed:400ms", "random:0.1", "adaptive", "adaptive:rate=0.1"])
def test_the_whole_grammar_parses(text: str) -> None:
    assert parse_schedule(text, SETTINGS).is_key_frame(pair(1)) is not None
