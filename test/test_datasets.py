"""The data sets as sources of training samples, read from tiny folders made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_data import SIZE, highway_labels, street_labels, textured, write_camvid, write_highway, write_pets

from dff_ros.recording.drive import GeneratedDrive
from dff_train.anchors import cluster_anchors, nominal_boxes, shape_iou
from dff_train.augment import Augmentation
from dff_train.datasets import MixedDataset, mixed_dataset
from dff_train.drives import DriveScenes
from dff_train.readers import CamVidStills, DataError, HighwayFrames, PetsFrames, camvid_truth, highway_truth
from dff_train.samples import Sample, collate

SMALL = Augmentation(crop=(64, 96), pixels=SIZE[0] * SIZE[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA folder with a little of everything."""
    folder = tmp_path_factory.mktemp("data")
    write_camvid(folder)
    write_pets(folder, frames=12)
    write_highway(folder, range(470, 474))
    return folder


def same(first: Sample, second: Sample) -> bool:
    for name, value in vars(first).items():
        other = getattr(second, name)
        if not (torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other):
            return False
    return True


def test_camvid_boxes_are_the_components_of_its_things() -> None:
    truth = camvid_truth(street_labels())
    assert truth.boxes.tolist() == [[20, 45, 60, 70], [80, 30, 92, 66]]
    assert truth.box_labels.tolist() == [1, 0]
    assert truth.ignore_boxes.tolist() == [[104, 30, 110, 36]], "36 pixels are too few for a box"
    assert truth.labelled_classes == (True, True, True)


def test_camvid_void_has_no_truth() -> None:
    labels = camvid_truth(street_labels()).labels
    assert labels is not None
    assert (labels[80:, 100:] == 255).all()
    assert 11 not in labels


def test_a_row_of_touching_people_is_ignored_rather_than_one_wide_person() -> None:
    labels = np.full(SIZE, 3, np.uint8)
    labels[40:60, 30:70] = 9
    truth = camvid_truth(labels)
    assert len(truth.boxes) == 0
    assert truth.ignore_boxes.tolist() == [[30, 40, 70, 60]]


def test_rare_points_lie_on_rare_classes() -> None:
    truth = camvid_truth(street_labels())
    x, y = truth.points.astype(int).T
    assert len(x) > 0
    assert set(street_labels()[y, x].tolist()) == {9}


def test_highway_cars_are_boxed_without_their_rims() -> None:
    truth = highway_truth(highway_labels())
    assert truth.boxes.tolist() == [[20, 10, 60, 40]]
    assert truth.box_labels.tolist() == [1]
    assert sorted(truth.ignore_boxes.tolist()) == [[10, 60, 16, 66], [90, 70, 120, 90]], "the rim of a car is no region of its own"
    assert truth.labels is None
    assert truth.labelled_classes == (False, True, False)


def test_pets_boxes_belong_to_their_frames(data: Path) -> None:
    source = PetsFrames(data / "pets09", range(12))
    assert len(source.truth[0].boxes) == 0
    assert source.truth[5].boxes.tolist() == [[20, 20, 32.5, 50]]
    assert abs(float(source.frames[5].mean()) - 25) < 4, "frame 5 was written with grey level 25"


def test_real_pairs_are_the_offset_apart_and_start_with_the_clip(data: Path) -> None:
    source = PetsFrames(data / "pets09", range(12))
    rng = np.random.default_rng(0)
    offsets = {source.pair(11, rng).offset for _ in range(200)}
    assert offsets == set(range(10))
    assert {source.pair(2, rng).offset for _ in range(50)} == {0, 1, 2}
    pair = source.pair(11, rng, offsets=(0, 9))
    assert pair.key_image is source.frames[11 - pair.offset]


def test_real_pairs_hold_the_frames_between_in_their_order(data: Path) -> None:
    source = PetsFrames(data / "pets09", range(12))
    rng = np.random.default_rng(0)
    for index, offsets in ((11, (0, 9)), (2, (0, 9)), (7, (4, 4)), (5, (1, 1))):
        for _ in range(10):
            pair = source.pair(index, rng, offsets)
            assert pair.between is not None and len(pair.between) == max(pair.offset - 1, 0)
            frames = [pair.key_image, *pair.between, pair.image] if pair.offset else [pair.image]
            assert all(frame is source.frames[index - pair.offset + number] for number, frame in enumerate(frames))


