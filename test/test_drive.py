"""The generated drive: its truth holds on its own pictures, and it is the same drive however it is read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dff_ros.recording.drive import BOX_NAMES, CLASS_NAMES, DriveFrame, GeneratedDrive
from dff_ros.recording.drive_render import FIRST_THING_ID
from dff_ros.recording.frames import FIRST_STAMP, RecordingError

DRIVING, WATCHING = (0, 1, 2, 7), (3, 5)
WIDTH, HEIGHT = 160, 120


def drive(seed: int, frames: int = 120) -> GeneratedDrive:
    return GeneratedDrive(seed, frames, width=WIDTH, height=HEIGHT)


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """``image`` read at p + flow(p)."""
    v, u = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return cv2.remap(image, u + flow[..., 0], v + flow[..., 1], cv2.INTER_LINEAR).astype(float)


@pytest.mark.parametrize("seed", DRIVING + WATCHING)
@pytest.mark.parametrize("offset", [1, 4, 9])
def test_the_key_frame_warped_by_the_flow_is_the_frame_where_it_is_in_sight(seed: int, offset: int) -> None:
    recording = drive(seed)
    errors, copies, seen = [], [], []
    for index in range(offset, 120, 20):
        frame, key = recording.frame(index), recording.frame(index - offset)
        flow, visible = frame.flow_to(index - offset)
        errors.append(np.abs(warped(key.frame, flow) - frame.frame).mean(-1)[visible].mean())
        copies.append(np.abs(key.frame.astype(float) - frame.frame).mean(-1)[visible].mean())
        seen.append(visible.mean())
    assert np.mean(errors) < 2.5
    assert np.mean(errors) < 0.5 * np.mean(copies) + 0.3
    assert np.mean(seen) > 0.7


@pytest.mark.parametrize("seed", DRIVING + WATCHING)
def test_labels_and_things_move_with_the_flow(seed: int) -> None:
    frame = drive(seed).frame(60)
    key = frame.drive.frame(55)
    flow, visible = frame.flow_to(55)
    v, u = np.nonzero(visible)
    at = np.round(u + flow[v, u, 0]).astype(int), np.round(v + flow[v, u, 1]).astype(int)
    assert np.array_equal(key.surfaces[at[1], at[0]], frame.surfaces[v, u])
    assert (key.labels[at[1], at[0]] == frame.labels[v, u]).mean() > 0.98


@pytest.mark.parametrize("seed", DRIVING + WATCHING)
def test_there_and_back_again_leads_to_the_same_pixel(seed: int) -> None:
    recording = drive(seed)
    there, visible = recording.flow(60, 54)
    back, _ = recording.flow(54, 60)
    returned = warped(back, there) + there
    assert np.percentile(np.abs(returned[visible]), 99) < 0.1


@pytest.mark.parametrize("seed", DRIVING + WATCHING)
def test_the_flow_to_the_frame_itself_is_zero_and_everything_is_in_sight(seed: int) -> None:
    flow, visible = drive(seed).frame(30).flow_to(30)
    assert flow.dtype == np.float32
    assert flow.shape == (HEIGHT, WIDTH, 2)
    assert not flow.any()
    assert visible.all()


def test_what_stands_still_before_a_still_camera_has_no_flow_and_the_same_pixels() -> None:
    recording = drive(3)
    frame, key = recording.frame(40), recording.frame(30)
    flow, visible = frame.flow_to(30)
    standing = (frame.surfaces < FIRST_THING_ID) & (key.surfaces == frame.surfaces)
    assert standing.mean() > 0.5
    assert np.abs(flow[standing]).max() < 1e-4
    assert visible[standing].all()
    moving = frame.labels == CLASS_NAMES.index("pedestrian")
    assert np.abs(flow[moving]).max() > 1


def test_dense_optical_flow_finds_the_same_motion() -> None:
    # An independent opinion, of pictures alone: OpenCV's DIS flow, from the frame to the key frame.
    recording = GeneratedDrive(0, 120, width=320, height=240)
    frame, key = recording.frame(60), recording.frame(59)
    truth, visible = frame.flow_to(59)
    greys = [cv2.cvtColor(item.frame, cv2.COLOR_RGB2GRAY) for item in (frame, key)]
    found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    ground = visible & (frame.labels == CLASS_NAMES.index("road"))
    assert np.abs(truth[ground]).mean() > 0.5
    assert np.median(np.linalg.norm(found - truth, axis=-1)[ground]) < 0.5


def test_a_drive_has_still_and_fast_stretches() -> None:
    recording = drive(1, 450)
    motion = []
    for index in range(1, 450, 15):
        frame = recording.frame(index)
        flow, _ = frame.flow_to(index - 1)
        motion.append(np.abs(flow[frame.surfaces < FIRST_THING_ID]).mean())
    assert min(motion) < 0.01
    assert max(motion) > 1


@pytest.mark.parametrize("seed", [2, 3])
def test_a_frame_is_the_same_in_whatever_order_frames_are_read(seed: int) -> None:
    alone, later = drive(seed).frame(17), list(drive(seed, 120))[17]
    for name in ("frame", "labels", "boxes", "box_labels", "box_ids", "surfaces"):
        assert np.array_equal(getattr(alone, name), getattr(later, name))
    assert (later.index, later.stamp, later.name) == (17, FIRST_STAMP + round(17e9 / 15), "")
    assert not np.array_equal(alone.frame, drive(seed + 1).frame(17).frame)


def owners(frame: DriveFrame) -> np.ndarray:
    return (frame.surfaces - FIRST_THING_ID) // 2


@pytest.mark.parametrize("seed", DRIVING + WATCHING)
def test_boxes_are_the_visible_extent_of_their_things(seed: int) -> None:
    recording, count = drive(seed), 0
    meant = {0: "pedestrian", 1: "car", 2: "bicyclist"}
    for index in range(0, 120, 15):
        frame = recording.frame(index)
        assert len(frame.boxes) == len(frame.box_labels) == len(frame.box_ids) == len(set(frame.box_ids.tolist()))
        for box, label, item in zip(frame.boxes, frame.box_labels.tolist(), frame.box_ids.tolist(), strict=True):
            mask = owners(frame) == item
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert set(frame.labels[mask].tolist()) == {CLASS_NAMES.index(meant[label])}
            count += 1
    assert count > 8


def test_every_thing_large_and_in_sight_has_a_box() -> None:
    for seed in WATCHING:
        frame = drive(seed).frame(30)
        boxed = [CLASS_NAMES.index(name) for name in ("car", "pedestrian", "bicyclist")]
        ids, sizes = np.unique(owners(frame)[np.isin(frame.labels, boxed)], return_counts=True)
        assert set(ids[sizes > 150].tolist()) <= set(frame.box_ids.tolist())


def test_a_thing_keeps_its_id_and_moves_by_the_flow() -> None:
    recording = drive(3)
    frame, key = recording.frame(33), recording.frame(30)
    flow, visible = frame.flow_to(30)
    shared = set(frame.box_ids.tolist()) & set(key.box_ids.tolist())
    assert len(shared) > 3
    for item in shared:
        mask = (owners(frame) == item) & visible
        if mask.sum() > 40:
            moved = np.argwhere(mask)[:, ::-1] + flow[mask]
            left, top, right, bottom = key.boxes[key.box_ids.tolist().index(item)]
            assert (moved >= (left - 1, top - 1)).all()
            assert (moved <= (right + 1, bottom + 1)).all()


def test_all_classes_and_boxes_occur_over_a_few_seeds() -> None:
    labels, boxes = set(), set()
    for seed in range(8):
        for index in (0, 60):
            frame = drive(seed).frame(index)
            labels |= set(np.unique(frame.labels).tolist())
            boxes |= set(frame.box_labels.tolist())
    assert labels == set(range(len(CLASS_NAMES)))
    assert boxes == set(range(len(BOX_NAMES)))


@pytest.mark.parametrize(("width", "height", "rate"), [(64, 48, 5.0), (161, 91, 30.0), (1280, 720, 15.0), (90, 160, 15.0)])
def test_any_size_and_rate(width: int, height: int, rate: float) -> None:
    recording = GeneratedDrive(4, 12, width=width, height=height, rate=rate)
    frame = recording.frame(11)
    assert frame.frame.shape == (height, width, 3)
    assert frame.labels.shape == frame.surfaces.shape == (height, width)
    assert recording.rate == rate
    assert recording.frame(1).stamp - recording.frame(0).stamp == round(1e9 / rate)
    assert np.isfinite(frame.flow_to(0)[0]).all()


def test_the_scene_does_not_depend_on_the_size() -> None:
    small, large = (GeneratedDrive(6, 30, width=160 * scale, height=120 * scale).frame(20) for scale in (1, 2))
    shrunk = cv2.resize(large.labels, (160, 120), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small.labels).mean() > 0.9


def test_senseless_drives_and_frames_are_refused() -> None:
    with pytest.raises(RecordingError, match="at least 1 frame of 16x16 pixels at a rate above 0 Hz, got 0 of 480x360 at 15"):
        GeneratedDrive(0, 0)
    with pytest.raises(RecordingError, match="got 3 of 8x360 at 15"):
        GeneratedDrive(0, 3, width=8)
    with pytest.raises(RecordingError, match="got 3 of 480x360 at 0"):
        GeneratedDrive(0, 3, rate=0)
    with pytest.raises(RecordingError, match=r"frame should lie in 0\.\.2, got 3"):
        GeneratedDrive(0, 3, width=64, height=48).frame(3)
