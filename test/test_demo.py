"""The demo: the node and the source as processes, watched by a third, and what it says about them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from node_process import clean_shared_memory

from dff_ros.node import demo
from dff_ros.node.demo_report import answered_share, confusion, mean_iou_against_drive, summarise
from dff_ros.node.listen import Heard, HeardDetections, describe
from dff_ros.recording.drive import CLASS_NAMES, GeneratedDrive


def heard_of(drive: GeneratedDrive, answered: int) -> Heard:
    """What a listener has after the first ``answered`` frames of a drive, the masks being the truth."""
    heard = Heard(class_names=dict(enumerate(CLASS_NAMES)))
    for frame in list(drive)[:answered]:
        heard.images[frame.stamp] = 1.0
        heard.answers[frame.stamp] = 1.01
        heard.detections[frame.stamp] = HeardDetections(np.zeros((2, 4)), ("car", "person"), (0.9, 0.8))
        heard.masks[frame.stamp] = frame.labels
        kind, reason = ("propagated", "") if frame.index % 4 else ("key", "interval")
        heard.frame_info[frame.stamp] = {"kind": kind, "reason": reason, "key_age_frames": "1", "key_age_ms": "5"}
    return heard


@pytest.fixture(scope="module")
def drive() -> GeneratedDrive:
    return GeneratedDrive(0, 8, width=96, height=64, rate=10.0)


def test_the_demo_answers_every_frame_it_takes_and_leaves_pictures(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")  # the demo chooses its own; this undoes it
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "")
    code = demo.main(["--drive", "20", "--rate", "10", "--model", str(tiny_bundle), "--out", str(tmp_path), "--schedule", "fixed:5"])
    out, err = capfd.readouterr()
    assert code == 0, err
    for text in ("frames in: played 20", "frames out: answered", "latency p50", "key rate 0.", "detections per frame", "classes segmented"):
        assert text in out
    assert "mIoU against the drive's truth" in out
    assert cv2.imread(str(tmp_path / "demo.png")).shape == (360, 480, 3)
    video = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) >= 10
    video.release()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "/nowhere"], "no bundle '/nowhere'"),
        (["--video", "/nowhere.mp4"], "/nowhere.mp4"),
        (["--drive", "5", "--schedule", "sometimes"], "the node ended with exit code 1"),
    ],
)
def test_the_demo_fails_with_the_reason(
    arguments: list[str], complaint: str, tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    given = arguments if "--model" in arguments else [*arguments, "--model", str(tiny_bundle)]
    assert demo.main([*given, "--out", str(tmp_path)]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("demo failed: ")
    assert complaint in last
    clean_shared_memory()


def test_frames_dropped_for_newer_ones_do_not_count_as_unanswered(drive: GeneratedDrive) -> None:
    heard = heard_of(drive, 6)
    heard.diagnostics["input"] = {"received": "8", "dropped": "2"}
    assert answered_share(heard) == 1.0
    heard.diagnostics["input"] = {"received": "8", "dropped": "0"}
    assert answered_share(heard) == 0.75
    assert answered_share(Heard()) == 0.0
    summary = "\n".join(summarise(heard, drive))
    assert "frames in: played 8, received 8, dropped 0, taken 8" in summary and "street_light" not in summary


@pytest.mark.parametrize(("dropped", "advised"), [(1, False), (2, True)])
def test_a_machine_that_is_too_slow_is_told_what_helps(drive: GeneratedDrive, dropped: int, advised: bool) -> None:
    heard = heard_of(drive, 6)
    heard.diagnostics["input"] = {"received": "8", "dropped": str(dropped)}
    summary = "\n".join(summarise(heard, drive))
    assert (f"{dropped} of 8 frames were dropped" in summary and "--model street_light" in summary) == advised


def test_the_summary_tells_what_was_heard(drive: GeneratedDrive) -> None:
    text = "\n".join(describe(heard_of(drive, 8)))
    for part in ("images 8, detections 8, masks 8", "latency p50 10.0 ms", "key rate 0.250", "per frame 2.00", "car 8, person 8", "road "):
        assert part in text
    assert "latency unknown" in "\n".join(describe(Heard()))


def test_masks_equal_to_the_truth_have_a_mean_iou_of_one(drive: GeneratedDrive) -> None:
    heard = heard_of(drive, 8)
    assert mean_iou_against_drive(drive, heard).startswith("mIoU against the drive's truth 1.000 (")
    heard.class_names = {index: name for index, name in heard.class_names.items() if name != "road"}
    assert "road 0.00" in mean_iou_against_drive(drive, heard)
    assert mean_iou_against_drive(drive, Heard()).endswith("no mask came")


def test_confusion_counts_pairs_of_true_and_answered_classes() -> None:
    counts = confusion(np.array([[0, 1, 1, 11]], np.uint8), np.array([[0, 0, 255, 0]], np.uint8), 2)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1]]
