"""Newest-only hand-over from the subscription's callback to the worker thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One slot: a new item replaces one that nobody took, so that latency stays bounded at any input rate."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Store ``item``; True when it replaced one that was never taken."""
        with self._changed:
            replaced = self._item is not None
            self._item = item
            self._changed.notify()
            return replaced

    def take(self) -> T | None:
        """The newest item, waiting for one; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        """Empty the slot and let every ``take``, waiting or to come, return None."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()


class Worker(Generic[T]):
    """A thread that hands each item put into its mailbox to ``handle``, one at a time."""

    def __init__(self, handle: Callable[[T], None], *, name: str) -> None:
        self._handle = handle
        self._mailbox: Mailbox[T] = Mailbox()
        # A daemon, for a process that must end while a computation cannot be interrupted.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Hand over ``item``; True when it replaced one that was still waiting."""
        return self._mailbox.put(item)

    def stop(self, timeout: float | None = None) -> bool:
        """End after the item being handled; False when that takes longer than ``timeout`` seconds."""
        self._mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            self._handle(item)
