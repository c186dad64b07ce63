"""The scores against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dff_ros.core.results import Detections
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.average_precision import DetectionScore, ScoredFrame, average_precision
from dff_ros.evaluation.measures.metrics import (
    Agreement,
    ConfusionMatrix,
    SegmentationScore,
    curve,
    describe,
    difference,
    mean_or_none,
)

IGNORED = 255


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def detections(*rows: tuple[float, float, float, float, float], label: int = 0) -> Detections:
    """x1, y1, x2, y2, score each."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], np.full(len(rows), label, np.int64))


def boxes(*rows: tuple[float, float, float, float], ignored: tuple[int, ...] = (), unknown: np.ndarray | None = None) -> ClassBoxes:
    return ClassBoxes(np.array(rows, np.float64).reshape(-1, 4), np.isin(np.arange(len(rows)), ignored), unknown)


# ---- segmentation


def test_iou_of_two_by_two_label_maps() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids([0, 0], [1, 1]), ids([0, 1], [1, 1]))
    # class 0: one pixel right of two true, none claimed beside; class 1: two right, one claimed beside; class 2 does not occur
    assert matrix.iou() == [1 / 2, 2 / 3, None]


def test_ignored_pixels_neither_count_nor_punish() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids([0, IGNORED], [1, IGNORED]), ids([0, 0], [1, 1]))
    assert matrix.iou() == [1.0, 1.0]


def test_pixels_left_unlabelled_are_misses_but_no_false_claims() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids([0, 0], [1, 1]), ids([0, 255], [1, 1]))
    assert matrix.iou() == [1 / 2, 1.0]


def test_a_class_claimed_but_not_in_the_truth_hurts_the_others_only() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids([0, 0], [0, 0]), ids([0, 0], [2, 2]))
    assert matrix.iou() == [1 / 2, None, None]


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2\) and \(1, 3\)"):
        ConfusionMatrix(2).add(ids([0, 0]), ids([0, 0, 0]))


def test_one_matrix_over_all_frames_and_one_for_each_age() -> None:
    score = SegmentationScore(("a", "b"))
    score.add(0, ids([0, 0, 0, 0]), ids([0, 0, 0, 0]))
    score.add(2, ids([0, 0, 1, 1]), ids([1, 0, 1, 1]))
    assert score.by_age() == [1.0, None, pytest.approx((1 / 2 + 2 / 3) / 2)]
    assert score.iou(average_ages=False) == {"a": pytest.approx(5 / 6), "b": pytest.approx(2 / 3)}
    assert score.iou(average_ages=True) == {"a": pytest.approx((1 + 1 / 2) / 2), "b": pytest.approx(2 / 3)}


def test_recall_and_pixels_of_each_class() -> None:
    score = SegmentationScore(("a", "b", "c"))
    score.add(0, ids([0, 0, 1, 1]), ids([0, 1, 1, 1]))
    score.add(1, ids([0, 0, 0, IGNORED]), ids([0, 0, 0, 0]))
    assert score.recall(average_ages=False) == {"a": 4 / 5, "b": 1.0, "c": None}
    assert score.recall(average_ages=True) == {"a": (1 / 2 + 1) / 2, "b": 1.0, "c": None}
    assert score.pixels(average_ages=False) == {"a": 5, "b": 2, "c": 0}


def test_a_score_without_frames_is_false() -> None:
    assert not SegmentationScore(("a",))
    assert not DetectionScore(("person", "car"))


# ---- detection


def frame_ap(found: Detections, true: ClassBoxes) -> tuple[float | None, float | None]:
    score = DetectionScore(("person", "car"))
    score.add(0, {0: true}, found)
    precision = score.precision(average_ages=False)
    return rounded(precision.map50), rounded(precision.map)


def rounded(value: float | None) -> float | None:
    """COCO adds an epsilon to the number of answers, so that a perfect AP is 1 - 2e-16."""
    return None if value is None else round(value, 9)


def test_perfect_boxes_have_ap_one() -> None:
    assert frame_ap(detections((0, 0, 10, 10, 0.9), (20, 0, 30, 10, 0.3)), boxes((0, 0, 10, 10), (20, 0, 30, 10))) == (1.0, 1.0)


