"""Which frames of a recording are looked at: segments spread over it, as many as the time allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dff_ros.recording.frames import Recording, StampedFrame

Segment = tuple[int, int]
"""First frame and the one after the last, counted from the beginning of the recording as it was given (a range counts anew)."""

LENGTH = 60
"""Frames of a segment where not all can be looked at: a few key intervals."""

LEAST = 12
"""Frames that a recording should have at least; with fewer nothing can be said of keys some frames apart."""


def spread(total: int, affordable: int) -> list[Segment]:
    """Segments of about ``LENGTH`` frames, ``affordable`` frames in all, evenly spread over ``total``; one where that is everything."""
    affordable = max(LEAST, affordable)
    if affordable >= total:
        return [(0, total)]
    count = max(1, round(affordable / LENGTH))
    length = affordable // count
    starts = [round(number * (total - length) / max(1, count - 1)) for number in range(count)] if count > 1 else [(total - length) // 2]
    return [(start, start + length) for start in starts]


def shortened(segments: Sequence[Segment], affordable: int) -> list[Segment]:
    """The beginnings of all segments, each cut by the same share, so that no more frames than ``affordable`` are left."""
    total = sum(after - first for first, after in segments)
    share = min(1.0, affordable / total)
    return [(first, first + max(2, int((after - first) * share))) for first, after in segments]


def taken(recording: Iterable[StampedFrame], segments: Sequence[Segment]) -> Iterator[tuple[bool, StampedFrame]]:
    """The segments' frames, and whether each begins its segment. What lies behind the last segment is not read."""
    ahead = list(segments)
    for place, item in enumerate(recording):
        while ahead and place >= ahead[0][1]:
            ahead.pop(0)
        if not ahead:
            return
        if place >= ahead[0][0]:
            yield place == ahead[0][0], item
        if place + 1 >= ahead[-1][1]:
            return


def frames_of(recording: Recording) -> int:
    """How many there are; counted by reading where the recording does not know."""
    return len(recording) or sum(1 for _ in recording)
