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
    def step(self) -> Iterator[float]:
        """The block is a step: the key frame stands still until it ends, or has half of the threads. Gives the seconds waited for it."""
        called, shared, threads = self._clock(), False, torch.get_num_threads()
        try:
            with self._changed:
                beside, shared = self._key is not None, self._shares()
                if not shared:
                    self._in_step = True
                    self._changed.wait_for(lambda: self._key is None or not self._key.busy, LONGEST_WAIT)
            if shared:
                torch.set_num_threads(max(1, threads - threads // 2))
            yield self._clock() - called if beside and not shared else 0.0
        finally:
            self._in_step = False  # before the lock, in which another interrupt may come
            if shared:
                torch.set_num_threads(threads)
            with self._changed:
                self._changed.notify_all()

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
            key.busy = True

    def _end(self, key: KeyTurn) -> None:
        with self._changed:
            key.busy = False
            self._changed.notify_all()

    def _cancel(self, key: KeyTurn) -> None:
        with self._changed:
            key.cancelled = True
            self._changed.notify_all()

    def _leave(self, key: KeyTurn) -> None:
        with self._changed:
            if self._key is key:
                self._key = None
            self._changed.notify_all()


class KeyTurn(TorchFunctionMode):
    """One key frame's side: within it, a thread's operations of torch are made one by one, each in its turn.

    Networks need not know, but should hold no lock from one operation to the next that a step needs too. Scripted ones have no operations
    that could be waited with: they run on beside the steps. Attention leaves torch's fused form within it, and its last bits with that.
    """

    def __init__(self, turns: Turns, clock: Callable[[], float]) -> None:
        super().__init__()
        self.busy = False
        self.cancelled = False
        self.shares = False
        """Whether it runs beside the steps, with half of the threads, instead of between them."""
        self.waited = 0.0
        self.waiting_since: float | None = None
        self._turns = turns
        self._clock = clock
        self._started: float | None = None
        self._has_half = False

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
            self._turns._leave(self)
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
        if self.shares and not self._has_half:
            self._has_half = True
            torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._turns._end(self)


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
        self._speed = 1.0
        self._beside = least_share is None

    def step_begins(self, now: float) -> None:
        """A step begins."""
        passed = now - self._free
        self._free = now
        self._computed += passed
        self._left -= passed * self._speed
        if self._least_share is not None and not self._beside and self._least_share * (now - self._ordered) > self._computed:
            self._beside, self._speed = True, 0.5

    def step_ends(self, now: float) -> None:
        """The step that it was ordered in, or a later one, is over."""
        if not self._beside:
            self._free = now

    @property
    def ready(self) -> bool:
        """Whether it is there."""
        return self._left <= 0