def test_a_missed_box_halves_the_recall() -> None:
    # recall reaches 0.5: of COCO's 101 recall points 0, .01 .. .5 have precision 1
    map50, _ = frame_ap(detections((0, 0, 10, 10, 0.9)), boxes((0, 0, 10, 10), (20, 0, 30, 10)))
    assert map50 == pytest.approx(51 / 101)


def test_a_false_box_above_the_true_one_halves_the_precision() -> None:
    map50, _ = frame_ap(detections((50, 50, 60, 60, 0.9), (0, 0, 10, 10, 0.8)), boxes((0, 0, 10, 10)))
    assert map50 == pytest.approx(1 / 2)


def test_a_false_box_below_the_true_one_costs_nothing() -> None:
    assert frame_ap(detections((0, 0, 10, 10, 0.9), (50, 50, 60, 60, 0.8)), boxes((0, 0, 10, 10))) == (1.0, 1.0)


def test_a_second_box_on_the_same_object_is_false() -> None:
    # order: right, false (double), right: precision 2/3 where recall exceeds a half
    found = detections((0, 0, 10, 10, 0.9), (0, 0, 10, 10, 0.8), (20, 0, 30, 10, 0.7))
    map50, _ = frame_ap(found, boxes((0, 0, 10, 10), (20, 0, 30, 10)))
    assert map50 == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_overlap_decides_at_which_thresholds_a_box_counts() -> None:
    # 10 x 10 against 10 x 8: IoU .8, so right at .5 .55 .6 .65 .7 .75 .8 of the ten thresholds
    map50, map_all = frame_ap(detections((0, 0, 10, 8, 0.9)), boxes((0, 0, 10, 10)))
    assert map50 == 1.0
    assert map_all == pytest.approx(0.7)


def test_ignored_boxes_neither_count_nor_punish() -> None:
    true = boxes((0, 0, 10, 10), (20, 0, 28, 8), ignored=(1,))
    missed = detections((0, 0, 10, 10, 0.5))
    found = detections((20, 0, 28, 8, 0.9), (0, 0, 10, 10, 0.5))
    assert frame_ap(missed, true) == (1.0, 1.0)
    assert frame_ap(found, true) == (1.0, 1.0)


def test_a_box_in_unknown_pixels_is_left_out_unless_it_meets_a_true_one() -> None:
    unknown = np.zeros((100, 100), bool)
    unknown[:, 40:] = True
    true = boxes((0, 0, 10, 10), (50, 50, 60, 60), unknown=unknown)
    assert frame_ap(detections((80, 0, 90, 10, 0.9), (0, 0, 10, 10, 0.8), (50, 50, 60, 60, 0.7)), true) == (1.0, 1.0)
    known, _ = frame_ap(detections((20, 0, 30, 10, 0.9), (0, 0, 10, 10, 0.8), (50, 50, 60, 60, 0.7)), true)
    assert known == pytest.approx((51 * 2 / 3 + 50 * 2 / 3) / 101)


def test_masks_are_not_held_so_that_memory_stays_flat() -> None:
    score = DetectionScore(("person", "car"))
    score.add(0, {0: boxes((0, 0, 10, 10), unknown=np.zeros((100, 100), bool))}, detections((0, 0, 10, 10, 0.9)))
    assert [known.unknown for frame in score.frames(0) for known in frame.truth.values()] == [None]


def test_frames_known_to_be_empty_count_false_boxes() -> None:
    score = DetectionScore(("person", "car"))
    score.add(0, {0: boxes((0, 0, 10, 10))}, detections((0, 0, 10, 10, 0.5)))
    score.add(0, {0: boxes()}, detections((0, 0, 10, 10, 0.9)))
    assert score.precision(average_ages=False).map50 == pytest.approx(1 / 2)


def test_classes_without_truth_are_not_scored() -> None:
    score = DetectionScore(("person", "car"))
    score.add(0, {0: boxes((0, 0, 10, 10))}, detections((0, 0, 10, 10, 0.5)))
    score.add(0, {0: boxes()}, detections((0, 0, 10, 10, 0.9), label=1))
    assert score.precision(average_ages=False).map50 == pytest.approx(1)


