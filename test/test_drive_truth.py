"""The truth of a generated drive, in the classes of a model."""

from __future__ import annotations

import numpy as np
import pytest

from dff_ros.evaluation.ground_truth.drive_truth import DriveBoxes, DriveLabels, drive_truth
from dff_ros.evaluation.ground_truth.truth import TruthError
from dff_ros.recording.drive import CLASS_NAMES, DriveFrame, GeneratedDrive
from dff_ros.recording.frames import StampedFrame


@pytest.fixture(scope="module")
def drawn() -> DriveFrame:
    """A busy street watched by a camera that stands still."""
    return GeneratedDrive(3, 60, width=320, height=240).frame(30)


def test_labels_are_the_drives_where_the_classes_are(drawn: DriveFrame) -> None:
    assert (DriveLabels(CLASS_NAMES, ignored=()).labels_of(drawn) == drawn.labels).all()


def test_labels_follow_the_names_of_the_models_classes(drawn: DriveFrame) -> None:
    found = DriveLabels(("car", "water", "road", "sky"), ignored=(3,)).labels_of(drawn)
    assert ((found == 0) == (drawn.labels == CLASS_NAMES.index("car"))).all()
    assert ((found == 2) == (drawn.labels == CLASS_NAMES.index("road"))).all()
    assert set(np.unique(found)) == {0, 2, 255}


def test_boxes_come_with_their_ids(drawn: DriveFrame) -> None:
    found = DriveBoxes("car").boxes_of(drawn)
    cars = drawn.box_labels == 1
    counted = ~found.ignored
    assert cars.sum() > 2
    assert (found.boxes[counted] == drawn.boxes[cars]).all()
    assert found.ids is not None and (found.ids[counted] == drawn.box_ids[cars]).all()


@pytest.mark.parametrize(("name", "label"), [("person", "pedestrian"), ("car", "car"), ("bicyclist", "bicyclist")])
def test_every_pixel_of_a_kind_lies_in_a_box_that_counts_or_is_ignored(drawn: DriveFrame, name: str, label: str) -> None:
    covered = np.zeros(drawn.labels.shape, bool)
    found = DriveBoxes(name).boxes_of(drawn)
    for left, top, right, bottom in found.boxes.astype(int):
        covered[top:bottom, left:right] = True
    pixels = drawn.labels == CLASS_NAMES.index(label)
    assert pixels.any()
    assert covered[pixels].all()


def test_something_is_too_small_for_a_box(drawn: DriveFrame) -> None:
    assert any(DriveBoxes(name).boxes_of(drawn).ignored.any() for name in ("person", "car", "bicyclist"))


def test_a_model_of_other_things_has_no_truth_there(drawn: DriveFrame) -> None:
    assert drive_truth(("cat", "dog"), ("cat",), ()) == (None, [])
    labels, boxes = drive_truth(("road",), ("car", "cat"), ())
    assert labels is not None and [source.class_name for source in boxes] == ["car"]


def test_frames_of_other_recordings_are_refused() -> None:
    other = StampedFrame(4, 1, np.zeros((4, 4, 3), np.uint8), "", "camera")
    with pytest.raises(TruthError, match="frame 4 is not of a generated drive"):
        DriveBoxes("car").boxes_of(other)
