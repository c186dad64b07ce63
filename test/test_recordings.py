"""Unlabelled recordings as sources: consecutive frames stay together, the end is held out, and nothing but pairs is learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_data import write_camvid

from dff_ros.recording.frames import RecordingError, StampedFrame
from dff_train.augment import Augmentation, augment
from dff_train.clips import Clip
from dff_train.datasets import open_sources
from dff_train.readers import DataError
from dff_train.recordings import decode, open_unlabelled, split

PIXELS = 48 * 64


def recording(count: int, size: tuple[int, int] = (24, 32), first: int = 0) -> Iterator[StampedFrame]:
    """Frames whose first pixel spells their number."""
    for number in range(first, first + count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[..., 0], frame[..., 1] = divmod(number, 256)
        yield StampedFrame(number, number + 1, frame, "", "camera")


def number_of(frame: np.ndarray) -> int:
    return int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])


def numbers(frames: Iterable[np.ndarray]) -> list[int]:
    return [number_of(frame) for frame in frames]


def test_a_recording_that_fits_is_one_run_of_all_its_frames() -> None:
    clip = decode("short", recording(150), pixels=PIXELS)
    assert numbers(clip.frames) == list(range(150))
    assert set(clip.firsts) == {0}


@pytest.mark.parametrize("count", [1000, 3000, 3059])
def test_a_long_recording_is_thinned_to_runs_spread_over_it_and_pairs_stay_within_them(count: int) -> None:
    clip = decode("long", recording(count), pixels=PIXELS, most=400)
    assert 200 <= len(clip) <= 400
    kept = numbers(clip.frames)
    starts = sorted(set(clip.firsts))
    steps = np.diff([kept[start] for start in starts])
    assert kept[0] == 0 and len(set(steps.tolist())) == 1 and kept[starts[-1]] + steps[0] >= count
    rng = np.random.default_rng(0)
    for index in rng.integers(0, len(clip), 300):
        pair = clip.pair(int(index), rng, (1, 15))
        assert number_of(pair.image) - number_of(pair.key_image) == pair.offset
        assert pair.between is not None
        assert numbers(pair.between) == list(range(number_of(pair.key_image) + 1, number_of(pair.image)))
    assert all(1 <= clip.pair(start, rng, (3, 9)).offset <= 3 for start in starts[:-1])


def test_the_length_of_the_runs_can_be_chosen() -> None:
    clip = decode("long", recording(3000), pixels=PIXELS, most=1500, run_length=200)
    assert set(np.diff(sorted(set(clip.firsts))).tolist()) == {200}


def test_frames_of_another_size_start_a_new_run() -> None:
    clip = decode("two", [*recording(70), *recording(20, (30, 20), first=70)], pixels=PIXELS)
    assert sorted(set(clip.firsts)) == [0, 70]
    rng = np.random.default_rng(0)
    assert {clip.pair(72, rng, (0, 9)).offset for _ in range(50)} == {0, 1, 2}


def test_frames_of_another_size_start_a_new_run_though_the_network_sees_both_alike() -> None:
    clip = decode("two", [*recording(70, (48, 64)), *recording(70, (96, 128), first=70)], pixels=24 * 32)
    assert {frame.shape for frame in clip.frames} == {(24, 32, 3)}
    assert sorted(set(clip.firsts)) == [0, 70]


def test_frames_are_kept_no_larger_than_the_network_sees_them() -> None:
    clip = decode("large", recording(2, (480, 640)), pixels=PIXELS)
    assert clip.frames[0].shape == (48, 64, 3)
    assert decode("small", recording(1), pixels=PIXELS).frames[0].shape == (24, 32, 3)


def test_the_last_fifth_is_held_out_with_its_own_keys() -> None:
    learned, held = split(decode("clip", recording(100), pixels=PIXELS))
    assert numbers(learned.frames) == list(range(80)) and numbers(held.frames) == list(range(80, 100))
    rng = np.random.default_rng(0)
    assert {number_of(held.pair(2, rng, (0, 9)).key_image) for _ in range(50)} == {80, 81, 82}
    pairs = [learned.pair(50, rng, (5, 5)) for _ in range(400)]
    assert 0.05 < np.mean([pair.key_image is pair.image for pair in pairs]) < 0.15, "nothing moves in a tenth of them"
    assert {pair.offset for pair in pairs} == {5}
    still = next(pair for pair in pairs if pair.key_image is pair.image)
    assert still.between is not None and numbers(still.between) == [50] * 4
    runs = Clip("runs", learned.frames, learned.truth, firsts=[0] * 30 + [30] * 40 + [70] * 10)
    assert split(runs)[1].firsts == [0] * 6 + [6] * 10


def test_a_recording_without_a_frame_is_refused() -> None:
    with pytest.raises(RecordingError, match="nothing should hold frames, got none"):
        decode("nothing", [], pixels=PIXELS)


def test_whatever_a_path_holds_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for item in recording(3):
        cv2.imwrite(str(folder / f"{item.index}.png"), item.frame[..., ::-1])
    assert numbers(item.frame for item in open_unlabelled(folder)) == [0, 1, 2]
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(4):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    assert len(list(open_unlabelled(tmp_path / "clip.mp4"))) == 4
    for missing in ("none.mp4", "none.mcap"):
        with pytest.raises(RecordingError, match="none"):
            open_unlabelled(tmp_path / missing)


def test_a_recipe_names_recordings_by_their_place_and_learns_no_label_from_them(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    (source,) = open_sources(tmp_path, ["camvid/train/images"], pixels=PIXELS)
    assert len(source) == 3
    sample = augment(source.pair(1, np.random.default_rng(0), (1, 9)), Augmentation(crop=(32, 48)), np.random.default_rng(0))
    assert sample.offset == 1 and sample.source == "camvid/train/images"
    assert bool((sample.labels == 255).all()) and not len(sample.boxes) and not bool(sample.labelled_classes.any())
    with pytest.raises(DataError, match="sources are camvid, .* and FOLDER/NAME of a recording, got camwid"):
        open_sources(tmp_path, ["camwid"])
