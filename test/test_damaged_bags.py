"""Bags that broke off, lack parts or hold damaged messages: what is there is read, and what is missing is said."""

from __future__ import annotations

import io
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from backports import zstd
from rosbags.rosbag2 import CompressionFormat, CompressionMode
from rosbags.rosbag2.storage_mcap import McapReader
from test_bags import STORAGES, Storage, picture, stamp

from dff_ros.recording.bag_recording import BagRecording
from dff_ros.recording.bags import BagWriter, open_bag
from dff_ros.recording.frames import RecordingError, select
from dff_ros.recording.mcap_scan import McapScan

IMAGES = 40
HEIGHT, WIDTH = 120, 160  # 57,600 bytes: rosbags begins a chunk every 19 images


def written(path: Path, storage: Storage, *, images: int = IMAGES, first: int = 0, compression: CompressionMode | None = None) -> Path:
    """A bag with images and as many small messages."""
    writer = BagWriter(path, storage=storage)
    if compression is not None:
        writer._writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for index in range(first, first + images):
            writer.write_image("/image", picture(index, HEIGHT, WIDTH), stamp(index))
            writer.write("/chatter", "std_msgs/msg/String", writer.types["std_msgs/msg/String"](data="hello"), stamp(index))
    return path


def storage_file(bag: Path) -> Path:
    (file,) = (file for file in bag.iterdir() if file.name != "metadata.yaml")
    return file


def cut(file: Path, kept: float) -> int:
    """Cut a file off; returns how many bytes that took."""
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    return len(data) - int(len(data) * kept)


def read_and_checked(bag: BagRecording) -> list[int]:
    """The indices of a bag's images, each of which is the one that was written."""
    frames = list(bag)
    for item in frames:
        index = (item.stamp - stamp(0)) // 66_666_667
        assert np.array_equal(item.frame, picture(index, HEIGHT, WIDTH))
    assert [item.index for item in frames] == list(range(len(frames)))
    return [(item.stamp - stamp(0)) // 66_666_667 for item in frames]


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8, 0.97])
def test_a_bag_that_broke_off_is_read_up_to_there(tmp_path: Path, storage: Storage, kept: float, metadata: bool) -> None:
    bag = written(tmp_path / "bag", storage)
    if not metadata:
        (bag / "metadata.yaml").unlink()
    cut(storage_file(bag), kept)
    recording = open_bag(bag)
    places = read_and_checked(recording)
    # SQLite rows share pages, and what lies in a page that is gone is gone.
    assert places == list(range(len(places))) and IMAGES * kept - 8 <= len(places) <= IMAGES * kept + 1
    lost = recording.lost
    assert lost is not None and f"bag {bag} is incomplete: {storage_file(bag).name} breaks off" in recording.notes[0]
    if metadata:
        missing = IMAGES - len(places)
        # Small messages lie in pages of their own, some of which may be there still.
        assert lost.messages is not None and (missing if storage == "sqlite3" else 2 * missing - 1) <= lost.messages <= 2 * missing + 1
        if places:
            least = 0 if storage == "sqlite3" else missing / 15 - 0.1
            assert lost.seconds is not None and least <= lost.seconds <= missing / 15 + 0.1
        assert "\n" not in str(lost) and f"{lost.messages} messages" in str(lost)
    assert lost.size > 0


