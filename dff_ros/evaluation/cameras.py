"""Several cameras of one bag: which topics are replayed, what they are called, and which files their outputs go to."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dff_ros.recording.bag_reader import BagReader
from dff_ros.recording.bag_recording import BagRecording
from dff_ros.recording.bag_topics import TopicDetails, cameras, describe_topics
from dff_ros.recording.bag_types import IMAGES
from dff_ros.recording.bags import listed, open_bags, open_reader
from dff_ros.recording.frames import Recording, select
from dff_ros.recording.opening import bag_of, open_recording

ALL = "all"
"""In place of a topic: every camera of the bag."""

PER_CAMERA = ("video_out", "trace", "html")
"""Options whose file is of one camera."""

PER_CAMERA_TOPICS = ("label_topic", "detection_topic")
"""Options given once for each camera, in the order of ``--topic``."""

_ONE_CAMERA = ("labels", "boxes", "box_masks", "coco", "keys_from")
"""Options that belong to the frames of one camera."""


@dataclass(frozen=True)
class Camera:
    """One stream of a replay."""

    topic: str
    """Empty for anything but a bag."""
    name: str
    """Short for the topic; empty where there is only one camera."""
    recording: Recording
    options: argparse.Namespace
    """The command line, with files of its own where there are several cameras."""


def open_cameras(options: argparse.Namespace) -> list[Camera]:
    """What is replayed, one after the other."""
    recordings = open_inputs(options)
    topics = ["" if (bag := bag_of(recording)) is None else bag.topic for recording in recordings]
    if len(recordings) == 1:
        return [Camera(topics[0], "", recordings[0], options)]
    names = camera_names(topics)
    return [
        Camera(topic, names[topic], recording, options_of(options, names[topic], place))
        for place, (topic, recording) in enumerate(zip(topics, recordings, strict=True))
    ]


def open_input(options: argparse.Namespace) -> Recording:
    """The input, cut to ``--range``, of a command that takes one camera."""
    recordings = open_inputs(options)
    if len(recordings) > 1:
        raise ValueError(f"--topic should name one camera here, got {len(recordings)}")
    return recordings[0]


def open_inputs(options: argparse.Namespace) -> list[Recording]:
    """The input, cut to ``--range``: one recording, or one for each camera of a bag that was asked for.

    Raises RecordingError for what cannot be read, ValueError for options that belong to one camera, given with several.
    """
    if options.bag is None:
        named = {"video": options.video, "frames": options.frames}
        found: Sequence[Recording] = [open_recording(**named, drive=options.drive or 0, rate=options.rate, seed=options.seed or 0)]
    else:
        found = bag_cameras(options.bag, options.topic or [], options.label_topic)
    if len(found) > 1:
        for name in _ONE_CAMERA:
            if getattr(options, name, None):
                raise ValueError(f"--{name.replace('_', '-')} belongs to one camera, got {len(found)}")
    for name in PER_CAMERA_TOPICS:
        given = getattr(options, name)
        if given and len(given) != len(found):
            raise ValueError(f"--{name.replace('_', '-')} should be given once for each of {len(found)} cameras, got {len(given)}")
    return [recording if options.range is None else select(recording, *options.range) for recording in found]


def bag_cameras(bag: Path, topics: Sequence[str], truth: Sequence[str] = ()) -> list[BagRecording]:
    """The named image topics of a bag; of ``["all"]`` all that can be read, but for ``truth``; without any the only one."""
    reader = open_reader(bag)
    if ALL in topics:
        if len(topics) > 1:
            raise ValueError(f"--topic {ALL} should stand alone, got {', '.join(topics)}")
        topics = [name for name in cameras(describe_topics(reader)) if name not in truth]
    images = [topic.name for topic in reader.topics.values() if topic.kind in IMAGES and topic.name not in truth]
    if not topics and len(images) > 1:
        choice = f"--topic NAME, once or several times, or --topic {ALL}"
        raise ValueError(f"bag {bag} has several image topics, choose with {choice}; it has {listed(reader)}")
    if len(set(topics)) < len(topics):
        raise ValueError(f"--topic should name each topic once, got {', '.join(topics)}")
    return open_bags(reader, topics or images)


def topic_table(bag: BagReader) -> str:
    """The topics of a bag with images or detections, one a line, for a person."""
    topics = describe_topics(bag)
    if not topics:
        return f"{bag.path} has no topic with images or detections"
    widths = [max(len(row[column]) for row in map(_row, topics)) for column in range(4)]
    lines = []
    for topic in topics:
        cells = [cell.ljust(width) for cell, width in zip(_row(topic), widths, strict=True)]
        lines.append("  ".join([*cells, topic.encoding or ("cannot be read" if topic.problem else "")]).rstrip())
        lines += [f"    {topic.problem}"] if topic.problem else []
    return "\n".join(lines)


def _row(topic: TopicDetails) -> tuple[str, str, str, str]:
    rate = "" if topic.rate is None else f"{topic.rate:.3g} Hz"
    size = "" if topic.size is None else f"{topic.size[0]}x{topic.size[1]}"
    return topic.name, topic.kind, str(topic.count), f"{rate} {size}".strip()


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """A short name for each topic: ``/left/image_raw`` is ``left``, as far as that tells them apart."""
    bases = {topic: topic.strip("/").removesuffix("/compressed") for topic in topics}
    short = {topic: base.rpartition("/")[0] or base for topic, base in bases.items()}
    for names in (short, bases):
        if max(Counter(names.values()).values(), default=0) < 2:
            return names
    return {topic: topic.strip("/") for topic in topics}


def options_of(options: argparse.Namespace, camera: str, place: int) -> argparse.Namespace:
    """The same options with truth and files of the camera's own: ``out.mp4`` is ``out.left.mp4``; ``place`` is the camera's among all."""
    own = argparse.Namespace(**vars(options))
    for name in PER_CAMERA_TOPICS:
        setattr(own, name, getattr(options, name)[place : place + 1])
    for name in PER_CAMERA:
        path: Path | None = getattr(options, name, None)
        if path is not None:
            setattr(own, name, path.with_name(f"{path.stem}.{camera.replace('/', '_')}{path.suffix}"))
    return own
