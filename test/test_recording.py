"""Image folders and videos as streams of stamped frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import FIRST_STAMP, Recording, RecordingError, StampedFrame, open_frames, open_video, select


def grey(value: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def folder(path: Path, names: list[str]) -> Path:
    """Images whose grey value is their place in ``names`` times 10."""
    path.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        assert cv2.imwrite(str(path / name), grey(10 * place))
    return path


def video(path: Path, count: int, fps: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (32, 24))
    assert writer.isOpened()
    for index in range(count):
        writer.write(grey(10 * index))
    writer.release()
    return path


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    names = ["frame_2.png", "frame_9.png", "frame_10.PNG", "frame_0100.JPEG", "frame_101.jpg", "frame_102.bmp"]
    recording = open_frames(folder(tmp_path, names), rate=10)
    frames = list(recording)
    assert [item.name for item in frames] == [Path(name).stem for name in names]
    assert [int(item.frame.mean()) for item in frames] == [0, 10, 20, 30, 40, 50]
    assert [item.stamp - FIRST_STAMP for item in frames] == [index * 100_000_000 for index in range(6)]
    assert (len(recording), recording.rate) == (6, 10)


def test_a_folder_is_30_hz_by_default_and_frames_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((4, 4, 3), (10, 20, 200), np.uint8))
    recording = open_frames(tmp_path)
    (item,) = recording
    assert item.frame[0, 0].tolist() == [200, 20, 10]
    assert recording.rate == 30


def test_other_files_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder(tmp_path, ["a1.png"])
    (tmp_path / "labels.txt").write_text("no image")
    (tmp_path / "._a1.png").write_bytes(b"of another system")
    (tmp_path / "folder.png").mkdir()
    assert [item.name for item in open_frames(tmp_path)] == ["a1"]


def test_images_of_a_folder_may_differ_in_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), grey(1))
    cv2.imwrite(str(tmp_path / "2.png"), grey(2, 10, 12))
    assert [item.frame.shape for item in open_frames(tmp_path)] == [(24, 32, 3), (10, 12, 3)]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_broken_image_is_named_when_its_turn_comes(tmp_path: Path, content: bytes) -> None:
    folder(tmp_path, ["1.png"])
    (tmp_path / "2.png").write_bytes(content)
    frames = iter(open_frames(tmp_path))
    assert next(frames).index == 0
    with pytest.raises(RecordingError, match=r"image should be a picture .* got .*2\.png"):
        next(frames)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"should be a folder of images, got .*nothing"):
        open_frames(tmp_path / "nothing")
    with pytest.raises(RecordingError, match=r"should be a folder with \.png, .* images"):
        open_frames(tmp_path)
    with pytest.raises(RecordingError, match="rate should be above 0 Hz, got -1"):
        open_frames(folder(tmp_path, ["1.png"]), rate=-1)


def test_a_video_is_read_again_from_the_beginning_with_stamps_of_its_rate(tmp_path: Path) -> None:
    recording = open_video(video(tmp_path / "clip.avi", 6, fps=12.5))
    for _ in range(2):
        frames = list(recording)
        assert [item.index for item in frames] == list(range(6))
        assert np.abs(np.array([item.frame.mean() for item in frames]) - np.arange(0, 60, 10)).max() < 3
        assert [item.stamp - FIRST_STAMP for item in frames] == [index * 80_000_000 for index in range(6)]
    assert (recording.rate, len(recording)) == (12.5, 6)


def test_a_video_is_rgb(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    writer.write(np.full((24, 32, 3), (0, 0, 250), np.uint8))
    writer.release()
    (item,) = open_video(tmp_path / "red.avi")
    assert np.abs(item.frame.mean((0, 1)) - (250, 0, 0)).max() < 12


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 100])
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(RecordingError, match=r"video should be .* got .*clip\.mp4") as caught:
        open_video(tmp_path / "clip.mp4")
    assert "\n" not in str(caught.value)


def test_a_missing_video_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.mp4", tmp_path):
        with pytest.raises(RecordingError, match="video should be a file, got"):
            open_video(path)


def recordings(tmp_path: Path) -> list[Recording]:
    images = folder(tmp_path / "images", [f"{index}.png" for index in range(6)])
    return [open_frames(images), open_video(video(tmp_path / "clip.avi", 6)), GeneratedDrive(1, 6, width=64, height=48)]


def test_a_selection_keeps_the_indices_and_stamps_of_the_source(tmp_path: Path) -> None:
    for recording in recordings(tmp_path):
        chosen = select(recording, 2, 4)
        assert [item.index for item in chosen] == [2, 3, 4]
        assert [item.stamp for item in chosen] == [item.stamp for item in recording][2:5]
        assert (len(chosen), chosen.rate) == (3, recording.rate)


def test_a_selection_ends_with_the_recording_and_must_begin_in_it(tmp_path: Path) -> None:
    recording = recordings(tmp_path)[0]
    assert [item.index for item in select(recording, 4, 100)] == [4, 5]
    assert len(select(recording, 4, 100)) == 2
    with pytest.raises(RecordingError, match=r"should begin before the recording ends, got frames 6\.\.9 of 6 images"):
        list(select(recording, 6, 9))
    for first, last in ((3, 2), (-1, 2)):
        with pytest.raises(RecordingError, match=f"0 <= FIRST <= LAST, got {first}:{last}"):
            select(recording, first, last)


def test_frames_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = folder(tmp_path, [f"{index}.png" for index in range(4)])
    frames = iter(open_frames(path))
    assert isinstance(next(frames), StampedFrame)
    cv2.imwrite(str(path / "1.png"), grey(99))
    assert next(frames).frame.max() == 99
