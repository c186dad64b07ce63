"""config/dff.rviz: every topic it shows exists in the running node, with the type that its display takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from node_process import Peer, peer, running

__all__ = ["peer"]

CONFIG = Path(__file__).resolve().parent.parent / "config" / "dff.rviz"
TYPES = {"rviz_default_plugins/Image": "sensor_msgs/msg/Image"}


def displays(tree: Any) -> Iterator[dict[str, Any]]:
    """Every display of the configuration that shows a topic."""
    if isinstance(tree, dict):
        if isinstance(tree.get("Topic"), dict):
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from displays(item)


def test_every_topic_it_names_is_published_with_the_right_type(peer: Peer, tiny_bundle: Path) -> None:
    shown = {display["Topic"]["Value"]: TYPES[display["Class"]] for display in displays(yaml.safe_load(CONFIG.read_text()))}
    assert "/dff/overlay" in shown
    with running("dff_node", {"model": str(tiny_bundle), "report_cost": False}):
        for topic, kind in shown.items():
            peer.until(lambda topic=topic: peer.count_publishers(topic) > 0, f"a publisher on {topic}")
            assert {info.topic_type for info in peer.get_publishers_info_by_topic(topic)} == {kind}