def test_ap_is_the_mean_over_the_classes_that_have_boxes() -> None:
    found = detections((0, 0, 10, 10, 0.5))
    frame = ScoredFrame(found, {0: boxes((0, 0, 10, 10)), 1: boxes((20, 0, 30, 10)), 2: boxes()})
    assert average_precision([frame]).map50 == pytest.approx(1 / 2)


def test_ap_and_boxes_of_each_class_stand_under_its_name() -> None:
    score = DetectionScore(("person", "car", "bicyclist", "dog"))
    truth = {0: boxes((0, 0, 10, 10), (40, 0, 50, 10), ignored=(1,)), 1: boxes((20, 0, 30, 10)), 2: boxes()}
    for age in (0, 1):
        score.add(age, truth, detections((0, 0, 10, 10, 0.5)) if age else detections((20, 0, 30, 10, 0.5), label=1))
    nothing_else = {"bicyclist": None, "dog": None}
    precision = score.precision(average_ages=True)
    assert score.named(precision.by_class) == {"person": pytest.approx(0.5), "car": pytest.approx(0.5), **nothing_else}
    together = score.precision(average_ages=False).by_class
    assert score.named(together) == {"person": pytest.approx(51 / 101), "car": pytest.approx(51 / 101), **nothing_else}
    assert score.boxes(average_ages=False) == {"person": 2, "car": 2, "bicyclist": 0, "dog": None}
    assert score.boxes(average_ages=True) == {"person": 1, "car": 1, "bicyclist": 0, "dog": None}


def test_without_a_box_to_find_there_is_no_ap() -> None:
    assert frame_ap(detections((0, 0, 10, 10, 0.9)), boxes()) == (None, None)
    assert frame_ap(detections(), boxes((0, 0, 5, 5), ignored=(0,))) == (None, None)


def test_nothing_found_is_ap_zero() -> None:
    assert frame_ap(detections(), boxes((0, 0, 10, 10))) == (0.0, 0.0)


def test_scores_below_the_least_are_left_out() -> None:
    assert frame_ap(detections((0, 0, 10, 10, 0.04)), boxes((0, 0, 10, 10))) == (0.0, 0.0)


def test_ap_by_age_and_its_mean() -> None:
    score = DetectionScore(("person", "car"))
    score.add(0, {0: boxes((0, 0, 10, 10))}, detections((0, 0, 10, 10, 0.9)))
    score.add(1, {0: boxes((0, 0, 10, 10))}, detections())
    assert score.by_age() == [pytest.approx(1), 0]
    assert score.precision(average_ages=True).map50 == pytest.approx(0.5)
    assert score.precision(average_ages=False).map50 == pytest.approx(51 / 101)


# ---- the rest


def test_agreement_is_a_share_of_pixels_not_of_frames() -> None:
    agreement = Agreement()
    assert agreement.share is None
    agreement.add(ids([0, 1], [2, 3]), ids([0, 1], [2, 0]))
    agreement.add(ids([0, 0, 0, 0], [0, 0, 0, 0]), ids([0, 0, 0, 0], [0, 0, 0, 1]))
    assert agreement.share == 10 / 12
    assert (agreement + Agreement(2, 4)).share == 12 / 16


def test_curves_have_the_age_as_index_and_none_where_nothing_was_scored() -> None:
    assert curve({}) == []
    assert curve({0: 1.0, 3: 0.5}) == [1.0, None, None, 0.5]
    assert difference([1.0, None, 0.75], [0.5, 0.5, None]) == [0.5, None, None]
    assert mean_or_none([None, 1.0, 0.0]) == 0.5
    assert mean_or_none([None]) is None


def test_times_are_summarised() -> None:
    assert describe([1.0, 2.0, 3.0, 4.0, 100.0]) == {
        "mean": 22.0, "p50": 3.0, "p95": pytest.approx(80.8), "p99": pytest.approx(96.16), "max": 100.0
    }
    assert set(describe([]).values()) == {None}
