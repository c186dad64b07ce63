"""Who listens decides what is computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import tiny_card
from node_process import RELIABLE, Peer, peer
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from dff_ros.core.results import ALL_TASKS, Task
from dff_ros.message_fields import caption
from dff_ros.node.outputs import Outputs

__all__ = ["peer"]


@pytest.fixture(scope="module")
def outputs(peer: Peer) -> Iterator[Outputs]:
    created = Outputs(peer, tiny_card())
    yield created
    created.destroy()


@pytest.mark.parametrize(
    ("kind", "topic", "tasks"),
    [
        (Detection2DArray, "detections", {Task.DETECTION}),
        (Image, "segmentation", {Task.SEGMENTATION}),
        (Image, "segmentation_color", {Task.SEGMENTATION}),
        (Image, "overlay", ALL_TASKS),
        (CompressedImage, "overlay/compressed", ALL_TASKS),
    ],
)
def test_a_head_runs_only_while_somebody_listens_to_it(peer: Peer, outputs: Outputs, kind: type, topic: str, tasks: set[Task]) -> None:
    assert outputs.wanted_tasks == set()
    subscription = peer.create_subscription(kind, f"/test_peer/{topic}", lambda message: None, RELIABLE)
    peer.until(lambda: outputs.wanted_tasks == tasks, f"the heads that {topic} needs")
    peer.destroy_subscription(subscription)
    peer.until(lambda: outputs.wanted_tasks == set(), "no head to be needed any more")


def test_the_caption_tells_a_key_frame_from_a_propagated_one() -> None:
    assert caption("key", 0, 0.0) == "key frame"
    assert caption("propagated", 3, 200.4) == "propagated, age 3 (200 ms)"
