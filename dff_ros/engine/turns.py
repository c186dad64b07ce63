"""Who has the CPU's cores: a step, or the key frame that is computed beside the steps.

Two networks at once on the same cores, each with all threads, take more than the sum of their times: threads wait for each other, and for
the cores. So each has all cores in its turn. A step goes first: what computes the key frame stops between two operations of torch, of which
the longest takes a few milliseconds, and goes on when the step is over. Where steps leave a key frame less than its least share of time,
there are no turns to take: it and the steps have half of the threads each until it is there, which wastes least where cores are short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LONGEST_WAIT = 0.05
"""Seconds that a step waits for an operation to end, at the most."""


class KeyFrameCancelledError(Exception):
    """Raised within the computation of a key frame that nobody wants any more."""


class Turns:
    """Steps of one stream, and the key frame computed beside them, take turns.

    Where steps leave the key frame less than ``least_share`` of the time, 0 to below 1, it has half of the threads instead, all the time.
    With a share of 0 it never has: beside steps without a pause it may take very long.
    """

    def __init__(self, least_share: float, *, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        if not 0 <= least_share < 1:
            raise ValueError(f"the least share of a key frame aside should be from 0 to below 1, got {least_share}")
        self.least_share = least_share
        self.threads = threads
        """Torch's threads of whoever has all of them. Torch counts them for each thread, and a new one begins with what was set last,
        wherever that was: another stream's half of them, perhaps."""
        self._clock = clock
        self._changed = Condition()
        self._in_step = False
        self._operations = 0
        """Of key frames, cancelled ones too, that are running now: one at the most, but after a ``close`` that did not wait."""
        self._key: KeyTurn | None = None

    @property
    def half(self) -> int:
        """Threads of each where a step and a key frame share them."""
        return max(1, self.threads // 2)

    @contextmanager
    def step(self) -> Iterator[float]:
        """The block is a step: the key frame stands still until it ends, or has half of the threads. Gives the seconds waited for it."""
        waited, threads = 0.0, torch.get_num_threads()
        try:
            with self._changed:
                beside, shared = self._key is not None, self._shares()
                if not shared:
                    called = self._clock()
                    self._in_step = True
                    if self._operations:
                        self._changed.wait_for(lambda: not self._operations, LONGEST_WAIT)
                        waited = self._clock() - called
            if beside:
                set_threads(max(1, self.threads - self.half) if shared else self.threads)
            yield waited
        finally:
            self._in_step = False  # before the lock, in which another interrupt may come
            set_threads(threads)
            with self._changed:
                self._changed.notify_all()

    def take_all(self) -> None:
        """The step at hand has all threads from now on: what shared them is not wanted any more."""
        set_threads(self.threads)

    def key_frame(self) -> KeyTurn:
        """What the computation of the next key frame, in a thread of its own, is to run within."""
        with self._changed:
            self._key = KeyTurn(self, self._clock)
            return self._key

    def _shares(self) -> bool:
        """Whether the key frame being computed has half of the threads, from now on where it is owed something."""
        key = self._key
        if key is None or key.cancelled:
            return False
        key.shares = key.shares or key.owed > 0
        return key.shares

    def _begin(self, key: KeyTurn) -> None:
        with self._changed:
            if not key.cancelled and self._in_step:
                before = self._clock()
                key.waiting_since = before
                self._changed.wait_for(lambda: key.cancelled or not self._in_step)
                key.waiting_since = None
                key.waited += self._clock() - before
            if key.cancelled:
                raise KeyFrameCancelledError("nobody wants this key frame any more")
            self._operations += 1

    def _end(self) -> None:
        with self._changed:
            self._operations -= 1
            self._changed.notify_all()

    def _cancel(self, key: KeyTurn) -> None:
        with self._changed:
            key.cancelled = True
            self._forget(key)

    def _leave(self, key: KeyTurn) -> None:
        with self._changed:
            self._forget(key)

    def _forget(self, key: KeyTurn) -> None:
        if self._key is key:
            self._key = None
        self._changed.notify_all()


class KeyTurn(TorchFunctionMode):
    """One key frame's side: within it, a thread's operations of torch are made one by one, each in its turn.

    Networks need not know, but should hold no lock from one operation to the next that a step needs too (before Python 3.12
    ``functools.cached_property`` holds one, for all objects of its class). Scripted ones have no operations
    that could be waited with: they run on beside the steps. Attention leaves torch's fused form within it, and its last bits with that.
    """

    def __init__(self, turns: Turns, clock: Callable[[], float]) -> None:
        super().__init__()
        self.cancelled = False
        self.shares = False
        """Whether it runs beside the steps, with half of the threads, instead of between them."""
        self.waited = 0.0
        self.waiting_since: float | None = None
        self._turns = turns
        self._clock = clock
        self._started: float | None = None

    @property
    def computed(self) -> float:
        """Seconds since its computation began in which it need not wait."""
        if self._started is None:
            return 0.0
        return (self._clock() if self.waiting_since is None else self.waiting_since) - self._started - self.waited

    @property
    def owed(self) -> float:
        """Seconds of computing that its least share would have given it by now and that it has not had."""
        if self._started is None:
            return 0.0
        return self._turns.least_share * (self._clock() - self._started) - self.computed

    def cancel(self) -> None:
        """Its next operation, or its beginning, raises :class:`KeyFrameCancelledError`."""
        self._turns._cancel(self)

    def __enter__(self) -> KeyTurn:
        if self.cancelled:
            raise KeyFrameCancelledError("nobody wanted this key frame any more before it was begun")
        self._started = self._clock()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._turns._leave(self)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation. Raises :class:`KeyFrameCancelledError` in place of it where that was asked for."""
        self._turns._begin(self)
        try:
            set_threads(self._turns.half if self.shares else self._turns.threads)
            return func(*args, **(kwargs or {}))
        finally:
            self._turns._end()


def set_threads(count: int) -> None:
    """Have torch compute with ``count`` threads in this thread."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class KeyProgress:
    """How far a key frame aside is by a simulated clock, in any unit: it computes while no step does or, where that leaves it less than its
    least share, from then on all the time with half of the threads, which is taken for half of the speed.

    Without a ``least_share`` it computes all the time, as on a GPU.
    """

    def __init__(self, took: float, *, ordered: float, least_share: float | None) -> None:
        self._left = took
        self._ordered = self._free = ordered
        self._computed = 0.0
        self._least_share = least_share
        self._shares = False

    def step_begins(self, now: float) -> None:
        """A step begins."""
        passed = now - self._free
        self._free = now
        self._computed += passed
        self._left -= passed * (0.5 if self._shares else 1.0)
        self._shares = self._shares or (self._least_share or 0.0) * (now - self._ordered) > self._computed

    def step_ends(self, now: float) -> None:
        """The step that it was ordered in, or a later one, is over."""
        if self._least_share is not None and not self._shares:
            self._free = now

    @property
    def ready(self) -> bool:
        """Whether it is there."""
        return self._left <= 0
