"""The tables of docs/schedules.md, from made-up agreement, and the figures of a played budget."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from accuracy_report import merge_into
from budget import EVERY, Deciding, Played, back_and_forth, deciding
from schedules import MARKS
from schedules_budget import Costed, budget_table, held_table
from schedules_contenders import Study, contenders, curves, perfect_keys
from schedules_report import RATES, SCORED, agreement_table, gap_table, score_table, sequence_table, spread_of
from schedules_tables import LEARNING, MEASURED, MEASURING, AgedBoxes, Measured, Source, code_digest, measure
from test_gap import OLDEST, made_up
from test_schedule import AS_IT_IS
from training_data import write_drive

from dff_ros.engine.frame_pair import Decision, FramePair
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.schedule_study.agreement import losses_of, play
from dff_ros.evaluation.schedule_study.gap import gap_at


@pytest.fixture(scope="module")
def study() -> Study:
    """Two videos; truth says of the one what agreement says, of the other that a car is lost where anything is."""
    one, two = made_up(160, 0), made_up(160, 1)
    lost = np.where(np.isnan(one.losses), 0, np.rint(1000 * np.nan_to_num(one.losses))).astype(np.int64)
    confusions = np.stack([np.stack([1000 - lost, lost], -1), np.stack([lost, 1000 - lost], -1)], -2)
    found = [(frame, age, 0, 0.9, 10, 10, 50, 50) for frame in range(160) for age in range(OLDEST + 1) if two.losses[frame, age] <= 0.02]
    true = [(frame, 0, 0, 10, 10, 50, 50) for frame in range(160)]
    boxes = AgedBoxes(np.array(found, np.float32), np.array(true, np.float32))
    parts = {"one": Measured(dataclasses.replace(one, confusions=confusions), None), "two": Measured(two, boxes)}
    return Study("warp", parts, AS_IT_IS, 0.5)


def row(lines: list[str], name: str) -> list[str]:
    (found,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


def test_the_tables_say_how_much_of_the_gap_is_closed_and_where_keys_went(study: Study) -> None:
    ways = contenders(study.learned)
    gaps = {name: [gap_at(study.joined, ways[name], rate) for rate in RATES] for name in list(ways)[:3]}
    closed = row(gap_table(study, gaps), "adaptive (learned)")
    assert len(closed) == len(RATES) + 2
    assert all(int(cell) <= 100 for cell in closed[: len(RATES)]) and int(closed[len(RATES)]) > 40, closed
    agreement = agreement_table(study, gaps)
    for column in range(len(RATES)):
        fixed, ours, oracle = (float(row(agreement, name)[column]) for name in ("fixed", "adaptive (learned)", "oracle"))
        assert ours <= oracle and fixed < oracle
    assert all("%, +" in cell for cell in row(sequence_table(study, gaps["adaptive (learned)"]), "two"))


def test_held_rates_are_counted_over_the_second_time(study: Study) -> None:
    for rate in RATES:
        reached = float(row(held_table(study, RATES), f"{rate:.0%}")[0])
        assert reached == pytest.approx(100 * rate, rel=0.15)


def test_a_budget_is_played_with_made_up_costs(study: Study) -> None:
    lines = budget_table(study, "one", "two", frames=1200)
    before, after = (float(cell.rstrip("%")) for cell in row(lines, "set-point 10 %, then 20 %")[:2])
    assert (before, after) == (pytest.approx(10, rel=0.2), pytest.approx(20, rel=0.2))
    alone, beside = (cell.split(" ms") for cell in row(lines, "569 ms a second, then everything takes 1.5 times as long")[:2])
    assert float(alone[0]) == pytest.approx(569, rel=0.05) and float(beside[0]) == pytest.approx(569, rel=0.08)


def test_costs_are_those_of_the_frame_before() -> None:
    told: list[float | None] = []

    class Told:
        def is_key_frame(self, pair: FramePair) -> Decision:
            told.append(pair.spent_ms)
            return Decision(len(told) == 2, "")

        def reset(self) -> None:
            pass

    play(made_up(5, 0), Costed(Told(), key_ms=100.0, propagated_ms=10.0, slower=lambda index: 2.0 if index >= 3 else 1.0))
    assert told == [100.0, 10.0, 100.0, 20.0]


def test_true_losses_lose_less_than_even_keys(study: Study) -> None:
    keys = perfect_keys(study.joined, 0.1)
    assert keys[0] == 0 and 160 in keys
    assert max(b - a for a, b in itertools.pairwise(keys)) <= OLDEST + 1
    assert losses_of(study.joined, keys).mean() < losses_of(study.joined, range(0, 320, max(1, 320 // len(keys)))).mean()


def test_curves_are_of_every_score_and_reach_as_far_as_the_table(study: Study) -> None:
    panels = curves(study, (0.05, 0.1, 0.3))
    agreements = ["all recordings: agreement", "one: agreement", "two: agreement"]
    assert list(panels) == [*agreements, "one: mIoU", "two: AP at IoU .5"]
    for title, found in panels.items():
        assert {"fixed", "random", "oracle", "adaptive (learned)"} <= found.keys(), title
        assert min(rate for points in found.values() for rate, _ in points) > 0.9 / (OLDEST + 1)
        assert all(high >= low for (_, low), (_, high) in itertools.pairwise(found["oracle"]))


def test_scores_stand_beside_per_frames(study: Study) -> None:
    lines = score_table(study)
    assert row(lines, "one: mIoU: per-frame") == ["100.0"] * len(SCORED) == row(lines, "two: AP at IoU .5: per-frame")
    for title in ("one: mIoU", "two: AP at IoU .5"):
        ours, fixed = (np.array([float(cell) for cell in row(lines, f"{title}: {name}")[1:]]) for name in ("adaptive (learned)", "fixed"))
        assert (ours[-1], fixed[-1]) < (100.0, 100.0) and ours.mean() > fixed.mean()


def test_boxes_are_those_of_each_frames_own_key(study: Study) -> None:
    boxes = AgedBoxes(
        np.array([(0, 0, 0, 0.9, 0, 0, 9, 9), (1, 0, 0, 0.9, 0, 0, 9, 9), (1, 1, 0, 0.9, 40, 40, 49, 49)], np.float32),
        np.array([(0, 0, 0, 0, 0, 9, 9), (1, 0, 0, 0, 0, 9, 9)], np.float32),
    )
    assert boxes.map50([0, 1], 2) == pytest.approx(1.0)
    late = boxes.map50([0], 2)
    assert late is not None and late < 0.6


def test_a_table_and_its_boxes_are_measured_in_one_pass(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    write_drive(tmp_path / "video", seed=3, frames=6)
    (tmp_path / "boxes.csv").write_text("frame,id,left,top,width,height\n" + "".join(f"{index},1,10,10,40,40\n" for index in range(6)))
    model = load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))
    name = model.card.detection_classes[0]
    source = Source("frames", "video", 10.0, (1, 5), boxes=(name, "boxes.csv"))
    agreement, boxes = measure(source, tmp_path, model, oldest=3)
    assert agreement.losses.shape == (5, 4) and boxes is not None
    assert set(boxes.true[:, 0]) == set(range(5)) and boxes.found.shape[1] == 8
    assert all(age <= min(frame, 3) for frame, age in boxes.found[:, :2])


def test_code_that_says_the_same_has_the_same_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.py"

    def digest(text: str) -> str:
        file.write_text(text)
        return code_digest(["*.py"], tmp_path)

    first = digest('"""About."""\ndef f():\n    """Doc."""\n    return 1\n')
    assert digest('def f():\n    # why\n    return (1)\n') == first
    assert digest("def f():\n    return 2\n") != first
    with pytest.raises(ValueError, match=r"got none for b\.py"):
        code_digest(["*.py", "b.py"], tmp_path)
    assert len(code_digest(MEASURING)) == len(code_digest(LEARNING)) == len(first)


def test_the_spread_of_intervals() -> None:
    assert spread_of([0, 5, 10, 15]) == 0.0
    assert spread_of([0, 1, 10, 11, 20]) == pytest.approx(0.8)


def test_each_script_writes_between_its_own_marks(tmp_path: Path) -> None:
    file, others = tmp_path / "schedules.md", ("<!-- a -->", "<!-- b -->")
    file.write_text(f"Text.\n{MARKS[0]}\nold\n{MARKS[1]}\nMore.\n{others[0]}\n{others[1]}\n")
    merge_into(file, "new", MARKS)
    merge_into(file, "other", others)
    content = file.read_text()
    assert "old" not in content and content.index("new") < content.index("More.") < content.index("other")
    real = (Path(__file__).parent.parent / "docs" / "schedules.md").read_text()
    assert all(mark in real for mark in MARKS)


def test_sources_are_given_to_training_with_their_range() -> None:
    assert Source("video", "a/b.mp4", frames=(3, 9)).option(Path("/data")) == ["--video", "/data/a/b.mp4@3:9"]
    assert Source("frames", "c").option(Path("/data")) == ["--frames", "/data/c"]
    assert len(MEASURED) == 8


def test_a_played_budget_is_settled_when_every_later_stretch_holds() -> None:
    every_fifth = [index % 5 == 0 for index in range(500)]
    doubled = Played([*every_fifth, *(index % 10 == 0 for index in range(1000))], [10.0] * 1500)
    assert doubled.settled(500, 0.1) == 0
    assert Played([index % 10 == 0 for index in range(1000)], []).settled(0, 0.2) is None
    assert Played([index % 10 == 0 for index in range(100)], []).settled(0, 0.1) is None  # too few keys to tell
    late = Played([*(index % 5 == 0 for index in range(200)), *(index % 10 == 0 for index in range(1000))], [])
    assert late.settled(0, 0.1) == pytest.approx(38, abs=3)
    assert doubled.busy(0) == pytest.approx(150.0)


def test_a_recording_is_played_back_and_forth() -> None:
    assert [*back_and_forth(["a", "b", "c"], 7)] == ["a", "b", "c", "b", "a", "b", "c"]  # type: ignore[list-item]


def test_the_cost_of_deciding_counts_what_comes_with_keys_by_their_rate(tiny_bundle: Path) -> None:
    assert Deciding(propagated=10.0, decide=0.2, fresh=1.2, look_back=1.0).share == pytest.approx((0.2 + 2.0 / EVERY) / 10.0)
    settings = EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32", max_key_age=0.0)
    frames = [np.random.default_rng(index % 2).integers(0, 256, (96, 128, 3), np.uint8) for index in range(3 * EVERY + 2)]
    cost = deciding(load_model(settings), settings, frames)
    assert 0 < cost.decide < cost.propagated and cost.fresh > 0 and cost.look_back > 0
