"""The camera's topic: subscribing to it, and telling why nothing comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

TOPIC = "image"

LARGE_IMAGES = (
    "if its images are larger than the publisher's shared-memory segment (512 KiB unless configured) they are lost silently: "
    "start the camera driver with FASTRTPS_DEFAULT_PROFILES_FILE set to the package's config/fastdds_large_images.xml"
)


def newest_best_effort() -> QoSProfile:
    """Works with reliable and with best-effort cameras, and never queues. A new one each time: rclpy writes ``qos_overrides`` into it."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Input:
    """The subscription of one camera."""

    def __init__(self, node: Node, transport: str, callback: Callable[[Any], None]) -> None:
        self._node = node
        self._transport = transport
        self._mismatch = ""
        kind = CompressedImage if transport == "compressed" else Image
        # Resolved first, so that ``image:=X`` moves X/compressed too; and rclpy names qos_overrides by the resolved topic.
        base = node.resolve_topic_name(TOPIC)
        self.topic = node.resolve_topic_name(f"{base}/compressed") if transport == "compressed" else base
        self._qos = newest_best_effort()
        self._subscription = node.create_subscription(
            kind,
            self.topic,
            callback,
            self._qos,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_mismatch),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    @property
    def mismatch(self) -> str:
        """What a publisher offers that this subscription cannot take; empty while there is none."""
        still_there = self._mismatch and any(self._is_refused(info.qos_profile) for info in self._publishers())
        return self._mismatch if still_there else ""

    def _is_refused(self, offered: QoSProfile) -> bool:
        return bool(qos_check_compatible(offered, self._qos)[0] == QoSCompatibility.ERROR)

    def _publishers(self) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(self.topic))

    def _on_mismatch(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._mismatch = f"a publisher on {self.topic} has an incompatible QoS, {policy}: its images cannot be received"
        self._node.get_logger().error(self._mismatch)

    def why_silent(self) -> str:
        """The likeliest reason why no image comes."""
        if self.mismatch:
            return self.mismatch
        kinds = {info.topic_type for info in self._publishers()}
        expected = "sensor_msgs/msg/CompressedImage" if self._transport == "compressed" else "sensor_msgs/msg/Image"
        if expected in kinds:
            return f"a publisher is on {self.topic}; {LARGE_IMAGES}"
        if kinds:
            return f"{self.topic} carries {', '.join(sorted(kinds))}, expected {expected}: check the remapping and image_transport"
        return f"nobody publishes on {self.topic}{self._hint_at_other_transport()}"

    def _hint_at_other_transport(self) -> str:
        base = self._node.resolve_topic_name(TOPIC)
        other, topic = ("raw", base) if self._transport == "compressed" else ("compressed", f"{base}/compressed")
        return f", but {topic} is there: set image_transport:={other}" if self._node.count_publishers(topic) else ""
