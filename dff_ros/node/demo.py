"""``make demo``: the node and a camera as separate processes over DDS, watched by a third, and what it saw.

Plays a generated drive, or a recording of yours, into ``dff_node``; listens to what it publishes; prints a summary and leaves
``out/demo.mp4`` and ``out/demo.png``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import rclpy
from tqdm import tqdm

from dff_ros.core.bundle import Card, find_bundle, read_card
from dff_ros.core.results import Task
from dff_ros.engine.host import keep_freed_memory
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.demo_report import answered_share, draw, mean_iou_against_drive, summarise
from dff_ros.node.listen import Heard, Listener, spin_until
from dff_ros.node.playback_node import SourceSettings, open_source
from dff_ros.node.process import one_line, use_large_image_profile
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import Recording

DRIVE_FRAMES = 150
LEAST_ANSWERED = 0.95
IMAGE = "/demo/camera/image_raw"
_START_SECONDS = 180.0
_SILENT_SECONDS = 60.0
_SETTLE_SECONDS = 15.0


class DemoError(RuntimeError):
    """Why the demo failed, in one line."""


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Play a recording into dff_node and show what it publishes.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", default="", help="video file to play")
    source.add_argument("--bag", default="", help="bag to play (folder; sqlite3 or mcap)")
    source.add_argument("--frames", default="", help="folder of images to play")
    source.add_argument("--drive", type=int, default=0, help=f"frames of a generated drive (default, {DRIVE_FRAMES})")
    parser.add_argument("--topic", default="", help="image topic of the bag, where it has several")
    parser.add_argument("--rate", type=float, default=0.0, help="images per second (default: the recording's own)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated drive")
    parser.add_argument("--model", default="street", help="bundle: a name under models/ or a folder")
    parser.add_argument("--schedule", default="", help="when to compute key frames (default: the node's)")
    parser.add_argument("--key-frames", default="aside", choices=("blocking", "aside"), help="whether frames wait for key frames")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for demo.mp4 and demo.png")
    return parser.parse_args(args)


def source_settings(options: argparse.Namespace) -> SourceSettings:
    """What the source shall play; the node and this listener are its two subscribers."""
    given = {item.name: getattr(options, item.name) for item in fields(SourceSettings) if hasattr(options, item.name)}
    if not (options.video or options.bag or options.frames or options.drive):
        given["drive"] = DRIVE_FRAMES
    return SourceSettings(**given, subscribers=2, wait=_START_SECONDS)


class Demo:
    """The two processes and the listener; leaving the context ends them all."""

    def __init__(self, options: argparse.Namespace, settings: SourceSettings, recording: Recording, card: Card) -> None:
        os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))  # neither hears nor disturbs other nodes
        use_large_image_profile()
        rclpy.init(args=[])
        often = 0.1 if sys.stderr.isatty() else 5.0
        self._bar = tqdm(total=len(recording), unit="frame", desc="starting", dynamic_ncols=True, mininterval=often)
        node_parameters = {
            "model": str(find_bundle(options.model).resolve()),
            "device": options.device,
            "key_frames": options.key_frames,
        }
        if options.schedule:
            node_parameters["schedule"] = options.schedule
        self._played = {item.name: getattr(settings, item.name) for item in fields(settings)}
        answered_by = {Task.DETECTION: card.detection_classes, Task.SEGMENTATION: card.segmentation_classes}
        tasks = frozenset(task for task, classes in answered_by.items() if classes)
        self._listener = Listener(node="/demo/dff", image=IMAGE, tasks=tasks)
        self._children: list[ChildProcess] = []
        self._node = self._start("dff_node", node_parameters)

    def _start(self, module: str, parameters: dict[str, object]) -> ChildProcess:
        def show(line: str) -> None:
            self._bar.write(f"{module}: {line}", file=sys.stderr)

        child = ChildProcess(module, parameters=parameters, remappings={"__ns": "/demo", "image": IMAGE}, show=show)
        self._children.append(child)
        return child

    @property
    def heard(self) -> Heard:
        """What the listener has."""
        return self._listener.heard

    def run(self) -> None:
        """Until everything was played and answered; raises DemoError when a process dies or nothing moves any more."""
        self._await(lambda: "engine" in self.heard.diagnostics, _START_SECONDS, "the node did not get ready")
        source = self._start("source_node", self._played)
        self._bar.set_description("playing")
        while source.exit_code is None:
            self._await(self._moved_from(self._progress, source), _SILENT_SECONDS, "the source stood still")
        if source.exit_code != 0:
            raise DemoError(f"the source ended with exit code {source.exit_code}: {self._last_line(source)}")
        self._bar.set_description("waiting")
        ended = time.monotonic()
        spin_until(self._listener, lambda: self.heard.diagnosed_at > ended and self._node_is_idle(), _SETTLE_SECONDS)

    def _moved_from(self, progress: tuple[int, int], source: ChildProcess) -> Callable[[], bool]:
        return lambda: self._progress != progress or source.exit_code is not None

    @property
    def _progress(self) -> tuple[int, int]:
        return len(self.heard.images), len(self.heard.frame_info)

    def _await(self, condition: Callable[[], bool], timeout: float, complaint: str) -> None:
        def met() -> bool:
            self._bar.update(len(self.heard.frame_info) - self._bar.n)
            return condition() or self._node.exit_code is not None

        if not spin_until(self._listener, met, timeout):
            raise DemoError(f"{complaint} for {timeout:.0f} s")
        if self._node.exit_code is not None:
            raise DemoError(f"the node ended with exit code {self._node.exit_code}: {self._last_line(self._node)}")

    def _node_is_idle(self) -> bool:
        """The node has told about all images that it received, and what it published has arrived."""
        count = self.heard.count
        done = sum(count(name) for name in ("dropped", "processed", "duplicate", "stale", "bad", "failed"))
        return done == count("received") and len(self.heard.answered) >= count("processed")

    @staticmethod
    def _last_line(child: ChildProcess) -> str:
        child.wait(1.0)
        return child.lines[-1] if child.lines else "it said nothing"

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *error: Any) -> None:
        for child in reversed(self._children):
            child.stop()
        self._bar.close()
        self._listener.destroy_node()
        rclpy.try_shutdown()


def run(options: argparse.Namespace) -> int:
    """Play, listen, draw and print; returns the exit code."""
    settings = source_settings(options)
    recording = open_source(settings)
    card = read_card(find_bundle(options.model))
    options.out.mkdir(parents=True, exist_ok=True)
    with Demo(options, settings, recording, card) as demo:
        demo.run()
        heard = demo.heard
    draw(recording, heard, card, options.out)
    print("\n".join(summarise(heard, recording)))
    if isinstance(recording, GeneratedDrive):
        print(mean_iou_against_drive(recording, heard))
    print(f"pictures: {options.out / 'demo.mp4'}, {options.out / 'demo.png'}")
    share = answered_share(heard)
    if share < LEAST_ANSWERED:
        raise DemoError(f"{share:.1%} of the frames taken were answered, expected {LEAST_ANSWERED:.0%}")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """The demo as a command; 1 with the reason on stderr where it fails."""
    options = parse_arguments(args)
    keep_freed_memory()
    try:
        return run(options)
    except (DemoError, ValueError, OSError) as error:
        print(f"demo failed: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("demo interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
