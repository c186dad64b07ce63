"""``dff_tune``: its process; the tuning itself is in ``command`` and ``tune``."""

from __future__ import annotations

import sys

from dff_ros.engine.host import keep_freed_memory, spin_briefly


def main(arguments: list[str] | None = None) -> int:
    """Run ``dff_tune`` on a host prepared as the node prepares it; returns the exit code."""
    keep_freed_memory()
    spin_briefly()
    from dff_ros.tuning.command import main as run  # after all that: it imports torch

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
