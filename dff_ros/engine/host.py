"""What a process asks of its host before the engine runs: memory that stays, and threads that soon sleep while they wait.

The node and the replay ask for the same, so that what is measured offline is what runs on the robot. Nothing heavy is imported
here: ``spin_briefly`` must come before torch.
"""

from __future__ import annotations

import ctypes
import os

_MEBIBYTE = 1 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep freed image buffers instead of returning each to the kernel (2 to 7 times faster images).

    False where the C library has no ``mallopt`` or refuses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h; 32 MiB is the largest mmap threshold it accepts
    settings = ((mmap_threshold, 32), (trim_threshold, 256), (top_pad, 16))
    accepted = [mallopt(key, mebibytes * _MEBIBYTE) == 1 for key, mebibytes in settings]  # each one, also after a refusal
    return all(accepted)


def spin_briefly() -> None:
    """Have torch's threads wait for each other awake only for a moment; before torch is imported, and unless the user chose otherwise.

    By default they spin, which costs nothing on an idle machine and nearly everything on a busy one: with the two cores of a machine
    shared with another program a propagated frame took 370 ms instead of 4 to 20. Never to spin costs up to half more on an idle one;
    a thousand rounds kept both times within a tenth of the better.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        os.environ["GOMP_SPINCOUNT"] = "1000"
