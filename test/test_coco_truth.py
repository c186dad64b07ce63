"""Ground truth from COCO files, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dff_ros.evaluation.ground_truth.coco_truth import CocoBoxes, read_coco
from dff_ros.evaluation.ground_truth.truth import TruthError
from dff_ros.recording.frames import StampedFrame

IMAGES: list[dict[str, Any]] = [
    {"id": 70, "file_name": "left/in000003.jpg", "width": 6, "height": 4},
    {"id": 5, "file_name": "left/in000004.jpg"},
]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]


def frame(index: int = 0, name: str = "", width: int = 6) -> StampedFrame:
    return StampedFrame(index=index, stamp=1 + index, frame=np.zeros((4, width, 3), np.uint8), name=name, frame_id="camera")


def annotation(number: int, image: int = 70, category: int = 1, **more: object) -> dict[str, object]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": [10, 20, 5, 6], **more}


def coco(tmp_path: Path, *annotations: dict[str, object], **parts: object) -> list[CocoBoxes]:
    path = tmp_path / "truth.json"
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations, **parts}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), encoding="utf-8")
    return read_coco(path)


def test_boxes_are_told_apart_by_category_and_image(tmp_path: Path) -> None:
    people, cars = coco(tmp_path, annotation(1), annotation(2, bbox=[1.5, 2.5, 3, 4]), annotation(3, category=3, image=5))
    assert [source.class_name for source in (people, cars)] == ["person", "car"]
    here, there = people.boxes_of(frame(name="in000003")), cars.boxes_of(frame(name="in000004"))
    assert here is not None and there is not None
    assert here.boxes.tolist() == [[10, 20, 15, 26], [1.5, 2.5, 4.5, 6.5]]
    assert (there.boxes.tolist(), there.ignored.tolist()) == ([[10, 20, 15, 26]], [False])
    nobody = people.boxes_of(frame(name="in000004"))
    assert nobody is not None and nobody.boxes.shape == (0, 4), "an image without an annotation is known to be empty"


@pytest.mark.parametrize("given", [frame(0, "in000003"), frame(9, "gt000003"), frame(3)], ids=["stem", "number", "index"])
def test_images_belong_to_frames_by_stem_number_or_index(tmp_path: Path, given: StampedFrame) -> None:
    people, _ = coco(tmp_path, annotation(1))
    found = people.boxes_of(given)
    assert found is not None and len(found.boxes) == 1


def test_frames_whose_image_is_not_listed_are_not_covered(tmp_path: Path) -> None:
    people, _ = coco(tmp_path, annotation(1))
    assert people.boxes_of(frame(5)) is None


def test_crowds_are_ignored_and_need_no_id(tmp_path: Path) -> None:
    people, _ = coco(tmp_path, annotation(1, track_id=4), annotation(2, iscrowd=1, segmentation={"size": [4, 6], "counts": "0"}))
    found = people.boxes_of(frame(3))
    assert people.identified and found is not None and found.ids is not None
    assert (found.ignored.tolist(), found.ids.tolist()) == ([False, True], [0, -1])


@pytest.mark.parametrize("identity", [{"track_id": 12}, {"instance_id": "anna"}, {"attributes": {"track_id": 0}}])
def test_ids_tell_objects_apart(tmp_path: Path, identity: dict[str, object]) -> None:
    other = {"attributes": {"track_id": 99, "occluded": False}}
    people, _ = coco(tmp_path, annotation(1, **other), annotation(2, **identity), annotation(3, image=5, **identity))
    first, second = people.boxes_of(frame(3)), people.boxes_of(frame(4))
    assert people.identified and first is not None and second is not None
    assert first.ids is not None and first.ids.tolist() == [0, 1]
    assert second.ids is not None and second.ids.tolist() == [1]


def test_ids_that_come_twice_or_are_missing_are_not_used(tmp_path: Path) -> None:
    people, _ = coco(tmp_path, annotation(1, track_id=1), annotation(2, track_id=1))
    assert people.unusable_ids == "image 70 has an id twice"
    people, _ = coco(tmp_path, annotation(1, track_id=1), annotation(2))
    assert people.unusable_ids == "image 70 has a box without an id"
    people, _ = coco(tmp_path, annotation(1), annotation(2))
    assert (people.identified, people.unusable_ids) == (False, "")


def test_two_images_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a/0003.png"}, {"id": 2, "file_name": "b/0003.png"}]
    people, _ = coco(tmp_path, images=images)
    with pytest.raises(TruthError, match=r"a/0003\.png and b/0003\.png could both belong to frame 0003"):
        people.boxes_of(frame(0, "0003"))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    people, _ = coco(tmp_path, annotation(1))
    with pytest.raises(TruthError, match=r"in000003\.jpg of the COCO file is 6x4, its frame 3 is 9x4"):
        people.boxes_of(frame(3, width=9))


@pytest.mark.parametrize(
    ("annotations", "parts", "message"),
    [
        ([annotation(7, bbox=[1, 2, 3])], {}, r"annotation 7: bbox should be left, top, width, height with a size, got \[1, 2, 3\]"),
        ([annotation(7, bbox=[1, 2, 0, 3])], {}, r"annotation 7: bbox should be"),
        ([{"id": 7, "image_id": 70, "category_id": 1}], {}, r"is not a COCO file of boxes: 'bbox' is missing"),
        ([annotation(7, image=71)], {}, r"annotation 7 belongs to image 71, which the file does not list"),
        ([annotation(7, category=2)], {}, r"annotation 7 is of category 2, which the file does not list"),
        ([{"id": 7}], {}, r"'image_id' is missing"),
        ([], {"images": None}, r"should list images and categories, got 0 and 2"),
        ([], {"images": [{"id": 1}]}, r"'file_name' is missing"),
        ([], {"categories": "person"}, r"is not a COCO file of boxes"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, annotations: list[dict[str, object]], parts: dict[str, object], message: str) -> None:
    with pytest.raises(TruthError, match=message):
        coco(tmp_path, *annotations, **parts)


@pytest.mark.parametrize(
    ("content", "message"), [("frame,id\n", "is not JSON"), ("[1]", "is not a COCO file of boxes"), (None, "cannot be read")]
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TruthError, match=message):
        read_coco(path)
