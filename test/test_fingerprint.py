"""What a replay was made of: hashes that tell recordings apart, and two lock-step runs that say the same to the byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dff_ros.evaluation.fingerprint import InputHash, bundle_hash, digest, without_timings
from dff_ros.evaluation.outputs.trace import read_trace
from dff_ros.evaluation.replay import main
from dff_ros.recording.frames import StampedFrame

ROOT = Path(__file__).resolve().parents[1]


def item(*, height: int = 60, width: int = 77, seed: int = 0) -> StampedFrame:
    """A frame of odd size: it fills one row of words and a rest."""
    return StampedFrame(0, 5, np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), "a", "camera")


def hashed(*items: StampedFrame) -> str:
    hashes = InputHash()
    assert list(hashes.over(items)) == list(items)
    return hashes.hexdigest()


def changed(frame: StampedFrame, place: tuple[int, int, int]) -> StampedFrame:
    picture = frame.frame.copy()
    picture[place] ^= 1
    return replace(frame, frame=picture)


@pytest.mark.parametrize("size", [(60, 77), (200, 300), (4, 5)])
def test_any_change_of_the_input_changes_its_hash(size: tuple[int, int]) -> None:
    height, width = size
    one, other = item(height=height, width=width), item(height=height, width=width, seed=1)
    turned = replace(one, frame=np.ascontiguousarray(one.frame[::-1]))
    wide = replace(one, frame=one.frame.reshape(height // 2, width * 2, 3))
    single = [changed(one, place) for place in ((0, 0, 0), (height // 2, width // 3, 1), (height - 1, width - 1, 2))]
    variants = [(one,), (other,), (one, other), (other, one), (one, one), (replace(one, stamp=6),), (turned,), (wide,)]
    assert len({hashed(*variant) for variant in [*variants, *((each,) for each in single)]}) == len(variants) + len(single)


def test_rows_that_change_places_change_the_hash() -> None:
    """Words of 8 KiB rows are summed: without weights their order would not matter."""
    one = replace(item(), frame=np.random.default_rng(0).integers(0, 256, (4, 8192, 3), np.uint8))
    assert hashed(one) != hashed(replace(one, frame=np.roll(one.frame, 1, axis=0)))


def test_how_a_picture_lies_in_memory_does_not_matter() -> None:
    one = item()
    bgr = np.ascontiguousarray(one.frame[..., ::-1])
    apart = np.zeros((60, 100, 3), np.uint8)
    apart[:, :77] = one.frame
    assert hashed(one) == hashed(replace(one, frame=bgr[..., ::-1])) == hashed(replace(one, frame=apart[:, :77]))


def test_a_bundle_is_its_files_wherever_they_lie(tmp_path: Path, tiny_bundle: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "elsewhere")
    assert bundle_hash(copy) == bundle_hash(tiny_bundle)
    card = copy / "model.yaml"
    card.write_text(card.read_text() + "\n")
    assert bundle_hash(copy) != bundle_hash(tiny_bundle)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})


def test_timings_are_taken_out_wherever_they_stand() -> None:
    report = {"step_ms": {"mean": 1}, "frames": 3, "baseline": {"speedup": 2, "ages": [{"latency_ms": 1, "miou": 0.5}]}}
    assert without_timings(report) == {"frames": 3, "baseline": {"ages": [{"miou": 0.5}]}}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something that moves, in a folder of pictures."""
    folder = tmp_path_factory.mktemp("input") / "frames"
    folder.mkdir()
    texture = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8), (400, 96))
    for index in range(40):
        cv2.imwrite(str(folder / f"{index}.png"), texture[:, 5 * index : 5 * index + 128])
    return folder


def test_two_processes_say_the_same_to_the_byte(tmp_path: Path, tiny_bundle: Path, frames: Path) -> None:
    """With other folders for bundle and input, keys aside, an adaptive schedule and per-frame beside."""
    said = []
    for run in ("first", "second"):
        folder = tmp_path / run
        bundle, pictures = shutil.copytree(tiny_bundle, folder / "bundle"), shutil.copytree(frames, folder / f"in {run}")
        command = ["-m", "dff_ros.evaluation.dff_replay", "--frames", str(pictures), "--range", "0:7", "--model", str(bundle), "--baseline"]
        command += ["--schedule", "adaptive:rate=0.4", "--key-delay", "2", "--device", "cpu", "--json", str(folder / "o.json")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=folder, env=environment, timeout=120)
        said.append(json.dumps(without_timings(json.loads((folder / "o.json").read_text()))))
    assert said[0] == said[1]
    report = json.loads(said[0])
    assert report["frames"] == 8 and report["provenance"]["repeatable"]
    assert {len(report["provenance"][name]) for name in ("hash", "input", "bundle", "settings")} == {32}
    assert set(report["provenance"]["versions"]) == {"dff_ros", "torch", "numpy", "opencv", "python"}
    assert report["provenance"]["machine"]["cpu"] and report["provenance"]["machine"]["threads"] >= 1


def replayed(tmp_path: Path, bundle: Path, frames: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / "o.json"
    fixed = ["--frames", str(frames), "--model", str(bundle), "--device", "cpu", "--trace", str(tmp_path / "t.jsonl")]
    assert main([*fixed, *options, "--json", str(output)]) == 0
    report: dict[str, Any] = json.loads(output.read_text())
    return report


def test_the_hash_tells_settings_inputs_and_latencies_apart(tmp_path: Path, tiny_bundle: Path, frames: Path) -> None:
    changes = {
        (): ("--schedule", "fixed:2"),
        ("settings",): ("--schedule", "fixed:3"),
        ("input",): ("--schedule", "fixed:2", "--rate", "10"),
        ("latencies",): ("--schedule", "fixed:2", "--latencies", "key=9,propagated=2"),
    }
    short = ("--range", "0:3")
    reports = {parts: replayed(tmp_path, tiny_bundle, frames, *options, *short)["provenance"] for parts, options in changes.items()}
    first = reports[()]
    for parts, report in reports.items():
        assert {name for name in ("input", "bundle", "settings", "latencies") if report[name] != first[name]} == set(parts)
    assert len({report["hash"] for report in reports.values()}) == len(changes)


@pytest.mark.parametrize("schedule", ["adaptive:latency_ms=40,signal=motion", "adaptive:ms_per_s=1000,signal=motion"])
def test_a_budget_of_milliseconds_goes_by_the_latencies(
    tmp_path: Path, tiny_bundle: Path, frames: Path, schedule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where key frames are dear fewer are made; the same trace makes the same run, timings and all."""

    def run(*options: str) -> tuple[dict[str, Any], list[bool]]:
        report = replayed(tmp_path, tiny_bundle, frames, "--schedule", schedule, "--rate", "20", *options)
        return report, [line.made_key for line in read_trace(tmp_path / "t.jsonl")]

    cheap, dear = (run("--latencies", f"key={key},propagated=5") for key in (8, 3000))
    assert sum(cheap[1]) > sum(dear[1])
    assert "no two runs are the same" not in capsys.readouterr().err
    assert run("--latencies", "key=3000,propagated=5") == dear
    measured, _ = run()
    assert measured["provenance"]["repeatable"] is False and cheap[0]["provenance"]["repeatable"] is True
    assert f"{schedule} goes by this machine's clock, so no two runs are the same" in capsys.readouterr().err
