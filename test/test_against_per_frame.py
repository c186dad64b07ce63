"""Per-frame's answers in the place of truth, on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dff_ros.core.results import Detections, LabelMap
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.measures.against_per_frame import AgainstPerFrame, as_truth
from dff_ros.evaluation.measures.iou_tracker import PATIENCE, IouTracker

SEGMENTATION, DETECTION = ("road", "car"), ("person", "car")
LEFT, RIGHT, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def found(*rows: tuple[tuple[float, float, float, float], float], label: int = 0) -> Detections:
    """Boxes with their scores."""
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([score for _, score in rows], np.float32), np.full(len(rows), label, np.int64))


def answer(detections: Detections | None = None, labels: list[int] | None = None) -> FrameResult:
    label_map = None if labels is None else LabelMap(np.array([labels], np.uint8))
    return FrameResult(
        stamp=0, is_key=False, reason="", key_age_frames=0, key_age_ms=0.0, key_ms=0.0, motion_px=None, disagreement=None,
        detections=detections, label_map=label_map, step_ms=0.0, feature_ms=0.0, flow_ms=0.0, refine_ms=0.0, head_ms=0.0,
    )  # fmt: skip


def against(per_frame: Detections, run: Detections) -> AgainstPerFrame:
    scores = AgainstPerFrame(SEGMENTATION, DETECTION, score_threshold=0.5)
    scores.add(answer(run), answer(per_frame), age=0)
    return scores


def ap50(per_frame: Detections, run: Detections) -> float | None:
    return against(per_frame, run).detection.precision(average_ages=False).map50


def test_boxes_that_per_frame_would_publish_are_to_be_found() -> None:
    both = found((LEFT, 0.9), (RIGHT, 0.5))
    assert ap50(both, both) == pytest.approx(1)
    assert ap50(both, found((LEFT, 0.9))) == pytest.approx(51 / 101)
    assert ap50(both, found((FAR, 0.9), (LEFT, 0.8), (RIGHT, 0.7))) == pytest.approx(2 / 3)  # right, right after one that is wrong
    assert against(both, both).detection.boxes(average_ages=False) == {"person": 2, "car": 0}


def test_boxes_that_per_frame_doubts_neither_count_nor_punish() -> None:
    doubted = found((LEFT, 0.9), (RIGHT, 0.4))
    assert ap50(doubted, found((LEFT, 0.9))) == pytest.approx(1)
    assert ap50(doubted, found((RIGHT, 0.95), (LEFT, 0.9))) == pytest.approx(1)
    assert ap50(doubted, found((FAR, 0.95), (LEFT, 0.9))) == pytest.approx(1 / 2)
    assert ap50(found((LEFT, 0.4)), found((LEFT, 0.9))) is None


def test_a_box_of_another_class_agrees_with_nothing() -> None:
    assert ap50(found((LEFT, 0.9)), found((LEFT, 0.9), label=1)) == 0
    known = as_truth(found((LEFT, 0.9), label=1), 2, 0.5)
    assert [len(known[label].boxes) for label in (0, 1)] == [0, 1]


def test_each_frame_is_held_against_its_own_boxes() -> None:
    scores = AgainstPerFrame(SEGMENTATION, DETECTION, score_threshold=0.5)
    for box in (LEFT, RIGHT):
        scores.add(answer(found((box, 0.9))), answer(found((box, 0.9))), age=0)
    assert scores.detection.precision(average_ages=False).map50 == pytest.approx(1)


def test_class_maps_are_compared_by_age() -> None:
    scores = AgainstPerFrame(SEGMENTATION, DETECTION, score_threshold=0.5)
    scores.add(answer(labels=[0, 0, 1, 1]), answer(labels=[0, 0, 1, 1]), age=0)
    scores.add(answer(labels=[0, 1, 1, 1]), answer(labels=[0, 0, 0, 1]), age=2)
    assert (scores.agreement, scores.agreement_by_age()) == (6 / 8, [1.0, None, 1 / 2])
    assert scores.segmentation.iou(average_ages=False) == {"road": 3 / 5, "car": 3 / 5}
    assert scores.segmentation.recall(average_ages=False) == {"road": 3 / 5, "car": 1.0}


def test_what_one_of_them_does_not_answer_is_not_compared() -> None:
    scores = AgainstPerFrame(SEGMENTATION, DETECTION, score_threshold=0.5)
    scores.add(answer(found()), answer(labels=[0]), age=0)
    assert (scores.agreement, bool(scores.segmentation), bool(scores.detection)) == (None, False, False)


# ---- which object is which


def moved(box: tuple[float, float, float, float], by: float) -> tuple[float, float, float, float]:
    return box[0] + by, box[1], box[2] + by, box[3]


def test_a_box_goes_on_the_track_that_it_overlaps_most() -> None:
    tracker = IouTracker()
    assert tracker.ids_of(found((LEFT, 0.9), (RIGHT, 0.8))).tolist() == [0, 1]
    assert tracker.ids_of(found((moved(RIGHT, -3), 0.9), (moved(LEFT, 3), 0.8))).tolist() == [1, 0]  # 7 of 13 overlap
    assert tracker.ids_of(found((moved(RIGHT, 4), 0.9))).tolist() == [2], "shifted by 7 of 10 in one frame, 3 of 17 overlap"


def test_a_track_takes_one_box_of_its_class_the_best_score_first() -> None:
    tracker = IouTracker()
    tracker.ids_of(found((LEFT, 0.9)))
    assert tracker.ids_of(found((moved(LEFT, 2), 0.9), (LEFT, 0.8))).tolist() == [0, 1]
    assert tracker.ids_of(found((LEFT, 0.9), label=1)).tolist() == [2]


@pytest.mark.parametrize(("unseen", "identity"), [(PATIENCE - 1, 0), (PATIENCE, 1)])
def test_a_track_ends_when_nothing_was_seen_of_it_for_long(unseen: int, identity: int) -> None:
    tracker = IouTracker()
    for detections in (found((LEFT, 0.9)), *[found()] * unseen):
        tracker.ids_of(detections)
    assert tracker.ids_of(found((LEFT, 0.9))).tolist() == [identity]


def test_only_boxes_that_per_frame_would_publish_are_followed() -> None:
    scores = AgainstPerFrame(SEGMENTATION, DETECTION, score_threshold=0.5)
    for score in (0.9, 0.4, 0.9):
        per_frame = found((RIGHT, 0.95), (LEFT, score))
        for _age in (0, 1):
            known = scores.truth_of(per_frame)[0]
            assert known.ids is not None and known.ids.tolist() == [0, 1 if score > 0.5 else -1]
