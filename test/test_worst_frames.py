"""The worst frames of a replay: which they are, how little of them is kept, and what their pictures show."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from conftest import tiny_card
from numpy.typing import NDArray

from dff_ros.core.results import Detections, LabelMap
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.ground_truth.truth import ClassBoxes, FrameTruth
from dff_ros.evaluation.measures.frame_loss import boxes_right, loss_of
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.evaluation.outputs.worst_frames import KEPT, LONGEST_SIDE, WorstFrames
from dff_ros.recording.frames import StampedFrame
from dff_ros.report.box_match import box_iou, unmatched
from dff_ros.report.pictures import GAINED, LOST, OTHER, Answer, difference

HEIGHT, WIDTH = 20, 50
NOTHING = FrameTruth(None, {})


def detections(*boxes: tuple[float, float, float, float], label: int = 0, score: float = 0.9) -> Detections:
    count = len(boxes)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.full(count, label, np.int64))


def answer(labels: NDArray[np.uint8] | None = None, boxes: Detections | None = None, *, age: int = 1) -> FrameResult:
    shown = None if labels is None else LabelMap(labels)
    times = {"step_ms": 1.0, "feature_ms": 0.0, "flow_ms": 0.0, "refine_ms": 0.0, "head_ms": 0.0, "key_ms": 1.0}
    key = {"is_key": not age, "reason": "", "key_age_frames": age, "key_age_ms": 0.0, "motion_px": 2.5, "disagreement": None}
    return FrameResult(stamp=1, detections=boxes, label_map=shown, **key, **times)  # type: ignore[arg-type]


def frame(index: int, height: int = HEIGHT, width: int = WIDTH) -> StampedFrame:
    return StampedFrame(index, 1 + index, np.full((height, width, 3), 90, np.uint8), "", "camera")


def differing(index: int, pixels: int) -> AnsweredFrame:
    """A frame on which the run gives ``pixels`` pixels another class than per-frame."""
    own = np.full((HEIGHT, WIDTH), 3, np.uint8)
    run = own.copy()
    run.flat[:pixels] = 8
    return AnsweredFrame(frame(index), answer(run), answer(own), NOTHING)


def shown_of(losses: Iterable[int], *, apart: int) -> list[int]:
    """Indices of the frames that are shown, when frame i loses ``losses[i]`` pixels."""
    worst = WorstFrames(tiny_card(), apart=apart, score_threshold=0.5)
    for index, pixels in enumerate(losses):
        worst.add(differing(index, pixels))
    return [int(item.title.split()[1].rstrip(",")) for item in worst.frames()]


def test_the_worst_come_first() -> None:
    assert shown_of([5, 900, 0, 20, 300], apart=1) == [1, 4, 3, 0]  # frame 2 loses nothing


def test_ten_are_kept_of_many_and_they_are_the_worst() -> None:
    losses = np.random.default_rng(0).permutation(200) + 1
    assert shown_of(losses.tolist(), apart=1) == np.argsort(-losses)[:KEPT].tolist()


def test_frames_of_one_moment_are_shown_once_by_their_worst() -> None:
    assert shown_of([0, 10, 50, 40, 0, 0, 0, 30, 0], apart=4) == [2, 7]


@pytest.mark.parametrize("seed", range(5))
def test_shown_frames_keep_their_distance_and_the_very_worst_is_among_them(seed: int) -> None:
    losses = np.random.default_rng(seed).integers(0, HEIGHT * WIDTH, 300)
    shown = shown_of(losses.tolist(), apart=7)
    assert len(shown) == KEPT and shown[0] == int(losses.argmax())
    assert np.diff(sorted(shown)).min() >= 7
    assert [losses[index] for index in shown] == sorted((losses[index] for index in shown), reverse=True)


def test_little_is_kept_of_large_frames() -> None:
    worst = WorstFrames(tiny_card(), apart=1, score_threshold=0.5)
    for index in range(KEPT + 3):
        labels = np.zeros((1080, 1920), np.uint8)
        other = labels.copy()
        other[: index + 1] = 8
        shown = detections((960, 540, 1920, 1080))
        worst.add(AnsweredFrame(frame(index, 1080, 1920), answer(other, shown), answer(labels, shown), FrameTruth(labels, {})))
    pictures = worst.frames()[0].pictures
    assert [picture.title for picture in pictures] == ["per-frame", "this run", "difference", "truth"]
    for picture in pictures:
        content = np.frombuffer(base64.b64decode(picture.uri.removeprefix("data:image/webp;base64,")), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR).shape == (315, LONGEST_SIDE, 3)


def test_truth_by_labels_comes_before_boxes_and_boxes_before_agreement() -> None:
    truth = np.full((HEIGHT, WIDTH), 3, np.uint8)
    truth[:10] = 255
    run, own = truth.copy(), truth.copy()
    run[10:15] = 8  # half of what is labelled
    own[10] = 8  # a tenth
    boxes = {0: ClassBoxes(np.array([[0.0, 0, 10, 10]]), np.zeros(1, bool))}
    results = answer(run, detections()), answer(own, detections((0, 0, 10, 10)))
    by_labels = loss_of(AnsweredFrame(frame(0), *results, FrameTruth(truth, boxes)), 0.5)
    by_boxes = loss_of(AnsweredFrame(frame(0), *results, FrameTruth(None, boxes)), 0.5)
    by_pixels = loss_of(AnsweredFrame(frame(0), *results, NOTHING), 0.5)
    assert by_labels and by_boxes and by_pixels
    assert by_labels.share == pytest.approx(0.4) and by_labels.words == "50.0% of the labelled pixels are right, with per-frame 90.0%"
    assert by_boxes.share == 1 and by_boxes.words == "F1 of the boxes is 0.00, with per-frame 1.00"
    assert by_pixels.share == pytest.approx(4 * WIDTH / (HEIGHT * WIDTH))
    assert by_labels > by_boxes > by_pixels


def test_without_per_frame_what_is_wrong_is_lost_and_without_truth_nothing_is_known() -> None:
    truth = np.full((HEIGHT, WIDTH), 3, np.uint8)
    run = truth.copy()
    run[:5] = 8
    alone = loss_of(AnsweredFrame(frame(0), answer(run), None, FrameTruth(truth, {})), 0.5)
    assert alone and alone.share == pytest.approx(0.25)
    assert loss_of(AnsweredFrame(frame(0), answer(run), None, NOTHING), 0.5) is None


def test_detections_alone_are_compared_by_their_boxes() -> None:
    mine, own = detections((0, 0, 10, 10), (20, 0, 30, 10)), detections((0, 0, 10, 10))
    loss = loss_of(AnsweredFrame(frame(0), answer(None, mine), answer(None, own), NOTHING), 0.5)
    assert loss and loss.share == pytest.approx(1 - 2 / 3)
    weak = detections((20, 0, 30, 10), score=0.3)
    assert loss_of(AnsweredFrame(frame(0), answer(None, weak), answer(None, detections()), NOTHING), 0.5).share == 0  # type: ignore[union-attr]


def test_ignored_and_unknown_boxes_neither_count_nor_punish() -> None:
    unknown = np.zeros((HEIGHT, WIDTH), bool)
    unknown[:, 40:] = True
    known = ClassBoxes(np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]]), np.array([False, True]), unknown)
    assert boxes_right(detections((0, 0, 10, 10)), {0: known}) == 1
    assert boxes_right(detections((0, 0, 10, 10), (20, 0, 30, 10)), {0: known}) == 1  # the ignored one, found
    assert boxes_right(detections((0, 0, 10, 10), (22, 2, 25, 5)), {0: known}) == 1  # a part of the ignored one
    assert boxes_right(detections((0, 0, 10, 10), (42, 0, 48, 10)), {0: known}) == 1  # where nobody knows
    assert boxes_right(detections((0, 0, 10, 10), (12, 12, 18, 18)), {0: known}) == pytest.approx(2 / 3)
    assert boxes_right(detections((0, 0, 10, 10), label=1), {0: known}) == 0  # of a class that truth does not cover, and one missed


def test_each_box_is_taken_once_by_the_best() -> None:
    one = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    other = np.array([[0, 0, 10, 10], [51, 50, 61, 60]], np.float32)
    assert box_iou(one, other)[2].tolist() == pytest.approx([0, 90 / 110])
    alone, missed = unmatched(one, None, other, None)
    assert alone.tolist() == [False, True, False] and not missed.any()
    labels = np.array([1, 1, 2]), np.array([1, 1])
    assert unmatched(one, labels[0], other, labels[1])[0].tolist() == [False, True, True]
    assert unmatched(one[:0], None, other, None)[1].all()


def test_the_difference_tells_lost_from_gained() -> None:
    truth = np.array([[1, 1, 1, 255, 1]], np.uint8).repeat(4, axis=0)
    run = np.array([[1, 2, 1, 2, 2]], np.uint8).repeat(4, axis=0)
    own = np.array([[1, 1, 2, 1, 3]], np.uint8).repeat(4, axis=0)
    plain = np.full((4, 5, 3), 90, np.uint8)
    shown = difference(plain, Answer(run), Answer(own), Answer(truth))
    assert shown[0, 0].tolist() == [65, 65, 65]
    assert [tuple(pixel) for pixel in shown[0, 1:].tolist()] == [LOST, GAINED, OTHER, OTHER]
    without_truth = difference(plain, Answer(run), Answer(own), None)
    assert [tuple(pixel) for pixel in without_truth[0, 1:].tolist()] == [OTHER] * 4
    without_baseline = difference(plain, Answer(run), None, Answer(truth))
    assert [tuple(pixel) == LOST for pixel in without_baseline[0].tolist()] == [False, True, False, False, True]


def test_a_missed_box_is_outlined_as_lost() -> None:
    plain = np.full((40, 40, 3), 90, np.uint8)
    box = detections((5, 5, 30, 30))
    own = Answer(None, box.boxes, box.labels, box.scores)
    none = Answer(None, box.boxes[:0], box.labels[:0], box.scores[:0])
    assert tuple(difference(plain, none, own, None)[5, 15].tolist()) == LOST
    assert tuple(difference(plain, own, none, None)[5, 15].tolist()) == GAINED
    assert difference(plain, own, own, None)[5, 15].tolist() == [65, 65, 65]
