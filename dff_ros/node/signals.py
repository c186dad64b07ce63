"""Ctrl-C and SIGTERM as a flag. Imports nothing heavy, so that it can stand before the imports that take seconds."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_LAST_RESORT_SECONDS = 1.6


class StopSignals:
    """SIGINT and SIGTERM set a flag, however often they come; no KeyboardInterrupt is ever raised.

    Where the main thread is stuck in a long call (loading a network), a timer ends the process in its place.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            last_resort = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()

    @property
    def stopped(self) -> bool:
        """True after the first signal."""
        return self._stopped.is_set()
