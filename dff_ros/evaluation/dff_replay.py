"""``dff_replay``: its process; the replay itself is in ``replay``."""

from __future__ import annotations

import sys

from dff_ros.engine.host import keep_freed_memory, spin_briefly


def main(arguments: list[str] | None = None) -> int:
    """Run ``dff_replay`` on a host prepared as the node prepares it; returns the exit code."""
    keep_freed_memory()
    spin_briefly()
    from dff_ros.evaluation.replay import main as run  # after all that: it imports torch

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
