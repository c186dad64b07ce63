"""``dff_replay`` on bags that lack something: it goes on, says so on stderr and writes it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bags import STORAGES, Storage, stamp
from test_damaged_bags import cut, storage_file

from dff_ros.evaluation.replay import main
from dff_ros.recording.bags import BagWriter


def pattern(index: int) -> np.ndarray:
    """A picture (96, 128, 3) that moves by two pixels a frame."""
    wide = np.random.default_rng(7).integers(0, 256, (12, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return np.ascontiguousarray(wide[:, 2 * index : 2 * index + 128])


def bag_of(path: Path, storage: Storage = "mcap", *, topics: tuple[str, ...] = ("/camera/image",), images: int = 8) -> Path:
    with BagWriter(path, storage=storage) as writer:
        for index in range(images):
            for place, topic in enumerate(topics):
                writer.write_image(topic, pattern(index + 20 * place), stamp(index) + place, frame_id=f"frame_{place}")
    return path


def replayed(tmp_path: Path, bundle: Path, bag: Path, *options: str) -> dict[str, Any]:
    """The JSON of one run over a bag, on the CPU."""
    output = tmp_path / "figures.json"
    arguments = ["--bag", str(bag), "--model", str(bundle), "--device", "cpu", "--schedule", "fixed:3", "--json", str(output), *options]
    assert main(arguments) == 0
    report: dict[str, Any] = json.loads(output.read_text())
    return report


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_that_broke_off_is_replayed_and_what_is_lost_is_said(
    tmp_path: Path, tiny_bundle: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = bag_of(tmp_path / "bag", storage)
    cut(storage_file(bag), 0.6)
    report = replayed(tmp_path, tiny_bundle, bag)
    assert 1 <= report["frames"] <= 5
    lost = report["input"]["lost"]
    assert lost["messages"] == 8 - report["frames"] and lost["bytes"] > 0
    assert lost["reasons"][0].startswith(f"bag.{'db3' if storage == 'sqlite3' else 'mcap'} breaks off")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "incomplete" in line]
    assert line.startswith(f"dff_replay: bag {bag} is incomplete: bag.") and f"{lost['messages']} messages" in line


def test_damaged_images_are_counted(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(4):
            writer.write_image("/image", pattern(index), stamp(index))
        fields = {"height": 12, "width": 16, "encoding": "rgb8", "is_bigendian": 0, "step": 48}
        writer.write_fields("/image", stamp(4), data=np.zeros(5, np.uint8), **fields)
    report = replayed(tmp_path, tiny_bundle, tmp_path / "bag")
    assert report["frames"] == 4
    assert report["input"] == {"topic": "/image", "damaged_images": 1, "late_images": 0, "lost": None}
    assert "1 images on /image are damaged and were left out; the first, image 4: data should be" in capsys.readouterr().err
