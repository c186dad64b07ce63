"""Who has the CPU's cores: a step, or the key frame that is computed beside the steps. Never both.

Two networks at once on the same cores take more than the sum of their times: their threads wait for each other, and for the cores. So each
has all cores in its turn. A step goes first: what computes the key frame stops between two operations of torch, of which the longest takes
a few milliseconds, and goes on when the step is over. Where steps leave it too little, they let it have its least share before they begin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

from torch.overrides import TorchFunctionMode

LONGEST_WAIT = 0.05
"""Seconds that a step waits for an operation to end, and again for what the key frame is owed: with more, latency would not be bounded."""


class KeyFrameCancelledError(Exception):
    """Raised within the computation of a key frame that nobody wants any more."""


class Turns:
    """Steps of one stream, and the key frame computed beside them, take turns.

    ``least_share`` of the time, 0 to below 1, is the key frame's even where steps follow each other without a pause.
    """

    def __init__(self, least_share: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if not 0 <= least_share < 1:
            raise ValueError(f"the least share of a key frame aside should be from 0 to below 1, got {least_share}")
        self.least_share = least_share
        self._clock = clock
        self._changed = Condition()
        self._in_step = False
        self._key: KeyTurn | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """The block is a step: the key frame gets what it is owed, then stands still until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._key is None or self._key.owed <= 0, LONGEST_WAIT)
            self._in_step = True
            self._changed.wait_for(lambda: self._key is None or not self._key.busy, LONGEST_WAIT)
        try:
            yield
        finally:
            with self._changed:
                self._in_step = False
                self._changed.notify_all()

    @contextmanager
    def key_frame(self) -> Iterator[KeyTurn]:
        """The block, in a thread of its own, computes a key frame: each of its operations waits for its turn."""
        key = KeyTurn(self, self._clock)
        with self._changed:
            self._key = key
        try:
            with key:
                yield key
        finally:
            with self._changed:
                self._key = None
                self._changed.notify_all()

    def cancel(self) -> None:
        """The next operation of the key frame being computed, if there is one, raises :class:`KeyFrameCancelledError`."""
        with self._changed:
            if self._key is not None:
                self._key.cancelled = True
                self._changed.notify_all()

    def _begin(self, key: KeyTurn) -> None:
        with self._changed:
            self._changed.wait_for(lambda: key.cancelled or not self._in_step)
            if key.cancelled:
                raise KeyFrameCancelledError("nobody wants this key frame any more")
            key.busy = True

    def _end(self, key: KeyTurn, took: float) -> None:
        with self._changed:
            key.busy = False
            key.computed += took
            self._changed.notify_all()


class KeyTurn(TorchFunctionMode):
    """One key frame's side: within it, the thread's operations of torch are made one by one, each in its turn.

    Networks need not know. One that is scripted or compiled as a whole is a single operation, which steps do not wait for.
    """

    def __init__(self, turns: Turns, clock: Callable[[], float]) -> None:
        super().__init__()
        self.computed = 0.0
        """Seconds spent in operations, waiting not counted."""
        self.busy = False
        self.cancelled = False
        self._turns = turns
        self._clock = clock
        self._started = clock()

    @property
    def owed(self) -> float:
        """Seconds of computing that its least share would have given it by now and that it has not had."""
        return self._turns.least_share * (self._clock() - self._started) - self.computed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation. Raises :class:`KeyFrameCancelledError` in place of it where that was asked for."""
        self._turns._begin(self)
        before = self._clock()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._turns._end(self, self._clock() - before)


class KeyProgress:
    """How far a key frame aside is by a simulated clock (any unit): it computes while no step does, and has its least share in any case."""

    def __init__(self, took: float, *, ordered: float, least_share: float) -> None:
        self._took = took
        self._ordered = ordered
        self._least_share = least_share
        self._computed = 0.0
        self._free: float | None = None

    def step_ends(self, now: float) -> None:
        """The step that it was ordered in, or a later one, is over."""
        self._free = now

    def ready(self, now: float) -> bool:
        """Whether it is there when a step begins; asked once for each."""
        if self._free is not None:
            self._computed += max(0.0, now - self._free)
        return max(self._computed, self._least_share * (now - self._ordered)) >= self._took
