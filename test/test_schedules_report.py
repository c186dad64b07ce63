"""The tables of docs/schedules.md, from made-up agreement, and the figures of a played budget."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from accuracy_report import merge_into
from budget import Played, back_and_forth
from schedules import MARKS, MEASURED, Source
from schedules_report import (
    RATES,
    Study,
    agreement_table,
    contenders,
    curves,
    gap_table,
    held_table,
    perfect_keys,
    sequence_table,
    spread_of,
)
from test_gap import OLDEST, made_up
from test_schedule import AS_IT_IS

from dff_ros.evaluation.agreement import join_tables, losses_of
from dff_ros.evaluation.gap import gap_at


@pytest.fixture(scope="module")
def study() -> Study:
    parts = {"one": made_up(160, 0), "two": made_up(160, 1)}
    return Study("warp", parts, join_tables(list(parts.values())), AS_IT_IS, 0.5)


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
        reached = float(row(held_table(study), f"{rate:.0%}")[0])
        assert reached == pytest.approx(100 * rate, rel=0.15)


def test_true_losses_lose_less_than_even_keys(study: Study) -> None:
    keys = perfect_keys(study.joined, 0.1)
    assert keys[0] == 0 and 160 in keys
    assert max(b - a for a, b in itertools.pairwise(keys)) <= OLDEST + 1
    assert losses_of(study.joined, keys).mean() < losses_of(study.joined, range(0, 320, max(1, 320 // len(keys)))).mean()


def test_curves_reach_as_far_as_the_table(study: Study) -> None:
    found = curves(study)
    assert {"fixed", "random", "oracle", "adaptive (learned)"} <= found.keys()
    assert min(rate for rate, _ in found["oracle"]) > 1 / (OLDEST + 1)


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
