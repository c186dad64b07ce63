"""``dff_node``: detections and segmentation for every image of a camera.

    dff_node --ros-args -p model:=street -r image:=/camera/image_raw

The node itself is in ``lifecycle_node``; this is its process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dff_ros.node.signals import StopSignals


def main(args: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C; returns the exit code: 0, or 1 with one line on stderr where the node cannot start."""
    signals = StopSignals()
    from dff_ros.engine.host import spin_briefly
    from dff_ros.node.process import run_process

    spin_briefly()
    from dff_ros.node.lifecycle_node import DeepFeatureFlowNode  # after all that: it imports torch, which takes seconds

    return run_process(DeepFeatureFlowNode, signals, args)


if __name__ == "__main__":
    sys.exit(main())
