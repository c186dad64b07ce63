"""``dff_source``: plays a video, an image folder, a bag or a generated drive as a camera.

    dff_source --ros-args -p video:=drive.mp4 -r image:=/camera/image_raw

The node itself is in ``playback_node``; this is its process, which ends when everything was played.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dff_ros.node.signals import StopSignals


def main(args: Sequence[str] | None = None) -> int:
    """Play; returns the exit code: 0, or 1 with one line on stderr where the recording cannot be read."""
    signals = StopSignals()
    from dff_ros.node.playback_node import PlaybackNode
    from dff_ros.node.process import run_process

    return run_process(PlaybackNode, signals, args)


if __name__ == "__main__":
    sys.exit(main())
