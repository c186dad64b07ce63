"""Motion and temporal consistency, on pictures and class maps whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dff_ros.core.results import Detections, LabelMap
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.average_precision import ScoredFrame
from dff_ros.evaluation.measures.consistency import TemporalConsistency, warped
from dff_ros.evaluation.measures.motion import PICTURE_WIDTH, Motion, MotionMeter, group_of, small_picture
from dff_ros.evaluation.measures.object_motion import ap50_by_motion, boxes_by_motion, motion_ious
from dff_ros.recording.frames import StampedFrame

SECOND = 1_000_000_000


def scene(shift: int, width: int = 160) -> np.ndarray:
    """A texture seen ``shift`` pixels further to the right."""
    texture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 40, 3), np.uint8), (480, 120), interpolation=cv2.INTER_CUBIC)
    return texture[:, shift : shift + width]


def item(frame: np.ndarray, stamp: int, index: int = 0) -> StampedFrame:
    return StampedFrame(index=index, stamp=stamp, frame=frame, name="", frame_id="camera")


# ---- how fast the picture moves


def test_speed_is_in_widths_per_second_and_flow_points_back() -> None:
    meter = MotionMeter()
    assert meter.of(item(scene(0), SECOND)) is None
    motion = meter.of(item(scene(4), SECOND + SECOND // 2))
    assert motion is not None and motion.speed is not None
    assert np.median(motion.flow[..., 0]) == pytest.approx(4, abs=0.2)  # what is at x now was at x + 4
    assert motion.speed == pytest.approx(4 / 160 / 0.5, rel=0.1)
    assert motion.group == "medium"


def test_the_same_frame_may_be_asked_for_again() -> None:
    meter = MotionMeter()
    meter.of(item(scene(0), SECOND))
    second = item(scene(8), 2 * SECOND)
    assert meter.of(second) is meter.of(second) is not None


def test_without_a_stamp_there_is_flow_but_no_speed() -> None:
    meter = MotionMeter()
    meter.of(item(scene(0), 0))
    motion = meter.of(item(scene(8), SECOND))
    assert motion is not None and (motion.speed, motion.group) == (None, None)


def test_the_first_frame_of_another_size_has_no_motion() -> None:
    meter = MotionMeter()
    assert [meter.of(item(scene(0, width), stamp)) is None for stamp, width in enumerate((160, 160, 120, 120, 8, 8), 1)] == [
        *(True, False), *(True, False), *(True, True)
    ]  # fmt: skip


def test_large_pictures_are_made_small() -> None:
    assert small_picture(np.zeros((480, 640, 3), np.uint8)).shape == (240, PICTURE_WIDTH)
    assert small_picture(np.zeros((48, 64, 3), np.uint8)[..., ::-1]).shape == (48, 64)


@pytest.mark.parametrize(
    ("speed", "group"), [(0.0, "slow"), (0.019, "slow"), (0.02, "medium"), (0.099, "medium"), (0.1, "fast"), (9.0, "fast")]
)
def test_groups_have_limits(speed: float, group: str) -> None:
    assert group_of(speed) == group


# ---- temporal consistency


def shifted_left(pixels: float, height: int = 4, width: int = 4) -> Motion:
    flow = np.zeros((height, width, 2), np.float32)
    flow[..., 0] = pixels
    return Motion(flow, 1.0)


def maps(*rows: list[int]) -> LabelMap:
    return LabelMap(np.array(rows, np.uint8))


def test_class_ids_are_read_where_the_flow_points() -> None:
    before = np.array([[0, 1, 2, 3]] * 4, np.uint8)
    assert warped(before, shifted_left(1).flow).tolist() == [[1, 2, 3, 255]] * 4
    assert warped(before, shifted_left(0.4).flow).tolist() == before.tolist()


def test_maps_that_move_with_the_picture_are_consistent() -> None:
    consistency = TemporalConsistency(("a", "b"))
    consistency.add(maps(*[[0, 0, 1, 1]] * 4), None)
    consistency.add(maps(*[[0, 1, 1, 0]] * 4), shifted_left(1))  # the last column has come into sight
    assert (consistency.miou, consistency.flicker) == (1.0, 0.0)


def test_flicker_is_the_share_of_pixels_that_change_though_nothing_moves() -> None:
    consistency = TemporalConsistency(("a", "b", "c"))
    still = shifted_left(0)
    assert (consistency.miou, consistency.flicker) == (None, None)
    consistency.add(maps(*[[0, 0, 1, 1]] * 4), None)
    assert consistency.flicker is None
    consistency.add(maps(*[[0, 1, 1, 1]] * 4), still)
    consistency.add(maps(*[[0, 1, 1, 1]] * 4), still)
    # a: 3 columns before in two pairs (2 and 1), kept 2, never new; b: 2 + 3 before, kept 5, new 1
    assert consistency.iou == {"a": 2 / 3, "b": 5 / 6, "c": None}
    assert (consistency.miou, consistency.flicker) == (pytest.approx((2 / 3 + 5 / 6) / 2), pytest.approx(1 / 8))


def test_frames_without_an_answer_or_a_motion_begin_anew() -> None:
    consistency = TemporalConsistency(("a", "b"))
    for label_map, motion in (
        (maps(*[[0] * 4] * 4), None), (maps(*[[1] * 4] * 4), None), (None, shifted_left(0)), (maps(*[[0] * 4] * 4), shifted_left(0))
    ):  # fmt: skip
        consistency.add(label_map, motion)
    assert consistency.flicker is None
    consistency.add(maps(*[[0] * 4] * 4), shifted_left(0))
    assert consistency.flicker == 0.0


def test_maps_are_compared_at_the_size_of_the_flow() -> None:
    consistency = TemporalConsistency(("a", "b"))
    large = LabelMap(np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]] * 8, 1, axis=0).astype(np.uint8))
    consistency.add(large, None)
    consistency.add(large, shifted_left(0))
    assert (consistency.miou, consistency.flicker) == (1.0, 0.0)


# ---- how fast objects move


def frame_of(index: int, found: list[tuple[float, ...]], truth: dict[int, tuple[float, ...]], *, identified: bool = True) -> ScoredFrame:
    boxes, ids = np.array(list(truth.values()), np.float64).reshape(-1, 4), np.array(list(truth), np.int64)
    known = ClassBoxes(boxes, np.zeros(len(boxes), bool), ids=ids if identified else None)
    answers = Detections(np.array(found, np.float32).reshape(-1, 4), np.full(len(found), 0.9, np.float32), np.zeros(len(found), np.int64))
    return ScoredFrame(answers, {0: known}, index)


def walking(index: int, step: float, top: float = 0.0) -> tuple[float, float, float, float]:
    return step * index, top, step * index + 10, top + 10


def test_motion_iou_is_the_mean_overlap_with_the_object_itself_in_ten_frames_around() -> None:
    # Shifted by 2 of 10 the overlap is 8 / 12, by 4 it is 6 / 14.
    frames = [frame_of(index, [], {7: walking(index, 2.0)}) for index in range(3)]
    ious = motion_ious(frames)
    assert ious[1, 0, 7] == pytest.approx(8 / 12)
    assert ious[0, 0, 7] == ious[2, 0, 7] == pytest.approx((8 / 12 + 6 / 14) / 2)
    apart = [frame_of(index, [], {7: walking(0, 0.0)}) for index in (0, 11, 21)]
    assert motion_ious(apart) == {(11, 0, 7): 1.0, (21, 0, 7): 1.0}


def test_objects_are_grouped_by_their_motion_iou() -> None:
    """One stands, one moves by 1 of 10 a frame (.82 overlap), one by 5 (.33); the medium one is never found."""
    still, medium, fast = ([walking(index, step, 100 * step) for index in (0, 1)] for step in (0.0, 1.0, 5.0))
    frames = [frame_of(index, [still[index], fast[index]], {1: still[index], 2: medium[index], 3: fast[index]}) for index in (0, 1)]
    assert boxes_by_motion(frames) == {"slow": 2, "medium": 2, "fast": 2}
    found = ap50_by_motion(frames)
    assert found == {"slow": pytest.approx(1), "medium": 0, "fast": pytest.approx(1)}, "others of the truth are ignored"


def test_false_boxes_count_in_every_group() -> None:
    frames = [frame_of(index, [(300, 300, 310, 310), walking(0, 0.0)], {1: walking(0, 0.0)}) for index in (0, 1)]
    assert ap50_by_motion(frames) == {"slow": pytest.approx(1 / 2), "medium": None, "fast": None}


def test_without_ids_nobody_knows_how_fast_objects_are() -> None:
    frames = [frame_of(index, [walking(0, 0.0)], {1: walking(0, 0.0)}, identified=False) for index in (0, 1)]
    assert (boxes_by_motion(frames), ap50_by_motion(frames)) == (None, None)
