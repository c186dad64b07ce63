"""Ctrl-C and SIGTERM as a flag. Imports nothing heavy, so that it can stand before the imports that take seconds."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_LAST_RESORT_SECONDS = 1.3


class StopSignals:
    """SIGINT and SIGTERM set a flag, however often they come; no KeyboardInterrupt is ever raised.

    Until ``expect_cleanup`` is called there is nothing to clean up, and a signal ends the process at once, exit code 0. From then on, where
    the main thread is stuck in a long call (loading a network), a timer ends the process in its place.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._cleans_up = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def expect_cleanup(self) -> None:
        """From now on signals only set the flag: the caller looks at ``stopped`` and cleans up."""
        self._cleans_up = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._cleans_up:
            os._exit(0)
        if not self._stopped.is_set():
            self._stopped.set()
            last_resort = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()

    @property
    def stopped(self) -> bool:
        """True after the first signal."""
        return self._stopped.is_set()
