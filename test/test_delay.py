"""Detection delay on cases worked out by hand: who appears when, who is found when, and what that makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dff_ros.core.results import Detections
from dff_ros.evaluation.ground_truth.truth import ClassBoxes
from dff_ros.evaluation.measures.delay import REAPPEARANCE_GAP, DelayFigures, DetectionDelay, detected

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
PERSON, CAR = 0, 1


def box_of(identity: int) -> tuple[float, float, float, float]:
    """Objects stand apart, each at the place of its id, and do not move."""
    return 100.0 * identity, 0.0, 100.0 * identity + 20, 40.0


def truth(*identities: int, ignored: Sequence[int] = (), label: int = PERSON) -> dict[int, ClassBoxes]:
    boxes = np.array([box_of(identity) for identity in identities], np.float64).reshape(-1, 4)
    marks = np.array([identity in ignored for identity in identities], bool)
    return {label: ClassBoxes(boxes, marks, ids=np.array(identities, np.int64))}


def seen(*identities: int, score: float = 0.9, label: int = PERSON) -> Detections:
    boxes = np.array([box_of(identity) for identity in identities], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), score, np.float32), np.full(len(boxes), label, np.int64))


def follow(interval: int, present: Sequence[Sequence[int]], per_frame: Sequence[Sequence[int]], *, blind: bool = True) -> DelayFigures:
    """A recording in which propagation knows (``blind``) what per-frame saw in the key frame, or all that per-frame sees."""
    delay = DetectionDelay(interval, score_threshold=0.5)
    for frame, here in enumerate(present):
        ages = range(min(frame + 1, interval))
        delay.add(truth(*here), [seen(*(per_frame[frame - age if blind else frame])) for age in ages])
    return delay.figures()


def test_an_object_is_found_with_the_first_key_frame_after_it_appeared() -> None:
    """It appears in frame 5 of interval 4. Keys of phase 0 are 0, 4, 8: found 3 frames late; of phases 1, 2, 3: 5, 6, 7."""
    present = [[]] * 5 + [[7]] * 10
    figures = follow(4, present, present)
    assert figures.histogram == {0: 1, 1: 1, 2: 1, 3: 1}
    assert (figures.mean, figures.appearances, figures.missed) == (1.5, 1, 0.0)
    assert figures.p90 == pytest.approx(2.7)
    assert figures.by_age == [0, 3, 2, 1]  # a key of age 0 shows it at once, one of age 1 has just missed it


def test_where_propagation_shows_new_objects_there_is_no_delay() -> None:
    present = [[]] * 5 + [[7]] * 10
    figures = follow(4, present, present, blind=False)
    assert (figures.mean, figures.p90, figures.histogram) == (0.0, 0.0, {0: 4})


def test_the_first_frame_is_a_key_in_every_phase() -> None:
    """It appears in frame 1. Keys of phase 1 and 2 are 1 and 2; of phase 0 and 3, in which frame 0 is one too, 4 and 3."""
    figures = follow(4, [[]] + [[7]] * 9, [[]] + [[7]] * 9)
    assert figures.histogram == {0: 1, 1: 1, 2: 1, 3: 1}
    assert figures.by_age == [0.0, 2.0, None, None]  # the keys are 0 or 1 frames old there


def test_the_delay_counts_from_per_frames_detection() -> None:
    """In truth from frame 4 on, per-frame finds it in frame 6."""
    present, found = [[]] * 4 + [[7]] * 10, [[]] * 6 + [[7]] * 8
    assert follow(2, present, found).histogram == {0: 1, 1: 1}


def test_what_per_frame_never_finds_does_not_count() -> None:
    figures = follow(2, [[]] * 2 + [[7]] * 6, [[]] * 8)
    assert (figures.appearances, figures.mean, figures.p90, figures.missed, figures.histogram) == (0, None, None, None, {})
    assert figures.by_age == [None, None]


def test_an_earlier_detection_is_a_negative_delay() -> None:
    """Per-frame finds it in frame 4 alone; in frame 3 propagation did, from whatever key."""
    delay = DetectionDelay(2, score_threshold=0.5)
    for frame in range(8):
        answers = [seen(7) if frame == 4 else NOTHING, seen(7) if frame == 3 else NOTHING]
        delay.add(truth(7) if frame >= 2 else truth(), answers[: frame + 1])
    # Phase 0 has key 4 and was first to answer in frame 3 from key 2 (age 1); phase 1 has key 3 and finds nothing in 4 (age 1).
    figures = delay.figures()
    assert figures.histogram == {-1: 1, 4: 1}
    assert figures.by_age == [-1, 4]
    assert figures.missed == 0.5


def test_a_missed_object_counts_until_it_has_left() -> None:
    """It is there in frames 3, 4 and 5, which are keys of phases 3, 0 and 1; phase 2 never sees it: 6 - 3 frames."""
    present = [[], [], [], [7], [7], [7], [], [], [], []]
    figures = follow(4, present, present)
    assert figures.histogram == {0: 1, 1: 1, 2: 1, 3: 1}
    assert figures.missed == 0.25


def test_an_object_still_there_at_the_end_is_missed_from_then_on() -> None:
    figures = follow(4, [[]] * 6 + [[7], [7]], [[]] * 6 + [[7], [7]])
    assert figures.histogram == {0: 1, 1: 1, 2: 2}  # keys 6 and 7; phases 0 and 1 would be 8 and 9
    assert figures.missed == 0.5


def test_objects_of_the_first_frame_have_not_appeared() -> None:
    present = [[7]] * 6
    assert follow(2, present, [[]] * 2 + [[7]] * 4).appearances == 0


@pytest.mark.parametrize(("gap", "appearances"), [(REAPPEARANCE_GAP - 1, 0), (REAPPEARANCE_GAP, 1)])
def test_an_object_that_comes_back_after_a_long_gap_appears_anew(gap: int, appearances: int) -> None:
    present = [[7]] * 3 + [[]] * gap + [[7]] * 6
    figures = follow(3, present, present)
    assert figures.appearances == appearances


@pytest.mark.parametrize(("gap", "appearances"), [(19, 0), (20, 1)])
def test_with_keys_further_apart_the_gap_is_an_interval(gap: int, appearances: int) -> None:
    present = [[7]] * 3 + [[]] * gap + [[7]] * 6
    assert follow(20, present, present).appearances == appearances


def test_a_short_gap_interrupts_nothing() -> None:
    """Without a box in frames 4 and 5, which are the keys of phases 0 and 1: these find it with their next ones, 8 and 9."""
    present = [[], [], [], [7], [], [], *[[7]] * 6]
    figures = follow(4, present, present)
    assert (figures.appearances, figures.missed) == (1, 0.0)
    assert figures.histogram == {0: 1, 3: 1, 5: 1, 6: 1}


def test_objects_are_told_apart() -> None:
    present = [[]] * 2 + [[1]] * 3 + [[1, 2]] * 5
    figures = follow(2, present, present)
    assert (figures.appearances, figures.histogram) == (2, {0: 2, 1: 2})


def test_ignored_objects_do_not_count() -> None:
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(4):
        delay.add(truth(7, ignored=[7]) if frame else truth(), [seen(7)])
    assert delay.figures().appearances == 0


def test_truth_that_begins_later_shows_nobody_appear_in_its_first_frame() -> None:
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(8):
        known = truth(7) if 3 <= frame < 5 else truth(7, 8)
        delay.add(known if frame >= 3 else {}, [seen(7, 8)])
    assert delay.figures().appearances == 1  # 8, not 7


def test_objects_without_identity_do_not_count() -> None:
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(4):
        known = truth(7)[PERSON] if frame else truth()[PERSON]
        delay.add({PERSON: ClassBoxes(known.boxes, known.ignored)}, [seen(7)])
    assert delay.figures().appearances == 0


def test_detections_below_the_threshold_do_not_count() -> None:
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(6):
        delay.add(truth(7) if frame else truth(), [seen(7, score=0.49 if frame < 4 else 0.5)])
    assert delay.figures().histogram == {0: 1}
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(6):
        delay.add(truth(7) if frame else truth(), [seen(7, score=0.49)])
    assert delay.figures().appearances == 0


def test_objects_that_per_frame_sees_too_seldom_have_not_appeared() -> None:
    for times, appearances in ((2, 0), (3, 1)):
        delay = DetectionDelay(1, score_threshold=0.5, least_seen=3)
        for frame in range(6):
            delay.add(truth(7) if frame else truth(), [seen(7) if 0 < frame <= times else NOTHING])
        assert delay.figures().appearances == appearances


def test_a_wrong_number_of_answers_is_refused() -> None:
    delay = DetectionDelay(3, score_threshold=0.5)
    delay.add(truth(), [NOTHING])
    with pytest.raises(ValueError, match="answers should be 2, got 3"):
        delay.add(truth(), [NOTHING] * 3)


def test_only_objects_in_sight_are_held() -> None:
    delay = DetectionDelay(1, score_threshold=0.5)
    for frame in range(200):
        delay.add(truth(frame), [NOTHING])
    assert len(delay._open) <= REAPPEARANCE_GAP


# ---- which object a detection meets


def one(box: tuple[float, float, float, float], label: int = PERSON) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.9], np.float32), np.array([label], np.int64))


def test_half_an_overlap_is_a_match() -> None:
    known = truth(1)  # 100..120 x 0..40
    assert detected(known, one((100, 0, 120, 20))) == {(PERSON, 1)}
    assert detected(known, one((100, 0, 120, 19))) == frozenset()
    assert detected(known, one((100, 0, 120, 40), CAR)) == frozenset()


def test_one_detection_shows_one_object() -> None:
    boxes = np.array([[0, 0, 20, 40], [4, 0, 24, 40]], np.float64)  # they overlap by two thirds
    known = {PERSON: ClassBoxes(boxes, np.zeros(2, bool), ids=np.array([1, 2]))}
    assert detected(known, one((0, 0, 20, 40))) == {(PERSON, 1)}
    twice = Detections(boxes[[0, 0]].astype(np.float32), np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    assert detected(known, twice) == {(PERSON, 1), (PERSON, 2)}
