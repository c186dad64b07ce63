"""Interrupts from the keyboard, which must not stop a training in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_noted() -> Iterator[Callable[[], bool]]:
    """Within, an interrupt from the keyboard is only noted, so that no step stops half way; a second one is an interrupt again."""
    noted = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupts(_: int) -> None:
    """A worker lives as long as the training process wants it to; the keyboard interrupts all processes of a terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