def test_drives_hold_the_frames_between_on_demand() -> None:
    size = {"width": 96, "height": 72}
    plain, full = (DriveScenes([3], scenes=1, **size, between=between) for between in (False, True))
    drive = GeneratedDrive(3, 5 * 15 + 16, **size, rate=15.0)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        pair = full.pair(0, rng, (1, 15))
        seen.add(pair.offset)
        assert pair.between is not None and len(pair.between) == pair.offset - 1
        for number, frame in enumerate(pair.between, 1):
            errors = [
                float(np.abs(drive.frame(15 - pair.offset + number + beside).frame.astype(int) - frame).mean()) for beside in (-1, 0, 1)
            ]
            assert errors[1] < 3.0 and errors[1] == min(errors)
    assert len(seen) == 3
    assert plain.pair(0, rng, (1, 15)).between is None and not plain.scenes[0].before


def test_offset_zero_alone_gives_stills_from_every_source(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train"), PetsFrames(data / "pets09", range(12)), DriveScenes([3], scenes=1, width=64, height=48)]
    dataset = MixedDataset(sources, [1, 1, 1], SMALL, offsets=(0, 0))
    for index in range(20):
        sample = dataset[index]
        assert sample.offset == 0
        assert sample.key_image is sample.image


def test_camvid_samples_are_half_stills_half_pairs(data: Path) -> None:
    source = CamVidStills(data / "camvid/train")
    rng = np.random.default_rng(0)
    offsets = [source.pair(0, rng).offset for _ in range(400)]
    assert 0.4 < np.mean([offset == 0 for offset in offsets]) < 0.6
    assert set(offsets) == set(range(10))


def test_every_source_can_be_asked_for_pairs_alone(data: Path) -> None:
    rng = np.random.default_rng(0)
    camvid, pets = CamVidStills(data / "camvid/train"), PetsFrames(data / "pets09", range(12))
    drives = DriveScenes([3], scenes=1, width=64, height=48)
    assert {camvid.pair(0, rng, (2, 4)).offset for _ in range(60)} == {2, 3, 4}
    assert {pets.pair(7, rng, (2, 4)).offset for _ in range(60)} == {2, 3, 4}
    assert {pets.pair(0, rng, (2, 4)).offset for _ in range(60)} == {2}, "the first frame with a key so far back is frame 2"
    assert {drives.pair(0, rng, (2, 4)).offset for _ in range(60)} == {drives.scenes[0].keys[0].offset}
    assert [key.offset > 9 for key in drives.scenes[0].keys] == [False, False, True]
    assert {drives.pair(0, rng, (0, 9)).offset for _ in range(60)} == {0, *(key.offset for key in drives.scenes[0].keys[:2])}


def test_drives_come_with_exact_flow_and_everything_labelled() -> None:
    source = DriveScenes([3, 4], scenes=2, width=96, height=72, flow=True)
    assert len(source) == 4
    rng = np.random.default_rng(0)
    pairs = [source.pair(index, rng) for index in range(4) for _ in range(5)]
    moved = next(pair for pair in pairs if pair.offset > 4)
    assert moved.flow is not None
    assert moved.visible is not None
    assert moved.flow.shape == (72, 96, 2)
    rows, columns = np.nonzero(moved.visible)
    there = moved.flow[rows, columns] + np.stack([columns, rows], 1)
    assert (there > -0.5).all()
    assert (there < [95.5, 71.5]).all()
    assert moved.truth.labelled_classes == (True, True, True)


def test_a_sample_depends_on_seed_and_index_alone(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train"), HighwayFrames(data / "highway", range(470, 474))]
    first, second = MixedDataset(sources, [1, 1], SMALL, seed=5), MixedDataset(sources, [1, 1], SMALL, seed=5)
    for index in (0, 1, 2, 3):
        first[index]
    for index in (3, 7, 123_456):
        assert same(first[index], second[index])
    assert not same(first[3], first[4])
    assert not same(first[3], MixedDataset(sources, [1, 1], SMALL, seed=6)[3])


def test_the_frames_between_depend_on_seed_and_index_alone(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train"), PetsFrames(data / "pets09", range(12))]
    first, second = (MixedDataset(sources, [1, 1], replace(SMALL, between=True), seed=5, offsets=(0, 9)) for _ in range(2))
    first[0]
    for index in (3, 7, 123_456):
        assert same(first[index], second[index])
    plain = MixedDataset(sources, [1, 1], SMALL, seed=5, offsets=(0, 9))
    for index in range(8):
        assert same(plain[index], replace(first[index], between=None))


def test_batches_list_the_frames_between(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [CamVidStills(data / "camvid/train"), PetsFrames(data / "pets09", range(12))]
    dataset = MixedDataset(sources, [1, 1], replace(SMALL, between=True), offsets=(0, 9))
    samples = [dataset[index] for index in range(5)]
    batch = collate([*samples, replace(samples[0], between=None)])
    assert [len(frames) for frames in batch.between] == [*(max(sample.offset - 1, 0) for sample in samples), 0]
    assert any(map(len, batch.between)) and batch.between[-1].shape[1:] == (3, 64, 96)
    assert collate([replace(sample, between=None) for sample in samples]).between == []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1 if tensor.dtype == torch.uint8 else tensor)
    pinned = batch.pin_memory()
    assert all(torch.equal(frames + 1, other) for frames, other in zip(batch.between, pinned.between, strict=True))


def test_weights_are_shares(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train"), HighwayFrames(data / "highway", range(470, 474))]
    dataset = MixedDataset(sources, [3, 1], SMALL)
    names = [dataset[index].source for index in range(300)]
    assert 0.65 < names.count("camvid") / 300 < 0.85
    alone = MixedDataset(sources, [0, 1], SMALL)
    assert {alone[index].source for index in range(20)} == {"highway"}


def test_a_loader_gives_the_same_batches_with_a_worker_and_without(data: Path) -> None:
    cv2.setNumThreads(2)
    cv2.GaussianBlur(textured(0).repeat(8, 0).repeat(8, 1), (0, 0), 3.0)  # OpenCV's threads run: a fork now must not hang
    sources = [CamVidStills(data / "camvid/train"), HighwayFrames(data / "highway", range(470, 474))]
    dataset = MixedDataset(sources, [1, 1], SMALL)
    here, there = (
        list(DataLoader(dataset, sampler=range(8, 16), batch_size=4, num_workers=workers, collate_fn=collate, timeout=60 * workers))
        for workers in (0, 1)
    )
    assert len(here) == len(there) == 2
    for first, second in zip(here, there, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.key_images, second.key_images)
        assert all(torch.equal(a, b) for a, b in zip(first.boxes, second.boxes, strict=True))


def test_batches_stack_images_and_list_boxes(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train"), HighwayFrames(data / "highway", range(470, 474))]
    dataset = MixedDataset(sources, [1, 1], SMALL)
    samples = [dataset[index] for index in range(6)]
    batch = collate(samples)
    assert batch.images.shape == batch.key_images.shape == (6, 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.shape == (6, 64, 96)
    assert batch.labelled_classes.shape == (6, 3)
    assert [len(boxes) for boxes in batch.boxes] == [len(sample.boxes) for sample in samples]
    assert batch.flow_known.tolist() == [sample.flow is not None for sample in samples]
    assert {True, False} == set(batch.flow_known.tolist())
    assert batch.flow is not None
    assert batch.visible is not None
    assert not batch.visible[~batch.flow_known].any()


def test_batches_of_different_sizes_are_refused(data: Path) -> None:
    sources = [CamVidStills(data / "camvid/train")]
    samples = [MixedDataset(sources, [1], Augmentation(crop=crop))[0] for crop in ((64, 96), (64, 64))]
    with pytest.raises(ValueError, match="share one size"):
        collate(samples)


@pytest.mark.parametrize(
    ("source", "missing"),
    [("camvid", "camvid/train/images"), ("pets09", "pets09/boxes.csv"), ("highway", "highway/images")],
)
def test_a_missing_data_set_is_named(tmp_path: Path, source: str, missing: str) -> None:
    with pytest.raises(DataError, match=missing):
        mixed_dataset(tmp_path, {source: 1.0}, crop=(64, 64))


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="camvid, pets09, highway, drives and .*, got moon"):
        mixed_dataset(tmp_path, {"moon": 1.0}, crop=(64, 64))


def test_an_image_without_its_label_map_is_named(tmp_path: Path) -> None:
    write_camvid(tmp_path, 2)
    (tmp_path / "camvid/train/labels/still_1.png").unlink()
    with pytest.raises(DataError, match=r"still_1\.png does not exist"):
        CamVidStills(tmp_path / "camvid/train")


@pytest.mark.parametrize("maps", ["colours", "more than bytes"])
def test_labels_that_are_no_ids_are_refused_instead_of_read_as_grey_values(tmp_path: Path, maps: str) -> None:
    write_camvid(tmp_path)
    file = tmp_path / "camvid/train/labels/still_0.png"
    ids = street_labels()
    cv2.imwrite(str(file), ids.astype(np.uint16) if maps == "more than bytes" else np.stack([ids, ids * 2, ids * 3], axis=2))
    with pytest.raises(DataError, match=r"still_0\.png should be a label map of one channel of bytes"):
        CamVidStills(tmp_path / "camvid" / "train")


def test_labels_in_three_equal_channels_are_ids(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    expected = CamVidStills(tmp_path / "camvid" / "train").truth[0].labels
    cv2.imwrite(str(tmp_path / "camvid/train/labels/still_0.png"), np.repeat(street_labels()[..., None], 3, axis=2))
    assert np.array_equal(CamVidStills(tmp_path / "camvid" / "train").truth[0].labels, expected)



def test_a_short_video_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match="ends after 12 frames, expected at least 20"):
        PetsFrames(data / "pets09", range(20))


def test_a_broken_row_of_boxes_is_named(tmp_path: Path) -> None:
    write_pets(tmp_path, 3)
    with (tmp_path / "pets09/boxes.csv").open("a") as file:
        file.write("2,8,left,20,12,30\n")
    with pytest.raises(DataError, match=r"boxes\.csv:4"):
        PetsFrames(tmp_path / "pets09", range(3))


@pytest.mark.parametrize("weights", [[], [1.0, 1.0], [-1.0], [0.0]])
def test_weights_must_fit_the_sources(data: Path, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        MixedDataset([CamVidStills(data / "camvid/train")], weights)


def test_anchors_find_the_shapes_there_are() -> None:
    rng = np.random.default_rng(0)
    kinds = np.array([[20, 60], [60, 40], [12, 12]])
    shapes = kinds[rng.integers(0, 3, 300)] * np.exp(rng.normal(0, 0.05, (300, 2)))
    boxes = np.concatenate([np.zeros((300, 2)), shapes], 1)
    found = np.array(cluster_anchors(boxes, 3))
    assert np.allclose(found, [[12, 12], [20, 60], [60, 40]], rtol=0.05)
    assert cluster_anchors(boxes, 3) == cluster_anchors(boxes, 3)
    with pytest.raises(ValueError, match="at least as many boxes, got 2"):
        cluster_anchors(boxes[:2], 3)


def test_shape_iou_of_known_shapes() -> None:
    iou = shape_iou(np.array([[10.0, 20.0]]), np.array([[10.0, 20.0], [20.0, 10.0], [5.0, 20.0]]))
    assert np.allclose(iou, [[1.0, 100 / 300, 0.5]])


def test_nominal_boxes_are_in_network_pixels(data: Path) -> None:
    boxes = nominal_boxes([CamVidStills(data / "camvid/train")], pixels=4 * SIZE[0] * SIZE[1])
    assert boxes[0].tolist() == [40, 90, 120, 140]
    assert len(boxes) == 6
