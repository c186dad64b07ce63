"""The columns and the figures of the HTML report: what goes in comes out, thinned where it is long, and never as NaN."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly", reason="plotly is not installed")

from report_data import frame_table, report

from dff_ros.report.blocks import blocks_of
from dff_ros.report.figures import Curve, Point, accuracy_over_latency, by_age, times_histogram
from dff_ros.report.frame_table import FrameTable
from dff_ros.report.timeline import MOST_POINTS, envelope, timeline


def strict_json(figure: Any) -> Any:
    """A figure as the page embeds it; fails on NaN and Infinity, which no browser's JSON.parse takes."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in a figure")

    return json.loads(figure.to_json(), parse_constant=refuse)


def test_columns_give_back_what_was_added() -> None:
    frames = frame_table(9)
    assert len(frames) == 9
    assert frames["key_age_frames"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert np.isnan(frames["motion_px"][[0, 4, 8]]).all()
    assert frames.stamps[3] == 1_700_000_000_123_456_789 + 300_000_000  # exact, though no float64 holds it
    assert frames.reasons[:5] == ["first frame", "", "", "", "interval"]
    assert frames.of_kind("key").tolist() == [True, False, False, False, True, False, False, False, True]
    assert not frames.of_kind("dropped").any()
    assert frames.period_ms == pytest.approx(100)
    assert frames.agreement_by_age() == pytest.approx([1, 0.98, 0.96, 0.94])


def test_what_a_record_lacks_was_not_measured() -> None:
    frames = FrameTable()
    frames.add({"index": 5, "stamp": None, "kind": "dropped"})
    assert np.isnan(frames["step_ms"]).all() and not frames.made_key.any()
    assert frames.period_ms is None and not frames.timed
    assert frames.agreement_by_age() == []


@pytest.mark.parametrize("stamps", [[0, 0, 0], [3, 2, 1], [7, 7, 7], [5]])
def test_stamps_that_do_not_rise_are_no_axis(stamps: list[int]) -> None:
    frames = FrameTable()
    for index, stamp in enumerate(stamps):
        frames.add({"index": index, "stamp": stamp, "kind": "key", "step_ms": 1.0})
    assert not frames.timed
    assert strict_json(timeline(frames))["layout"]["xaxis2"]["title"]["text"] == "frame"


def test_the_timeline_has_a_line_of_marks_for_each_reason_and_a_strip_for_all_that_was_measured() -> None:
    figure = strict_json(timeline(frame_table()))
    marks = {trace["y"][0]: len(trace["y"]) for trace in figure["data"] if trace["mode"] == "markers"}
    assert marks == {"key: first frame": 1, "key: interval": 9}
    strips = [figure["layout"][name]["title"]["text"] for name in ("yaxis2", "yaxis3", "yaxis4")]
    assert strips == ["motion, px", "agreement", "step, ms"]  # no latency without a clock
    (motion,) = [trace for trace in figure["data"] if "motion" in trace["hovertemplate"]]
    assert motion["y"][:5] == [None, 2, 4, 6, None]
    assert motion["customdata"][2] == ["2", "1700000000.323456789", "propagated, age 2 (200 ms)"]
    assert motion["customdata"][4] == ["4", "1700000000.523456789", "key: interval"]


def test_dropped_frames_are_marked() -> None:
    frames = frame_table(8)
    frames.add({"index": 8, "stamp": 1_700_000_000_923_456_789, "kind": "dropped"})
    marks = [trace["y"][0] for trace in strict_json(timeline(frames))["data"] if trace["mode"] == "markers"]
    assert "dropped" in marks


def test_a_long_recording_is_thinned_and_keeps_its_extremes() -> None:
    frames = frame_table(20_000, interval=2)
    figure = strict_json(timeline(frames))
    assert all(len(trace["x"]) <= MOST_POINTS for trace in figure["data"])
    assert len(json.dumps(figure)) < 2_500_000
    (steps,) = [trace for trace in figure["data"] if "step" in trace["hovertemplate"]]
    assert {min(steps["y"]), max(steps["y"])} == {10.0, 130.0}


def test_an_envelope_keeps_every_peak_and_every_gap() -> None:
    values = np.zeros(10_000)
    values[[1234, 7777]] = 5, -3
    values[4000:4200] = np.nan
    kept = envelope(values, 100)
    assert len(kept) <= 100 and (np.diff(kept) > 0).all()
    assert {1234, 7777} <= set(kept.tolist())
    assert np.isnan(values[kept]).any()
    assert envelope(values[:50], 100).tolist() == list(range(50))


def test_every_step_is_in_the_histogram_once() -> None:
    steps = {"key": [100.0, 130.0, 131.0], "propagated": [5.0] * 7}
    figure = strict_json(times_histogram(steps, quantity="step time, ms", marks={"period": 66.7}))
    bars = {trace["name"]: sum(trace["y"]) for trace in figure["data"]}
    assert bars == {"key (3)": 3, "propagated (7)": 7}
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < np.log10(5) and high > np.log10(131)


@pytest.mark.parametrize("steps", [{}, {"key": []}, {"key": [0.0]}, {"key": [7.0]}])
def test_a_histogram_of_hardly_anything_can_be_drawn(steps: dict[str, list[float]]) -> None:
    assert strict_json(times_histogram(steps, quantity="step time, ms"))


def test_points_stand_where_they_belong_and_the_front_joins_the_best() -> None:
    points = [Point("per-frame", 130, 0.65, 140, baseline=True), Point("fixed:4", 40, 0.6), Point("fixed:2", 80, 0.64)]
    figure = strict_json(accuracy_over_latency(points, accuracy="mIoU", latency="step time, ms", front=points))
    line, baseline, runs = figure["data"]
    assert (line["x"], line["y"]) == ([40, 80, 130], [0.6, 0.64, 0.65])
    assert (baseline["x"], baseline["y"], baseline["error_x"]["array"]) == ([130], [0.65], [10])
    assert (runs["x"], runs["y"], runs["text"]) == ([40, 80], [0.6, 0.64], ["fixed:4", "fixed:2"])
    assert strict_json(accuracy_over_latency([], accuracy="mIoU", latency="ms"))


def test_ages_without_a_score_are_gaps() -> None:
    figure = strict_json(by_age([Curve("run", [0.5, None, float("nan"), 0.25])], score="mIoU"))
    assert figure["data"][0]["y"] == [0.5, None, None, 0.25]


def test_names_cannot_become_markup_in_a_figure() -> None:
    figure = strict_json(by_age([Curve("<a href='x'>", [1.0])], score="<b>"))
    assert figure["data"][0]["name"].startswith("&lt;a") and figure["layout"]["yaxis"]["title"]["text"] == "&lt;b&gt;"


def test_what_was_not_measured_has_no_figure() -> None:
    names = {block.name for block in blocks_of(report(), frame_table())}
    assert names == {"accuracy-miou", "accuracy-ap50", "times", "age-miou", "age-ap50", "age-agreement", "timeline"}
    nothing = report(segmentation=None, detection=None, agreement=None, against_per_frame=None, baseline=None)
    assert {block.name for block in blocks_of(nothing, FrameTable())} == set()
    everywhere_a_key = frame_table(5, interval=1)
    assert {block.name for block in blocks_of(nothing, everywhere_a_key)} == {"times", "timeline"}