def recompressed(source: Path, compression: str, compress: Callable[[bytes], bytes], indexed: bool) -> bytes:
    """The chunks of an MCAP file, compressed, without summary; with or without the indices that follow them."""
    output = io.BytesIO(source.read_bytes()[:8])
    output.seek(8)
    reader = McapReader(source)
    reader.open()
    chunks = [(chunk.chunk_start_offset, chunk.chunk_length, chunk.message_index_length) for chunk in reader.chunks]
    reader.close()
    data = source.read_bytes()
    output.write(data[8 : chunks[0][0]])
    for start, length, index_length in chunks:
        body = data[start + 9 : start + length]
        content = compress(body[28 + 4 + 8 :])
        packed = body[:28] + struct.pack("<I", len(compression)) + compression.encode() + struct.pack("<Q", len(content)) + content
        output.write(struct.pack("<BQ", 6, len(packed)) + packed)
        if indexed:
            output.write(data[start + length : start + length + index_length])
    return output.getvalue()


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(("compression", "compress"), [("zstd", zstd.compress), ("lz4", lz4.frame.compress), ("", bytes)])
@pytest.mark.parametrize("kept", [0.3, 0.6, 1.0])
def test_compressed_chunks_are_read_up_to_where_they_break_off(
    tmp_path: Path, compression: str, compress: Callable[[bytes], bytes], kept: float, indexed: bool
) -> None:
    bag = written(tmp_path / "bag", "mcap")
    file = tmp_path / "cut.mcap"
    file.write_bytes(recompressed(storage_file(bag), compression, compress, indexed))
    cut(file, kept)
    recording = open_bag(file)
    places = read_and_checked(recording)
    assert places == list(range(len(places))) and IMAGES * kept - 5 <= len(places) <= IMAGES * kept + 1
    assert len(recording) == len(places)
    lost = recording.lost
    assert lost is not None
    if kept == 1.0:
        assert "was not closed: 0 messages" in str(lost)
    else:
        assert "breaks off inside a chunk: an unknown number of messages" in str(lost)
        # The head of the chunk tells how far it went.
        assert lost.seconds is not None and 0 < lost.seconds < 19 / 15


def test_a_damaged_chunk_costs_its_own_messages_only(tmp_path: Path) -> None:
    bag = written(tmp_path / "bag", "mcap")
    file = storage_file(bag)
    file.write_bytes(recompressed(file, "zstd", zstd.compress, True))
    scan = McapScan(file)
    start = sorted(scan._chunks)[1]
    data = bytearray(file.read_bytes())
    data[start + 44 : start + 60] = bytes(16)  # where the compressed data begins
    file.write_bytes(data)
    recording = open_bag(file)
    places = places_of(recording)
    assert 0 in places and IMAGES - 1 in places and 18 <= IMAGES - len(places) <= 20
    lost = recording.lost
    assert lost is not None and f"has a damaged chunk at byte {start - 9}" in str(lost)
    assert lost.messages == 2 * (IMAGES - len(places))


def places_of(recording: BagRecording) -> list[int]:
    return [(item.stamp - stamp(0)) // 66_666_667 for item in recording]


def test_damage_met_in_the_middle_of_a_healthy_looking_file_does_not_end_the_reading(tmp_path: Path) -> None:
    writer_bag = written(tmp_path / "bag", "mcap", compression=CompressionMode.STORAGE)
    file = storage_file(writer_bag)
    start = sorted(McapScan(file)._chunks)[1]
    data = bytearray(file.read_bytes())
    data[start + 44 : start + 60] = bytes(16)  # where the compressed data begins
    file.write_bytes(data)
    recording = open_bag(writer_bag)
    assert recording.lost is None  # nobody has looked yet
    places = places_of(recording)
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] == IMAGES - 1
    assert recording.lost is not None and recording.lost.messages == 2 * (IMAGES - len(places)) > 0


def test_zeros_after_a_crash_are_not_taken_for_records(tmp_path: Path) -> None:
    bag = written(tmp_path / "bag", "mcap")
    file = storage_file(bag)
    whole = recompressed(file, "", bytes, True)
    file.write_bytes(whole + bytes(5000))
    recording = open_bag(file)
    assert read_and_checked(recording) == list(range(IMAGES))
    assert recording.lost is not None and recording.lost.size == 5000


def test_a_write_ahead_log_that_was_left_over_is_read(tmp_path: Path) -> None:
    bag = written(tmp_path / "bag", "sqlite3")
    file = storage_file(bag)
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    database.execute("CREATE TABLE spare AS SELECT * FROM messages WHERE id > 40")
    database.execute("DELETE FROM messages WHERE id > 40")
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("INSERT INTO messages SELECT * FROM spare")
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for left in (file, file.with_name(f"{file.name}-wal")):
        shutil.copy(left, killed / left.name.replace("bag", "killed"))
    database.close()
    before = {item.name: item.read_bytes() for item in killed.iterdir()}
    recording = open_bag(killed)
    assert read_and_checked(recording) == list(range(IMAGES))
    assert recording.lost is None
    assert {name: (killed / name).read_bytes() for name in before} == before
    (killed / "killed.db3-wal").unlink()
    shutil.copy(bag / "metadata.yaml", killed)
    (killed / "metadata.yaml").write_text((bag / "metadata.yaml").read_text().replace("bag.db3", "killed.db3"))
    without_log = open_bag(killed)
    assert read_and_checked(without_log) == list(range(20))
    assert without_log.lost is not None
    assert str(without_log.lost).startswith("metadata.yaml counts 80 messages: 40 messages, 1.33 s at the end cannot be read")


