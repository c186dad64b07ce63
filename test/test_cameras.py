"""Several cameras in one bag: found, listed, chosen, and replayed one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bags import stamp
from test_damaged_bags import cut, storage_file
from test_replay_bags import bag_of, pattern, replayed

from dff_ros.evaluation.cameras import bag_cameras, camera_names
from dff_ros.evaluation.replay import main
from dff_ros.recording.bag_topics import describe_topics
from dff_ros.recording.bags import BagWriter, open_reader

CAMERAS = ("/left/image_raw", "/right/image_raw")
TIMED = ("step_ms", "speedup", "cost_ratio")


def without_times(value: Any) -> Any:
    return {key: without_times(item) for key, item in value.items() if key not in TIMED} if isinstance(value, dict) else value


def mixed(path: Path) -> Path:
    """A bag with a Bayer camera, the JPEG copy of another, depth, detections and something else."""
    mosaic = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    with BagWriter(path) as writer:
        for index in range(12):
            bayer = {"height": 24, "width": 32, "encoding": "bayer_rggb8", "is_bigendian": 0, "step": 40}
            rows = np.hstack([mosaic, np.zeros((24, 8), np.uint8)])
            writer.write_fields("/bayer", stamp(index), data=rows.reshape(-1), **bayer)
            writer.write_image("/front/image", pattern(index), stamp(index))
            if index % 2:
                writer.write_compressed("/front/image/compressed", pattern(index), stamp(index))
            depth = {"height": 2, "width": 2, "encoding": "32FC1", "is_bigendian": 0, "step": 8, "data": np.zeros(16, np.uint8)}
            writer.write_fields("/depth", stamp(index), **depth)
            detections = writer.types["vision_msgs/msg/Detection2DArray"](header=writer.header(stamp(index), ""), detections=[])
            writer.write("/truth", "vision_msgs/msg/Detection2DArray", detections, stamp(index))
            writer.write("/chatter", "std_msgs/msg/String", writer.types["std_msgs/msg/String"](data="hello"), stamp(index))
    return path


def test_topics_are_described_by_their_first_messages(tmp_path: Path) -> None:
    found = {item.name: item for item in describe_topics(open_reader(mixed(tmp_path / "bag")))}
    assert set(found) == {"/bayer", "/depth", "/front/image", "/front/image/compressed", "/truth"}
    bayer, jpeg = found["/bayer"], found["/front/image/compressed"]
    assert (bayer.count, bayer.size, bayer.encoding, bayer.has_images) == (12, (32, 24), "bayer_rggb8", True)
    assert bayer.rate == pytest.approx(15, rel=1e-3) and jpeg.rate == pytest.approx(7.5, rel=1e-3)
    assert (jpeg.count, jpeg.size, jpeg.encoding) == (6, (128, 96), "rgb8; jpeg compressed bgr8")
    assert not found["/depth"].has_images and "got '32FC1'" in found["/depth"].problem
    assert not found["/truth"].has_images and found["/truth"].problem == ""


def test_listing_prints_them_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = mixed(tmp_path / "bag")
    assert main(["--bag", str(bag), "--list-topics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("/")] == [
        "/bayer", "/depth", "/front/image", "/front/image/compressed", "/truth",
    ]  # fmt: skip
    assert lines[0].split() == ["/bayer", "sensor_msgs/msg/Image", "12", "15", "Hz", "32x24", "bayer_rggb8"]


def test_listing_says_what_of_a_bag_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = bag_of(tmp_path / "bag", images=8)
    cut(storage_file(bag), 0.6)
    assert main(["--bag", str(bag), "--list-topics"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("/camera/image") and told.err.startswith(f"dff_replay: bag {bag} is incomplete: bag.mcap breaks off")


def test_figures_of_one_camera_outlive_the_next_that_cannot_be_replayed(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(4):
            writer.write_image("/left", pattern(index), stamp(index))
            writer.write_image("/right", pattern(index), stamp(60 - 20 * index), at=stamp(index))  # stamps that no clock gives
    options = ["--real-time", "--latencies", "key=10,propagated=5", "--topic", "all", "--json", str(tmp_path / "out.json")]
    options += ["--html", str(tmp_path / "out.html")]
    assert main(["--bag", str(tmp_path / "bag"), "--model", str(tiny_bundle), "--device", "cpu", *options]) == 2
    assert "--real-time needs stamps in order" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "out.json").read_text())["cameras"]) == ["/left"]
    assert (tmp_path / "out.left.html").is_file() and not (tmp_path / "out.right.html").exists()


def test_an_interruption_is_told(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = bag_of(tmp_path / "bag", images=3)
    monkeypatch.setattr("dff_ros.evaluation.replay.build_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    trace = tmp_path / "trace.jsonl"
    options = ["--device", "cpu", "--trace", str(trace), "--json", str(tmp_path / "out.json")]
    assert main(["--bag", str(bag), "--model", str(tiny_bundle), *options]) == 130
    assert "dff_replay: interrupted: no figures of what was not finished" in capsys.readouterr().err
    assert len(trace.read_text().splitlines()) == 3


def test_two_outputs_to_one_file_are_refused(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, output = bag_of(tmp_path / "bag", images=3), str(tmp_path / "out")
    assert main(["--bag", str(bag), "--model", str(tiny_bundle), "--json", output, "--html", output]) == 2
    assert f"outputs should go to files of their own, got {output} twice" in capsys.readouterr().err


def test_all_takes_every_camera_once(tmp_path: Path) -> None:
    found = bag_cameras(mixed(tmp_path / "bag"), ["all"])
    assert [item.topic for item in found] == ["/bayer", "/front/image"]


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (["/left/image_raw", "/right/image_raw"], ["left", "right"]),
        (["/robot/left/image", "/robot/right/image/compressed"], ["robot/left", "robot/right"]),
        (["/left", "/right"], ["left", "right"]),
        (["/camera/color", "/camera/infra"], ["camera/color", "camera/infra"]),
        (["/camera/image", "/camera/image/compressed"], ["camera/image", "camera/image/compressed"]),
    ],
)
def test_a_cameras_name_is_as_short_as_tells_it_apart(topics: list[str], names: list[str]) -> None:
    assert list(camera_names(topics).values()) == names


def test_cameras_are_replayed_each_as_its_own_stream(tmp_path: Path, tiny_bundle: Path) -> None:
    bag = bag_of(tmp_path / "bag", topics=CAMERAS, images=4)
    several = replayed(tmp_path, tiny_bundle, bag, "--topic", CAMERAS[0], "--topic", CAMERAS[1], "--video-out", str(tmp_path / "seen.mp4"))
    assert list(several) == ["cameras"] and list(several["cameras"]) == list(CAMERAS)
    for topic in CAMERAS:
        alone = replayed(tmp_path, tiny_bundle, bag, "--topic", topic)
        assert alone["input"]["topic"] == topic
        assert without_times(several["cameras"][topic]) == without_times(alone)
    assert {item.name for item in tmp_path.glob("*.mp4")} == {"seen.left.mp4", "seen.right.mp4"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "bag {bag} has several image topics, choose with --topic NAME, once or several times, or --topic all; it has /left"),
        (["--topic", "/rear"], "topic should be the name of an image topic, got '/rear' for bag"),
        (["--topic", "all", "--topic", "/left/image_raw"], "--topic all should stand alone"),
        (["--topic", "/left/image_raw", "--topic", "/left/image_raw"], "--topic should name each topic once"),
        (["--topic", "all", "--boxes", "boxes.csv:person"], "--boxes belongs to one camera, got 2"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    bag = bag_of(tmp_path / "bag", topics=CAMERAS, images=2)
    output = tmp_path / "out.json"
    assert main(["--bag", str(bag), "--model", str(tiny_bundle), "--json", str(output), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dff_replay: {reason.format(bag=bag)}")
    assert not output.exists()


def test_the_figures_of_one_camera_are_as_without_a_choice(tmp_path: Path, tiny_bundle: Path) -> None:
    bag = bag_of(tmp_path / "bag", images=3)
    assert without_times(replayed(tmp_path, tiny_bundle, bag, "--topic", "all")) == without_times(replayed(tmp_path, tiny_bundle, bag))


@pytest.mark.parametrize("arguments", [["--drive", "2", "--list-topics"], ["--bag", "somewhere"]])
def test_a_bad_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert ("--list-topics belongs to --bag" if "--list-topics" in arguments else "required: --json") in capsys.readouterr().err
