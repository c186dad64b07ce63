"""The source: a recording on a topic, in order, at its rate, with its stamps."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_process import BEST_EFFORT, PATIENCE, RELIABLE, SECOND, Peer, peer, running
from sensor_msgs.msg import CompressedImage, Image

from dff_ros.image_encoding import decode_compressed
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.messages import stamp_of
from dff_ros.node.playback_node import Pace, SourceSettings, open_source, rounds
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import RecordingError

__all__ = ["peer"]

FRAMES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one grey each, the number of the frame times ten."""
    path = tmp_path_factory.mktemp("frames")
    for index in range(FRAMES):
        cv2.imwrite(str(path / f"frame{index:03d}.png"), np.full((48, 64, 3), 10 * index, np.uint8))
    return path


def greys(messages: list[Image]) -> list[int]:
    return [message.data[0] for message in messages]


def test_a_folder_is_played_once_in_order_with_its_stamps(peer: Peer, folder: Path) -> None:
    images: list[Image] = []
    subscription = peer.create_subscription(Image, "/camera/image_raw", images.append, RELIABLE)
    with running("source_node", {"frames": str(folder), "rate": 50.0}, remappings={"image": "/camera/image_raw"}) as child:
        assert child.wait(PATIENCE) == 0
        peer.until(lambda: len(images) == FRAMES, "all images")
    assert greys(images) == [10 * index for index in range(FRAMES)]
    assert [stamp_of(image.header) for image in images] == [SECOND + index * SECOND // 50 for index in range(FRAMES)]
    assert {(image.encoding, image.height, image.width, image.step) for image in images} == {("rgb8", 48, 64, 192)}
    assert f"played {FRAMES} images" in child.output
    peer.destroy_subscription(subscription)


def test_it_loops_on_demand_compressed_best_effort_restamped_and_ends_by_ctrl_c(peer: Peer, folder: Path) -> None:
    images: list[CompressedImage] = []
    subscription = peer.create_subscription(CompressedImage, "/image/compressed", images.append, BEST_EFFORT)
    parameters = {
        "frames": str(folder), "rate": 100.0, "loop": True, "compressed": True, "reliability": "best_effort", "restamp": True,
        "frame_id": "front",
    }  # fmt: skip
    before = time.time_ns()
    with running("source_node", parameters):
        peer.until(lambda: len(images) > 2 * FRAMES, "the third round")
    assert {image.header.frame_id for image in images} == {"front"}
    assert all(stamp_of(image.header) > before for image in images)
    assert decode_compressed(images[0].data, images[0].format).shape == (48, 64, 3)
    peer.destroy_subscription(subscription)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [({}, "exactly one of video, frames, bag and drive"), ({"video": "/nowhere.mp4"}, "/nowhere.mp4")],
)
def test_what_cannot_be_played_ends_with_one_clear_line(parameters: dict[str, object], complaint: str) -> None:
    child = ChildProcess("source_node", parameters=parameters)
    assert child.wait(PATIENCE) == 1
    assert len(child.lines) == 1, child.output
    assert complaint in child.output


def test_exactly_one_thing_is_played() -> None:
    with pytest.raises(RecordingError, match="got video, bag"):
        open_source(SourceSettings(video="a.mp4", bag="b"))
    assert len(open_source(SourceSettings(drive=7, rate=10.0))) == 7


def test_stamps_of_later_rounds_continue_at_the_recordings_own_distance() -> None:
    drive = GeneratedDrive(0, 4, width=64, height=48, rate=10.0)
    stamps = [item.stamp for item in itertools.islice(rounds(drive, loop=True, jump=False), 9)]
    assert np.diff(stamps).tolist() == [SECOND // 10] * 8


def test_stamps_of_later_rounds_can_jump_back_as_in_a_looped_bag() -> None:
    drive = GeneratedDrive(0, 4, width=64, height=48, rate=10.0)
    stamps = [item.stamp for item in itertools.islice(rounds(drive, loop=True, jump=True), 8)]
    assert stamps[:4] == stamps[4:]


def test_the_pace_follows_the_stamps_or_the_rate_and_never_hurries() -> None:
    by_stamps, by_rate = Pace(0.0), Pace(2.0)
    for pace in (by_stamps, by_rate):
        assert pace.seconds_until(10 * SECOND) == 0
    assert by_stamps.seconds_until(13 * SECOND) == pytest.approx(3, abs=0.5)
    assert by_rate.seconds_until(13 * SECOND) == pytest.approx(0.5, abs=0.25)
    late = Pace(0.0)
    late.seconds_until(10 * SECOND)
    late._due -= 100  # as if the last frame had taken so long
    assert late.seconds_until(11 * SECOND) == 0
    assert late.seconds_until(12 * SECOND) == pytest.approx(1, abs=0.5)
