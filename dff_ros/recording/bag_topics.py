"""What a bag has for a replay: its topics with images, and those with detections, by a look at their first messages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median

from dff_ros.image_encoding import EncodingError
from dff_ros.recording.bag_contents import Topic
from dff_ros.recording.bag_reader import BagReader
from dff_ros.recording.bag_recording import StampedMessage, TopicMessages, frame_in
from dff_ros.recording.bag_types import COMPRESSED_IMAGE, DETECTIONS, IMAGES

_LOOK = 10
"""Messages of a topic that are looked at."""


@dataclass(frozen=True)
class TopicDetails:
    """One topic: ``rate`` in Hz and ``size`` (width, height) are those of its first messages, None where they do not say."""

    name: str
    kind: str
    count: int
    rate: float | None
    size: tuple[int, int] | None
    encoding: str
    problem: str
    """Why its first image cannot be read; empty where it can, and for detections."""

    @property
    def has_images(self) -> bool:
        """Whether it can be replayed."""
        return self.kind in IMAGES and not self.problem


def describe_topics(bag: BagReader) -> list[TopicDetails]:
    """The topics with images or detections, by name."""
    return [_describe(bag, topic) for _, topic in sorted(bag.topics.items()) if topic.kind in (*IMAGES, DETECTIONS)]


def cameras(topics: list[TopicDetails]) -> list[str]:
    """The topics whose images can be read; of an image and its compressed copy, the image."""
    names = [topic.name for topic in topics if topic.has_images]
    return [name for name in names if name.removesuffix("/compressed") not in names or not name.endswith("/compressed")]


def _describe(bag: BagReader, topic: Topic) -> TopicDetails:
    first = list(islice(TopicMessages(bag, topic.name), _LOOK))
    gaps = [after.stamp - before.stamp for before, after in pairwise(first)]
    rate = 1e9 / median(gaps) if gaps and median(gaps) > 0 else None
    size, encoding, problem = None, "", ""
    if topic.kind in IMAGES:
        size, encoding, problem = _look_at(first)
    return TopicDetails(topic.name, topic.kind, topic.count, rate, size, encoding, problem)


def _look_at(messages: list[StampedMessage]) -> tuple[tuple[int, int] | None, str, str]:
    """Size, encoding and why it cannot be read, of the first image that can, else of the first."""
    encoding, problem = "", "no message can be read"
    for item in messages:
        if item.message is not None:
            encoding = encoding or str(item.message.format if item.kind == COMPRESSED_IMAGE else item.message.encoding)
        try:
            height, width = frame_in(item).shape[:2]
        except EncodingError as error:
            problem = str(error)
        else:
            return (width, height), encoding, ""
    return None, encoding, problem
