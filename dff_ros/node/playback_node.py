"""A recording played onto a topic: in order, at its own or a given rate, with its stamps."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dff_ros.engine.settings import setting, validate
from dff_ros.image_encoding import encode_jpeg
from dff_ros.node.messages import ImageMessage, compressed_message
from dff_ros.node.parameters import declare
from dff_ros.recording.frames import Recording, RecordingError, StampedFrame
from dff_ros.recording.opening import notes_of, open_recording

JPEG_QUALITY = 90
_CATCH_UP_SECONDS = 0.2
"""A player that is further behind than this carries on from where it is, rather than in a burst."""
_MATCH_SECONDS = 2.0
"""From finding a subscriber to the first image: it finds the publisher up to 1.7 s later (measured); best-effort images get lost."""
_END_SECONDS = 0.3
"""From the last image to the end: what lies in shared memory is read by then."""


@dataclass(frozen=True)
class SourceSettings:
    """What ``dff_source`` can be told; exactly one of video, frames, bag and drive names what is played."""

    video: str = setting("", "video file to play")
    frames: str = setting("", "folder of images to play, in the order of their names")
    bag: str = setting("", "bag to play: a folder (sqlite3 or mcap)")
    drive: int = setting(0, "play a generated drive of this many frames", minimum=0, maximum=1_000_000)
    topic: str = setting("", "image topic of the bag; empty where it has only one")
    seed: int = setting(0, "seed of the generated drive", minimum=0, maximum=2**31 - 1)
    rate: float = setting(0.0, "images per second; 0 plays at the recording's own rate", minimum=0.0, maximum=1000.0)
    loop: bool = setting(False, "play again and again")
    loop_stamps: str = setting(
        "continue", "stamps of the second and later rounds: continue after the last one, or jump back as a looped bag does",
        choices=("continue", "jump"),
    )
    restamp: bool = setting(False, "stamp images with the node's time instead of the recording's")
    frame_id: str = setting("", "frame_id of the images; empty keeps the recording's")
    compressed: bool = setting(False, "publish JPEG on image/compressed instead of image")
    reliability: str = setting("reliable", "of the publisher", choices=("reliable", "best_effort"))
    subscribers: int = setting(1, "wait for this many subscribers before the first image", minimum=0, maximum=100)
    wait: float = setting(30.0, "longest wait for them in seconds; then playing starts anyway", minimum=0.0, maximum=3600.0)

    def __post_init__(self) -> None:
        validate(self)


def open_source(settings: SourceSettings) -> Recording:
    """What ``settings`` name; raises RecordingError where that is nothing, several things or cannot be read."""
    named = {name: getattr(settings, name) for name in ("video", "frames", "bag", "drive", "topic", "rate", "seed")}
    return open_recording(**named)


class PlaybackNode(Node):
    """``dff_source``: images out."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters and open the recording; raises ParameterException or ValueError."""
        super().__init__("dff_source", **arguments)
        self._settings = declare(self, SourceSettings)
        self._recording = open_source(self._settings)
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[self._settings.reliability.upper()])
        topic = self.resolve_topic_name("image")
        kind, name = (CompressedImage, f"{topic}/compressed") if self._settings.compressed else (Image, topic)
        self._publisher = self.create_publisher(kind, name, qos)
        self._image = ImageMessage("rgb8")
        self._stopping = threading.Event()
        self._player = threading.Thread(target=self._run, name="dff_player", daemon=True)
        self.exit_code = 0

    def start(self) -> bool:
        """Begin to play."""
        self.get_logger().info(f"playing {self._recording.description} on {self._publisher.topic_name}")
        self._player.start()
        return True

    @property
    def finished(self) -> bool:
        """True when everything was played."""
        return not self._player.is_alive()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop playing; False where the player is still busy after ``timeout`` seconds."""
        self._stopping.set()
        if self._player.ident is not None:
            self._player.join(timeout)
        return not self._player.is_alive()

    def _run(self) -> None:
        try:
            self._play()
        except (ValueError, OSError, RuntimeError) as error:  # a recording that breaks off; rclpy's errors when told to end
            if not self._stopping.is_set():
                self.exit_code = 1
                self.get_logger().error(f"playing failed: {error}")

    def _play(self) -> None:
        self._wait_for_subscribers()
        started, count = time.monotonic(), 0
        for item in self._paced():
            self._publisher.publish(self._message(item))
            count += 1
        for note in notes_of(self._recording):
            self.get_logger().warning(note)
        self.get_logger().info(f"played {count} images in {time.monotonic() - started:.1f} s")
        if not self._stopping.is_set():
            self._publisher.wait_for_all_acked(Duration(seconds=1.0))
            self._stopping.wait(_END_SECONDS)

    def _wait_for_subscribers(self) -> None:
        deadline = time.monotonic() + self._settings.wait
        while self._publisher.get_subscription_count() < self._settings.subscribers and not self._stopping.is_set():
            if time.monotonic() > deadline:
                self.get_logger().warning(
                    f"{self._publisher.get_subscription_count()} of {self._settings.subscribers} subscribers after "
                    f"{self._settings.wait:g} s: starting anyway"
                )
                return
            self._stopping.wait(0.05)
        if self._settings.subscribers:
            self._stopping.wait(_MATCH_SECONDS)

    def _paced(self) -> Any:
        """The frames of all rounds, each when it is due; ends early when the process is to end."""
        pace = Pace(self._settings.rate)
        for item in rounds(self._recording, loop=self._settings.loop, jump=self._settings.loop_stamps == "jump"):
            if self._stopping.wait(pace.seconds_until(item.stamp)):
                return
            yield item

    def _message(self, item: StampedFrame) -> Any:
        header = Header(frame_id=self._settings.frame_id or item.frame_id)
        if self._settings.restamp:
            header.stamp = self.get_clock().now().to_msg()
        else:
            header.stamp = Time(sec=item.stamp // 1_000_000_000, nanosec=item.stamp % 1_000_000_000)
        if self._settings.compressed:
            return compressed_message(header, encode_jpeg(item.frame, JPEG_QUALITY))
        return self._image.fill(header, item.frame)


class Pace:
    """When the next frame is due: by a rate, or (rate 0) by the distance of the stamps."""

    def __init__(self, rate: float) -> None:
        self._period = 1 / rate if rate else None
        self._due = 0.0
        self._last_stamp = 0

    def seconds_until(self, stamp: int) -> float:
        """Seconds from now until the frame with this ``stamp`` shall go out, 0 where that time is past."""
        now = time.monotonic()
        if not self._due:
            self._due = now
        else:
            # A jump back in the stamps is no reason to wait or to hurry.
            self._due += self._period if self._period is not None else max(stamp - self._last_stamp, 0) / 1e9
        self._last_stamp = stamp
        if now - self._due > _CATCH_UP_SECONDS:
            self._due = now
        return max(self._due - now, 0.0)


def rounds(recording: Recording, *, loop: bool, jump: bool) -> Any:
    """The frames of ``recording``, once or again and again; without ``jump`` the stamps of later rounds go on counting."""
    offset = 0
    for _ in itertools.count() if loop else range(1):
        first = last = before = None
        for item in recording:
            first = item.stamp if first is None else first
            before, last = last, item.stamp
            yield replace(item, stamp=item.stamp + offset) if offset else item
        if first is None or last is None:
            raise RecordingError(f"{recording.description} holds no frames")
        if not jump:
            offset += last - first + (last - before if before is not None else 1_000_000_000)
