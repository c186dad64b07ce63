"""How fast the camera turns by another sensor: a hint to the schedule, since a turning robot needs keys before its images show it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu

from dff_ros.node.messages import stamp_of

STALE_NS = 500_000_000
"""A hint whose stamp is further from the image's than this says nothing about it."""

SEARCH_SECONDS = 0.2
"""How often a topic that nobody publishes yet is looked for."""

KINDS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "geometry_msgs/msg/TwistStamped": (TwistStamped, lambda message: message.twist.angular),
    "sensor_msgs/msg/Imu": (Imu, lambda message: message.angular_velocity),
}
"""Message types by name, and where each has its angular velocity."""

SHORT_NAMES = {"twist": "geometry_msgs/msg/TwistStamped", "imu": "sensor_msgs/msg/Imu"}


class MotionHint:
    """The newest turn rate on a topic; its type is given or, once somebody publishes there, found."""

    def __init__(self, node: Node, topic: str, kind: str, *, warn: Callable[[str, str], None]) -> None:
        """``kind`` is ``twist``, ``imu`` or ``auto``; an empty ``topic`` means no hints."""
        self._node = node
        self._topic = topic
        self._warn = warn
        self._newest: tuple[int, float] | None = None
        self._subscription: Any = None
        self._search: Any = None
        if not topic:
            return
        if kind in SHORT_NAMES:
            self._subscribe(SHORT_NAMES[kind])
        else:
            self._search = node.create_timer(SEARCH_SECONDS, self._look_for_type, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def turn_rate(self, stamp: int) -> float | None:
        """Radians per second, about whatever axis, at an image's stamp; None where no hint is near it."""
        newest = self._newest  # replaced as a whole by the executor's thread
        if newest is None or not stamp or abs(stamp - newest[0]) > STALE_NS:
            return None
        return newest[1]

    def destroy(self) -> None:
        """End the subscription."""
        if self._search is not None:
            self._node.destroy_timer(self._search)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._search = self._subscription = self._newest = None

    def _look_for_type(self) -> None:
        name = self._node.resolve_topic_name(self._topic)
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(name)}
        known = sorted(types & KINDS.keys())
        if known:
            self._node.destroy_timer(self._search)
            self._search = None
            self._subscribe(known[0])
        elif types:
            self._warn("warning", f"motion_topic: {name} carries {', '.join(sorted(types))}, expected {' or '.join(KINDS)}")

    def _subscribe(self, type_name: str) -> None:
        kind, angular = KINDS[type_name]
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # an inertial sensor's publishers are often no better
        self._subscription = self._node.create_subscription(kind, self._topic, lambda message: self._take(message, angular(message)), qos)

    def _take(self, message: Any, angular: Any) -> None:
        rate = math.hypot(angular.x, angular.y, angular.z)
        if math.isfinite(rate):
            self._newest = (stamp_of(message.header), rate)
