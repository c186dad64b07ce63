"""What tuning compares and recommends, by hand: candidates, losses, the front, the choice and its reasons, the frames looked at."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_gap import made_up
from tuning import HeldOut, halves

from dff_ros.core.results import Detections
from dff_ros.engine.loading import load_model
from dff_ros.engine.schedule import TimedSchedule, parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.average_precision import ScoredFrame, average_precision
from dff_ros.evaluation.schedule_study.agreement import AgreementTable
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import select
from dff_ros.tuning import timing
from dff_ros.tuning.boxes_by_age import BoxesByAge
from dff_ros.tuning.candidates import Candidate, Network, candidates_for, networks_for, timed
from dff_ros.tuning.figures import Figures
from dff_ros.tuning.losses import Answers, Losses, Scores, losses
from dff_ros.tuning.recommendation import Goal, Tried, best, front, parse_targets, reasons
from dff_ros.tuning.sampling import shortened, spread, taken
from dff_ros.tuning.timing import sort_times

STREET = Network("street", 1.0, 0)
NO_BOXES = BoxesByAge([[]] * 4)


def figures(loss: float, p95: float, *, dropped: int = 0, key_rate: float = 0.2) -> Figures:
    return Figures(100, dropped, key_rate, loss, Losses(loss, None), Scores(1.0 - loss, None, None, None), p95, p95, p95, p95, p95)


def tried(name: str, loss: float, p95: float, *, dropped: int = 0, key_rate: float = 0.2, run: Figures | None = None) -> Tried:
    return Tried(Candidate(STREET, name), figures(loss, p95, dropped=dropped, key_rate=key_rate), run)


def names(several: list[Tried]) -> list[str]:
    return [one.candidate.schedule for one in several]


FIELD = [
    tried("per-frame", 0.0, 150.0, dropped=40, key_rate=1.0),
    tried("fixed:100ms", 0.010, 90.0, key_rate=0.5),
    tried("fixed:200ms", 0.020, 50.0, key_rate=0.25),
    tried("fixed:400ms", 0.040, 30.0, key_rate=0.1),
    tried("random:0.1", 0.050, 60.0, key_rate=0.1),
    tried("random:0.2", 0.040, 40.0, key_rate=0.2),
]


def test_the_front_holds_those_that_no_other_beats() -> None:
    assert names(front(FIELD)) == ["fixed:400ms", "fixed:200ms", "fixed:100ms", "per-frame"]
    twins = [tried("fixed:1", 0.01, 5.0), tried("fixed:2", 0.01, 5.0)]
    assert names(front(twins)) == ["fixed:1", "fixed:2"]


@pytest.mark.parametrize(
    ("interval_ms", "targets", "expected"),
    [
        (110.0, {}, "fixed:100ms"),
        (99.0, {}, "fixed:200ms"),  # 90 ms is more than nine tenths of the interval
        (20.0, {}, "fixed:100ms"),  # nobody is within the interval: then no drops, and the least loss
        (99.0, {"latency_ms": 45.0}, "fixed:400ms"),
        (99.0, {"loss": 0.045}, "fixed:400ms"),
        (99.0, {"loss": 0.025}, "fixed:200ms"),
        (110.0, {"key_rate": 0.3}, "fixed:200ms"),
        (110.0, {"latency_ms": 60.0, "key_rate": 0.15}, "fixed:400ms"),
        (110.0, {"latency_ms": 25.0}, "fixed:400ms"),  # unreachable: the nearest
    ],
)
def test_the_recommendation(interval_ms: float, targets: dict[str, float], expected: str) -> None:
    goal = Goal(interval_ms, tuple(targets.items()))
    assert best(FIELD, goal).candidate.schedule == expected


def test_a_missed_target_is_told_by_how_much() -> None:
    goal = Goal(110.0, (("latency_ms", 25.0), ("loss", 0.05)))
    assert goal.excess(figures(0.04, 30.0)) == pytest.approx(1.2)
    assert goal.excess(figures(-0.01, 20.0)) <= 1.0


def test_losses_that_noise_decides_between_are_tied() -> None:
    goal = Goal(100.0)
    assert best([tried("fixed:1", 0.0200, 80.0), tried("fixed:2", 0.0205, 40.0)], goal).candidate.schedule == "fixed:2"
    assert best([tried("fixed:1", 0.0200, 80.0), tried("fixed:2", 0.0300, 40.0)], goal).candidate.schedule == "fixed:1"


def test_what_was_run_counts_before_what_was_simulated() -> None:
    spoilt = tried("fixed:1", 0.01, 50.0, run=figures(0.01, 50.0, dropped=10))
    assert best([spoilt, tried("fixed:2", 0.02, 50.0)], Goal(100.0)).candidate.schedule == "fixed:2"


def test_the_reasons_name_the_neighbours() -> None:
    chosen = FIELD[2]
    accurate, faster, per_frame = reasons(chosen, FIELD, Goal(99.0))
    assert "more accurate, simulated: street, fixed:100ms" in accurate and "loses 1.0 points less" in accurate
    assert "does not keep up" in accurate
    assert "faster, simulated: street, fixed:400ms" in faster and "loses 2.0 points more" in faster and "30 ms against 50" in faster
    assert per_frame.startswith("The reference, simulated: street, per-frame") and "40 frames dropped against 0" in per_frame


def test_targets_are_read() -> None:
    assert parse_targets(["latency_ms=50,loss=0.01", "key_rate=0.1"]) == (("latency_ms", 50.0), ("loss", 0.01), ("key_rate", 0.1))
    for wrong in ("latency=50", "loss", "loss=-1", "loss=nan", "loss=1,loss=2"):
        with pytest.raises(ValueError, match="target should be one of latency_ms"):
            parse_targets([wrong])


def test_candidates_are_all_different_and_the_node_takes_them() -> None:
    networks = networks_for([("street", 172_800), ("street_light", 172_800)], (0.6, 1.0))
    assert [network.name for network in networks] == ["street", "street at 0.6", "street_light", "street_light at 0.6"]
    assert networks_for([("street", 172_800)], (0.6,))[0].size == 1.0  # the reference is always there
    several = [candidate for network in networks for candidate in candidates_for(network, 1e3 / 15)]
    assert len({candidate.name for candidate in several}) == len(several)
    for candidate in several:
        settings = candidate.settings(EngineSettings())
        parse_schedule(settings.schedule, settings)
        assert settings.input_pixels == (103_680 if "0.6" in candidate.name else 0)


def test_a_fixed_schedule_in_milliseconds_stands_jitter() -> None:
    schedule = parse_schedule(timed(3, 1e3 / 15), EngineSettings())
    assert isinstance(schedule, TimedSchedule) and schedule.milliseconds == 167
    assert timed(1, 0.5) == "fixed:1ms"


def boxes_at(*lefts: float, scores: tuple[float, ...] = ()) -> Detections:
    boxes = np.array([(left, 0, left + 10, 10) for left in lefts], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(scores or [0.9] * len(lefts), np.float32), np.zeros(len(lefts), np.int64))


def scored(found: Detections, *lefts: float) -> ScoredFrame:
    return ScoredFrame(found, {0: ClassBoxes(boxes_at(*lefts).boxes.astype(np.float64), np.zeros(len(lefts), bool))})


def test_ap_of_any_choice_of_answers_is_that_of_these_frames_alone() -> None:
    random = np.random.default_rng(0)
    rows = []
    for frame in range(12):
        lefts = random.uniform(0, 200, 3)
        kept = [tuple(lefts[: 3 - age % 3] + age) for age in range(min(frame, 4) + 1)]
        rows.append([scored(boxes_at(*found, scores=tuple(random.uniform(0.1, 1, len(found)))), *lefts) for found in kept])
    table = BoxesByAge(rows)
    frames, ages = np.arange(12), np.minimum(np.arange(12), random.integers(0, 5, 12))
    chosen = [rows[frame][age] for frame, age in zip(frames, ages, strict=True)]
    assert table.precision(frames, ages).map50 == pytest.approx(average_precision(chosen).map50)
    assert table.precision(frames[:5], ages[:5]).map50 == pytest.approx(average_precision(chosen[:5]).map50)
    assert table.precision(frames, np.zeros(12, np.intp)).map50 == pytest.approx(1.0)
    assert 0.0 < (table.precision(frames, ages).map50 or 0.0) < 1.0


def test_ap_without_boxes_is_not_measured() -> None:
    frames = np.arange(2)
    assert BoxesByAge([[], []]).precision(frames, frames).map50 is None
    assert BoxesByAge([[scored(boxes_at(5.0))], []]).precision(frames, frames * 0).map50 is None
    half = BoxesByAge([[], [scored(boxes_at(5.0), 5.0)]])
    assert half.precision(frames, frames * 0).map50 == pytest.approx(1.0)  # a frame that no truth covers is left out


def test_a_class_seen_once_is_no_half_of_what_is_lost() -> None:
    def one(*labels: int) -> ScoredFrame:
        """Three boxes of class 0, of which all are found, and one of class 1."""
        true = {0: ClassBoxes(boxes_at(0, 20, 40).boxes.astype(np.float64), np.zeros(3, bool))}
        true[1] = ClassBoxes(boxes_at(60).boxes.astype(np.float64), np.zeros(1, bool))
        found = boxes_at(0, 20, 40, 60)
        return ScoredFrame(Detections(found.boxes, found.scores, np.array(labels, np.int64)), true)

    nothing = np.zeros(1, np.intp)
    missed = BoxesByAge([[one(0, 0, 0, 0)]]).precision(nothing, nothing)
    assert missed.map50 == pytest.approx((1.0 + 0.0) / 2) and missed.ap50 == pytest.approx(3 / 4)
    found = BoxesByAge([[one(0, 0, 0, 1)]]).precision(nothing, nothing)
    assert found.map50 == pytest.approx(1.0) and found.ap50 == pytest.approx(1.0)


def test_scores_come_from_the_ages_that_were_played() -> None:
    plain = made_up(4, 0)
    confusions = np.zeros((4, 11, 2, 2), np.int64)
    confusions[:, 0] = [[5, 0], [0, 5]]
    confusions[:, 1:] = [[3, 2], [0, 5]]
    table = AgreementTable(plain.losses, plain.signals, plain.surprises, plain.stamps, plain.firsts, confusions)
    answers = Answers(table, NO_BOXES, NO_BOXES)
    scores = answers.scores(np.array([1, 2]), np.array([0, 1]))
    assert scores.agreement == pytest.approx(1.0 - plain.losses[2, 1] / 2)
    assert scores.miou == pytest.approx((8 / 10 + 10 / 12) / 2)
    assert scores.map50 is None


def test_the_loss_is_the_larger_of_two() -> None:
    reference = Scores(agreement=1.0, agreement_ap50=1.0, miou=None, map50=None)
    lost = losses(Scores(0.97, 0.9, None, None), reference)
    assert (lost.segmentation, lost.detection, lost.loss) == pytest.approx((0.03, 0.1, 0.1))
    by_truth = losses(Scores(0.97, 0.9, 0.62, None), Scores(1.0, 1.0, 0.60, None))
    assert by_truth.segmentation == by_truth.loss == pytest.approx(-0.02)  # truth alone counts, and may speak for the candidate
    assert losses(Scores(None, None, None, None), reference).loss is None


def test_segments_are_spread_and_hold_what_the_time_allows() -> None:
    assert spread(100, 300) == [(0, 100)]
    assert spread(1000, 60) == [(470, 530)]
    several = spread(1000, 240)
    assert several == [(0, 60), (313, 373), (627, 687), (940, 1000)]
    assert shortened(several, 120) == [(0, 30), (313, 343), (627, 657), (940, 970)]
    assert spread(20, 0) == [(4, 16)]


def test_the_segments_frames_are_taken() -> None:
    drive = GeneratedDrive(0, 12, width=32, height=24, rate=10.0)
    told = [(begins, item.index) for begins, item in taken(drive, [(2, 4), (4, 5), (8, 30)])]
    assert told == [(True, 2), (False, 3), (True, 4), (True, 8), (False, 9), (False, 10), (False, 11)]


def step(kind: str, age: int, ms: float, *, reason: str = "", key_ms: float = 100.0) -> FrameResult:
    return FrameResult(
        stamp=0, is_key=kind == "key", reason=reason or ("interval" if kind == "key" else ""), key_age_frames=age, key_age_ms=0.0,
        key_ms=key_ms, motion_px=None, disagreement=None, detections=None, label_map=None, step_ms=ms, feature_ms=0.0, flow_ms=0.0,
        refine_ms=0.0, head_ms=0.0,
    )  # fmt: skip


def test_steps_are_sorted_by_what_they_had_to_do() -> None:
    blocking = sort_times([step("key", 0, 90.0), step("propagated", 1, 20.0), step("propagated", 2, 21.0)], None)
    assert (blocking.key, blocking.propagated, blocking.beside, blocking.aside) == ((90.0,), (20.0, 21.0), (), ())
    run = [
        step("propagated", 1, 20.0),
        step("propagated", 2, 40.0, reason="interval"),
        step("propagated", 3, 41.0),
        step("propagated", 2, 22.0, key_ms=130.0),
    ]
    aside = sort_times(run, blocking)
    assert (aside.key, aside.propagated, aside.beside, aside.aside) == ((90.0,), (20.0, 22.0), (40.0, 41.0), (130.0,))
    later = sort_times(run, blocking, skipped=2)  # the key frame in flight was ordered before
    assert (later.propagated, later.beside, later.aside) == ((22.0,), (41.0,), (130.0,))
    waited = sort_times([replace(step("propagated", 1, 20.0), waited_ms=3.0)], blocking)
    assert waited.propagated == (23.0,)


def test_key_frames_aside_are_timed_where_frames_leave_no_pause(refined_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera faster than the steps leaves a key frame no turn; it is timed alone all the same."""
    monkeypatch.setattr(timing, "PAUSE_MS", 5.0)
    settings = EngineSettings(model=str(refined_bundle), device="cpu")
    frames = list(GeneratedDrive(0, 8, width=160, height=120, rate=10.0))
    times = timing.measure_times(load_model(settings), settings, frames, interval_ms=0.1)
    assert all(times[adaptive, True].aside for adaptive in (False, True))


def test_the_excess_of_nothing_is_nothing() -> None:
    assert Goal(100.0).excess(figures(0.5, math.inf)) == 0.0


@pytest.mark.parametrize(
    ("loss", "p95", "holds"),
    [(0.024, 54.0, True), (0.016, 46.0, True), (0.026, 50.0, False), (0.014, 50.0, False), (0.02, 56.0, False), (0.02, 44.0, False)],
)
def test_a_recommendation_holds_within_half_a_point_and_a_tenth_of_its_latency(loss: float, p95: float, holds: bool) -> None:
    outcome = HeldOut("drive", promised=figures(0.02, 50.0), found=figures(loss, p95))
    assert outcome.holds == holds
    assert ("DOES NOT HOLD" in outcome.table()) != holds


@pytest.mark.parametrize("first", [0, 7])
def test_halves_are_of_the_range_that_is_tuned_on(first: int) -> None:
    drive = GeneratedDrive(0, 20, width=48, height=32)
    indices = [[item.index for item in half] for half in halves(select(drive, first, first + 8))]
    assert indices == [list(range(first, first + 4)), list(range(first + 4, first + 9))]
    assert [len(half) for half in halves(drive)] == [10, 10]
