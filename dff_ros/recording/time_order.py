"""Messages in the order of their stamps, without holding more than a few."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

WINDOW = 8
"""Messages held back: what comes later than that many places late stays where it is."""

JUMP = 1_000_000_000
"""Nanoseconds back from which stamps are a clock set back, as in a recording of a recording, and not the order of arrival."""

T = TypeVar("T")


def in_time_order(items: Iterable[T], stamp_of: Callable[[T], int], *, window: int = WINDOW) -> Iterator[T]:
    """``items`` by their stamps in nanoseconds, where none is more than ``window`` places late; jumps back are kept."""
    held: list[tuple[int, int, T]] = []
    newest = 0
    for place, item in enumerate(items):
        stamp = stamp_of(item)
        if stamp < newest - JUMP:
            yield from (entry[2] for entry in sorted(held, key=_place_in_time))
            held.clear()
            newest = stamp
        newest = max(newest, stamp)
        heapq.heappush(held, (stamp, place, item))
        if len(held) > window:
            yield heapq.heappop(held)[2]
    yield from (entry[2] for entry in sorted(held, key=_place_in_time))


def _place_in_time(entry: tuple[int, int, T]) -> tuple[int, int]:
    return entry[:2]