@pytest.mark.parametrize("metadata", ["missing", "damaged"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_without_metadata_is_read_and_lacks_nothing(tmp_path: Path, storage: Storage, metadata: str) -> None:
    bag = written(tmp_path / "bag", storage, images=3)
    (bag / "metadata.yaml").unlink() if metadata == "missing" else (bag / "metadata.yaml").write_text("]")
    recording = open_bag(bag)
    assert read_and_checked(recording) == [0, 1, 2]
    assert recording.lost is None and not recording.notes


def split(tmp_path: Path, storage: Storage, parts: int) -> Path:
    """A bag of several files, two images each, without metadata."""
    bag = tmp_path / "split"
    bag.mkdir()
    for part in range(parts):
        file = storage_file(written(tmp_path / f"part_{part}", storage, images=2, first=2 * part))
        file.rename(bag / f"split_{part}{file.suffix}")
    return bag


@pytest.mark.parametrize("storage", STORAGES)
def test_split_bags_without_metadata_are_read_in_the_order_of_their_numbers(tmp_path: Path, storage: Storage) -> None:
    recording = open_bag(split(tmp_path, storage, 11))
    assert read_and_checked(recording) == list(range(22))
    assert len(recording) == 22


@pytest.mark.parametrize("storage", STORAGES)
def test_a_part_that_is_missing_or_unreadable_is_named(tmp_path: Path, storage: Storage) -> None:
    bag = split(tmp_path, storage, 3)
    suffix = next(bag.iterdir()).suffix
    (bag / f"split_1{suffix}").write_bytes(b"nothing of use")
    recording = open_bag(bag)
    assert read_and_checked(recording) == [0, 1, 4, 5]
    assert str(recording.lost) == f"split_1{suffix} cannot be read: an unknown number of messages, at least 14 bytes cannot be read"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("metadata", [True, False])
def test_what_rosbag2_compresses_is_read(tmp_path: Path, storage: Storage, compression: CompressionMode, metadata: bool) -> None:
    bag = written(tmp_path / "bag", storage, images=5, compression=compression)
    if not metadata:
        (bag / "metadata.yaml").unlink()
    assert read_and_checked(open_bag(bag)) == list(range(5))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_compressed_file_that_broke_off_is_read_up_to_there(tmp_path: Path, storage: Storage) -> None:
    bag = written(tmp_path / "bag", storage, compression=CompressionMode.FILE)
    cut(storage_file(bag), 0.5)
    recording = open_bag(bag)
    places = read_and_checked(recording)
    assert 10 <= len(places) <= 21
    assert "zstd data ends too early" in str(recording.lost)


def with_damaged(path: Path, damaged: set[int], count: int = 6) -> Path:
    with BagWriter(path) as writer:
        for index in range(count):
            if index in damaged:
                fields = {"height": 12, "width": 16, "encoding": "rgb8", "is_bigendian": 0, "step": 48}
                writer.write_fields("/image", stamp(index), data=np.zeros(5, np.uint8), **fields)
            else:
                writer.write_image("/image", picture(index), stamp(index))
    return path


def test_damaged_images_are_left_out_and_shift_no_index(tmp_path: Path) -> None:
    recording = open_bag(with_damaged(tmp_path / "bag", {1, 4}))
    frames = list(recording)
    assert [item.index for item in frames] == [0, 2, 3, 5]
    assert all(np.array_equal(item.frame, picture(item.index)) for item in frames)
    assert recording.damaged == 2
    (note,) = recording.notes
    assert "2 images on /image are damaged and were left out; the first, image 1: data should be 576 bytes" in note
    assert [item.index for item in select(recording, 1, 4)] == [2, 3]


def test_a_bag_of_nothing_but_damaged_images_is_refused(tmp_path: Path) -> None:
    wanted = r"no image on /image in bag .* can be read; the first, image 0: data should be 576 bytes .* got 5"
    with pytest.raises(RecordingError, match=wanted):
        list(open_bag(with_damaged(tmp_path / "bag", set(range(6)))))
