"""Bags of both storages, written and read back; and one clear line for what is no bag."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dff_ros.recording.bags import IMAGE, BagWriter, open_bag
from dff_ros.recording.frames import RecordingError

Storage = Literal["sqlite3", "mcap"]
STORAGES: tuple[Storage, ...] = ("sqlite3", "mcap")


def picture(index: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stamp(index: int) -> int:
    return 1_700_000_000_123_456_789 + index * 66_666_667


@pytest.mark.parametrize("storage", STORAGES)
def test_images_come_back_in_order_with_their_stamps(tmp_path: Path, storage: Storage) -> None:
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        for index in range(5):
            writer.write_image("/camera/image", picture(index), stamp(index), frame_id="front")
    bag = open_bag(tmp_path / "bag")
    assert (bag.topic, len(bag), bag.rate) == ("/camera/image", 5, None)
    for _ in range(2):
        frames = list(bag)
        assert [(item.index, item.stamp, item.frame_id, item.name) for item in frames] == [(i, stamp(i), "front", "") for i in range(5)]
        assert all(np.array_equal(item.frame, picture(item.index)) for item in frames)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_single_bag_file_can_be_named(tmp_path: Path, storage: Storage) -> None:
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        writer.write_image("/image", picture(0), stamp(0))
    (file,) = (file for file in (tmp_path / "bag").iterdir() if file.suffix in (".db3", ".mcap"))
    assert len(list(open_bag(file))) == 1


@pytest.mark.parametrize("storage", STORAGES)
def test_compressed_images_come_back_in_rgb(tmp_path: Path, storage: Storage) -> None:
    red = np.full((16, 16, 3), (210, 30, 20), np.uint8)
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        writer.write_compressed("/image/compressed", red, stamp(0))
    (item,) = open_bag(tmp_path / "bag")
    assert item.stamp == stamp(0)
    assert np.abs(item.frame.astype(int) - red).max() <= 6


def test_padded_bgr_rows_come_back_as_rgb(tmp_path: Path) -> None:
    rows = np.hstack([picture(0)[..., ::-1].reshape(12, -1), np.full((12, 7), 99, np.uint8)])
    with BagWriter(tmp_path / "bag") as writer:
        fields = {"height": 12, "width": 16, "encoding": "bgr8", "is_bigendian": 0, "step": 55}
        writer.write_fields("/image", stamp(0), data=rows.reshape(-1), **fields)
    (item,) = open_bag(tmp_path / "bag")
    assert np.array_equal(item.frame, picture(0))


def test_a_header_without_stamp_takes_the_time_of_the_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        message = {"height": 1, "width": 1, "encoding": "mono8", "is_bigendian": 0, "step": 1, "data": np.zeros(1, np.uint8)}
        header = writer.types["std_msgs/msg/Header"](stamp=writer.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id="")
        writer.write("/image", IMAGE, writer.types[IMAGE](header=header, **message), stamp(3))
    (item,) = open_bag(tmp_path / "bag")
    assert item.stamp == stamp(3)


def two_cameras(path: Path) -> Path:
    with BagWriter(path) as writer:
        for index in range(3):
            writer.write_image("/left", picture(index), stamp(index))
            writer.write_image("/right", picture(10 + index), stamp(index))
            writer.write("/chatter", "std_msgs/msg/String", writer.types["std_msgs/msg/String"](data="hello"), stamp(index))
    return path


def test_one_of_several_topics_can_be_named(tmp_path: Path) -> None:
    bag = open_bag(two_cameras(tmp_path / "bag"), "/right")
    assert [np.array_equal(item.frame, picture(10 + item.index)) for item in bag] == [True] * 3


@pytest.mark.parametrize("topic", [None, "/rear", "/chatter"])
def test_otherwise_the_topics_are_listed(tmp_path: Path, topic: str | None) -> None:
    with pytest.raises(RecordingError) as caught:
        open_bag(two_cameras(tmp_path / "bag"), topic)
    listed = "/chatter (std_msgs/msg/String, 3), /left (sensor_msgs/msg/Image, 3), /right (sensor_msgs/msg/Image, 3)"
    assert listed in str(caught.value)
    assert f"got {'none' if topic is None else repr(topic)}" in str(caught.value)


def test_types_of_ones_own_can_be_written(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.register("demo_msgs/msg/Count", "int32 count\n")
        writer.write("/count", "demo_msgs/msg/Count", writer.types["demo_msgs/msg/Count"](count=3), stamp(0))
    with pytest.raises(RecordingError, match=r"got none for bag .* with /count \(demo_msgs/msg/Count, 1\)"):
        open_bag(tmp_path / "bag")


def test_a_bag_is_never_written_over(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="should be a new folder"):
        BagWriter(tmp_path)


def test_a_missing_bag_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="bag should be a folder or file that exists"):
        open_bag(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3", "bag.txt", "metadata.yaml", "bag/metadata.yaml"])
@pytest.mark.parametrize("content", [b"", b"not a bag", bytes(range(256)) * 8])
def test_what_is_no_bag_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(RecordingError, match="bag should be") as caught:
        open_bag(file.parent if file.parent.name == "bag" else file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_without_its_storage_file_is_refused_in_one_line(tmp_path: Path, storage: Storage) -> None:
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        writer.write_image("/image", picture(0), stamp(0))
    for file in (tmp_path / "bag").iterdir():
        if file.suffix in (".db3", ".mcap"):
            file.unlink()
    with pytest.raises(RecordingError, match="bag should be readable") as caught:
        open_bag(tmp_path / "bag")
    assert "\n" not in str(caught.value)
