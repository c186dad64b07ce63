"""Ground truth read from tiny files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dff_ros.evaluation.ground_truth.box_table import BoxTable, read_box_table
from dff_ros.evaluation.ground_truth.image_truth import LabelImages, MaskBoxes, component_boxes, matched_images
from dff_ros.evaluation.ground_truth.row_boxes import of_the_model
from dff_ros.evaluation.ground_truth.truth import Truth, TruthError
from dff_ros.recording.frames import StampedFrame

CLASSES = ("sky", "road", "car")


def frame(index: int = 0, name: str = "", height: int = 4, width: int = 6) -> StampedFrame:
    return StampedFrame(index=index, stamp=1 + index, frame=np.zeros((height, width, 3), np.uint8), name=name, frame_id="camera")


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def labels(*, value: int = 0, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


# ---- which image belongs to which frame


def test_images_belong_to_frames_by_stem_then_by_trailing_number(tmp_path: Path) -> None:
    by_stem = write(tmp_path / "in000470.png", labels())
    by_number = write(tmp_path / "gt000471.png", labels())
    images = matched_images(tmp_path)
    assert images.find(frame(0, "in000470")) == by_stem
    assert images.find(frame(1, "in000471")) == by_number
    assert images.find(frame(2, "in000472")) is None
    assert images.find(frame(471, "unnumbered")) is None


def test_frames_without_a_name_are_numbered_by_their_index(tmp_path: Path) -> None:
    path = write(tmp_path / "mask_0007.png", labels())
    assert matched_images(tmp_path).find(frame(7)) == path


def test_two_images_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    for name in ("a_5.png", "b_5.png"):
        write(tmp_path / name, labels())
    images = matched_images(tmp_path)
    assert images.find(frame(0, "b_5")) == tmp_path / "b_5.png"
    with pytest.raises(TruthError, match="could both belong to frame c_5"):
        images.find(frame(0, "c_5"))


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="is not a folder"):
        matched_images(tmp_path / "none")
    with pytest.raises(TruthError, match="holds no image"):
        matched_images(tmp_path)


# ---- label images


def test_ignored_labels_become_255(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.array([[0, 1, 2, 11, 7, 255]] * 4, np.uint8))
    read = LabelImages(tmp_path, CLASSES, ignored=(11, 7)).labels_of(frame(0, "a"))
    assert read is not None
    assert read[0].tolist() == [0, 1, 2, 255, 255, 255]


def test_a_class_of_the_model_can_be_ignored(tmp_path: Path) -> None:
    write(tmp_path / "a.png", labels(value=1))
    read = LabelImages(tmp_path, CLASSES, ignored=(1,)).labels_of(frame(0, "a"))
    assert read is not None
    assert (read == 255).all()


def test_unlabelled_frames_have_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.png", labels())
    assert LabelImages(tmp_path, CLASSES, ignored=()).labels_of(frame(0, "b")) is None


def test_labels_that_no_class_has_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", labels(value=11))
    with pytest.raises(TruthError, match=r"a\.png has label 11; the model's classes are 0\.\.2"):
        LabelImages(tmp_path, CLASSES, ignored=()).labels_of(frame(0, "a"))


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", labels(height=5))
    with pytest.raises(TruthError, match=r"a\.png is 6x5, its frame a is 6x4"):
        LabelImages(tmp_path, CLASSES, ignored=()).labels_of(frame(0, "a"))


def test_grey_stored_as_colour_is_read_and_colour_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "grey.png", np.stack([labels(value=2)] * 3, axis=2))
    write(tmp_path / "colour.png", np.stack([labels(value=v) for v in (0, 1, 2)], axis=2))
    images = LabelImages(tmp_path, CLASSES, ignored=())
    read = images.labels_of(frame(0, "grey"))
    assert read is not None
    assert (read == 2).all()
    with pytest.raises(TruthError, match="one channel of 8-bit ids, got 4x6x3 uint8"):
        images.labels_of(frame(0, "colour"))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(TruthError, match=r"a\.png cannot be read as an image"):
        LabelImages(tmp_path, CLASSES, ignored=()).labels_of(frame(0, "a"))


# ---- a table of boxes


def table(path: Path, *rows: str, header: str = "frame,id,left,top,width,height") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def table_of(path: Path, class_name: str) -> BoxTable:
    (only,) = read_box_table(path, class_name)
    return only


def test_rows_become_boxes_and_frames_between_rows_are_empty(tmp_path: Path) -> None:
    source = table_of(table(tmp_path / "b.csv", "3,1,10,20,5,6", "3,2,1.5,2.5,3,4", "5,1,0,0,1,1"), "person")
    found = [source.boxes_of(frame(index)) for index in range(7)]
    assert [None if boxes is None else len(boxes.boxes) for boxes in found] == [None, None, None, 2, 0, 1, None]
    assert found[3] is not None
    assert found[3].boxes.tolist() == [[10, 20, 15, 26], [1.5, 2.5, 4.5, 6.5]]
    assert not found[3].ignored.any()


def test_ids_tell_objects_apart(tmp_path: Path) -> None:
    source = table_of(table(tmp_path / "b.csv", "0,anna,0,0,1,1", "0,7,5,5,1,1", "2,7,6,6,1,1"), "person")
    found = [source.boxes_of(frame(index)) for index in range(3)]
    assert source.identified
    assert [boxes.ids.tolist() for boxes in found if boxes and boxes.ids is not None] == [[0, 1], [], [1]]


@pytest.mark.parametrize(
    ("rows", "header", "reason"),
    [
        (["0,0,0,1,1"], "frame,left,top,width,height", ""),
        (["0,1,0,0,1,1", "0,2,5,5,1,1", "1,-1,0,0,1,1", "1,-1,5,5,1,1"], "frame,id,left,top,width,height", "frame 1 has an id twice"),
        (["0,1,0,0,1,1", "1,,5,5,1,1"], "frame,id,left,top,width,height", "frame 1 has a box without an id"),
    ],
    ids=["none", "repeated", "missing"],
)
def test_ids_that_do_not_tell_objects_apart_are_not_used(tmp_path: Path, rows: list[str], header: str, reason: str) -> None:
    source = table_of(table(tmp_path / "b.csv", *rows, header=header), "person")
    found = source.boxes_of(frame(0))
    assert not source.identified and source.unusable_ids == reason
    assert found is not None and found.ids is None


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["0,1,2,3,4,5"], "frame,id,x,y,width,height", r"lacks the column left, top"),
        (["0,1,2,3,4,five"], "frame,id,left,top,width,height", r"line 2: could not convert string to float: 'five'"),
        (["0,1,2,3,4"], "frame,id,left,top,width,height", r"line 2: should hold 6 values"),
        (["0,1,nan,3,4,5"], "frame,id,left,top,width,height", r"line 2: a box should be of finite numbers, got nan,3.0,4.0,5.0"),
        (["0,1,2,3,4,inf"], "frame,id,left,top,width,height", r"line 2: a box should be of finite numbers"),
        (["0,1,2,3,0,5"], "frame,id,left,top,width,height", r"line 2: width and height should be positive, got 0.0 and 5.0"),
        ([], "frame,id,left,top,width,height", r"holds no boxes"),
    ],
)
def test_bad_tables_are_refused_with_their_line(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(TruthError, match=message):
        table_of(table(tmp_path / "b.csv", *rows, header=header), "person")


CLASSES_TOO = "frame,id,class,left,top,width,height"


def test_one_table_may_hold_several_classes_and_covers_its_frames_for_each(tmp_path: Path) -> None:
    path = table(tmp_path / "b.csv", "3,1,person,0,0,5,6", "4,1,car,1,1,3,4", "6,2,person,0,0,1,1", header=CLASSES_TOO)
    people, cars = read_box_table(path)
    for source, counts in ((people, [None, 1, 0, 0, 1, None]), (cars, [None, 0, 1, 0, 0, None])):
        found = [source.boxes_of(frame(index)) for index in range(2, 8)]
        assert [None if boxes is None else len(boxes.boxes) for boxes in found] == counts
    assert people.identified and cars.identified
    assert [source.class_name for source in (people, cars, table_of(path, "car"))] == ["person", "car", "car"]


@pytest.mark.parametrize(
    ("rows", "header", "class_name", "message"),
    [
        (["0,1,0,0,1,1"], "frame,id,left,top,width,height", None, r"lacks the column class: name the class of its boxes as .*b\.csv:CLASS"),
        (["0,1,,0,0,1,1"], CLASSES_TOO, None, r"line 2: a box should have a class, got none"),
        (["0,1,dog,0,0,1,1"], CLASSES_TOO, "car", r"holds no boxes of 'car'; its classes are dog"),
    ],
)
def test_tables_without_the_class_are_refused(tmp_path: Path, rows: list[str], header: str, class_name: str | None, message: str) -> None:
    with pytest.raises(TruthError, match=message):
        read_box_table(table(tmp_path / "b.csv", *rows, header=header), class_name)


def test_classes_that_the_model_lacks_are_named_and_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "b.csv", "0,1,Person,0,0,1,1", "0,1,tram,1,1,3,4", "0,2,dog,0,0,1,1", header=CLASSES_TOO)
    kept, note = of_the_model(read_box_table(path), ("person", "car"), path)
    assert [source.class_name for source in kept] == ["person"]
    assert note == f"{path}: boxes of 'dog', 'tram' are left out: the model's detection classes are person, car"
    assert of_the_model(kept, ("person",), path)[1] == ""
    with pytest.raises(TruthError, match="boxes of 'Person', 'dog', 'tram' are left out"):
        of_the_model(read_box_table(path), ("car",), path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"none\.csv cannot be read: No such file"):
        read_box_table(tmp_path / "none.csv", "person")


# ---- masks


def test_components_become_boxes_and_small_ones_are_ignored() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 5:25] = 255  # 400 pixels
    mask[40:49, 40:51] = 255  # 99 pixels
    mask[0:5, 60:80] = 255  # 100 pixels
    mask[50:60, 0:10] = 50  # shadow is background
    mask[30:32, 5:25] = 170
    mask[:, 79] = np.where(mask[:, 79] == 255, 255, 85)
    found = component_boxes(mask)
    rows = sorted(zip(found.boxes.tolist(), found.ignored.tolist(), strict=True))
    assert rows == [([5, 10, 25, 30], False), ([40, 40, 51, 49], True), ([60, 0, 80, 5], False)]
    assert found.unknown is not None
    assert found.unknown.sum() == 2 * 20 + 55 + 99
    assert not found.unknown[50:60, 0:10].any()


def test_touching_objects_are_one_box_also_at_a_corner() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[0:20, 0:20] = 255
    mask[20:40, 20:40] = 255
    assert component_boxes(mask).boxes.tolist() == [[0, 0, 40, 40]]


def test_an_empty_mask_covers_its_frame_and_a_missing_one_does_not(tmp_path: Path) -> None:
    write(tmp_path / "gt0001.png", labels())
    source = MaskBoxes(tmp_path, "car")
    found = source.boxes_of(frame(0, "in0001"))
    assert found is not None
    assert found.boxes.shape == (0, 4)
    assert source.boxes_of(frame(1, "in0002")) is None


# ---- all together


def test_truth_is_collected_by_class_index(tmp_path: Path) -> None:
    write(tmp_path / "masks" / "1.png", labels())
    people = table_of(table(tmp_path / "b.csv", "0,1,0,0,2,2"), "person")
    cars = MaskBoxes(tmp_path / "masks", "car")
    truth = Truth(None, [people, cars], ("person", "car", "bicyclist"))
    assert set(truth.of(frame(0)).boxes) == {0}
    assert set(truth.of(frame(1)).boxes) == {1}
    assert truth.of(frame(0)).labels is None
    assert truth.identified
    assert not Truth(None, [cars], ("person", "car")).identified


def test_classes_that_the_model_lacks_or_that_come_twice_are_refused(tmp_path: Path) -> None:
    people = table_of(table(tmp_path / "b.csv", "0,1,0,0,2,2"), "person")
    with pytest.raises(TruthError, match="boxes of 'person': the model's detection classes are car"):
        Truth(None, [people], ("car",))
    with pytest.raises(TruthError, match="boxes of 'person' are given twice"):
        Truth(None, [people, people], ("person",))
