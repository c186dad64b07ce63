"""A motion hint as the node takes it: from real topics, of a type that is found, and only while it is fresh."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped, Vector3
from node_process import RELIABLE, SECOND, Peer, header, image_message, peer, picture, running
from sensor_msgs.msg import Image, Imu

from dff_ros.node.motion import STALE_NS

__all__ = ["peer"]


class Turning:
    """A node with an adaptive schedule, its camera, and a sensor beside it."""

    def __init__(self, peer: Peer, kind: type, topic: str) -> None:
        self.peer = peer
        self.camera = peer.create_publisher(Image, "/image", RELIABLE)
        self.sensor = peer.create_publisher(kind, topic, RELIABLE)
        self.infos = peer.collect(DiagnosticArray, "/dff/frame_info")
        peer.until(lambda: self.camera.get_subscription_count() == 1, "the node's subscription to images")
        peer.until(lambda: self.sensor.get_subscription_count() == 1, "the node's subscription to motion")
        peer.knock(self.camera, lambda stamp: image_message(picture(), "rgb8", stamp), self.infos)

    def expected(self, stamp: int) -> float:
        """The disagreement that the node expects of the next image; it is a propagated frame."""
        count = len(self.infos)
        self.camera.publish(image_message(picture(), "rgb8", stamp))
        self.peer.until(lambda: len(self.infos) > count, "an answer")
        values = {item.key: item.value for item in self.infos[-1].status[0].values}
        assert values["kind"] == "propagated", values
        return float(values["disagreement"])

    def hint(self, message: Any, turned: float) -> None:
        """Publish a hint until the node goes by it: its next image is expected to be off by about ``turned``."""

        def heard() -> bool:
            stamp = self.peer.next_stamp()
            message.header = header(stamp)
            self.sensor.publish(message)
            return abs(self.expected(stamp) - turned) < 0.05

        self.peer.until(heard, f"a hint of {turned}")


PARAMETERS = {"schedule": "adaptive", "adaptive_price": 100.0, "adaptive_max_age": 1000, "max_key_age": 0.0, "max_gap": 0.0}


def run(tiny_bundle: Path, **more: object) -> Any:
    parameters = {"model": str(tiny_bundle), "report_cost": False, "threads": 1, "motion_topic": "/motion", **PARAMETERS, **more}
    return running("dff_node", parameters)


@pytest.fixture(params=["auto", "given"])
def motion_type(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.mark.parametrize("kind", [TwistStamped, Imu])
def test_a_turning_sensor_makes_the_node_expect_more_until_it_is_stale(peer: Peer, tiny_bundle: Path, kind: type, motion_type: str) -> None:
    name = {TwistStamped: "twist", Imu: "imu"}[kind] if motion_type == "given" else "auto"
    with run(tiny_bundle, motion_type=name):
        robot = Turning(peer, kind, "/motion")
        still = robot.expected(peer.next_stamp())
        message = kind()
        angular = Vector3(x=0.0, y=-1.5, z=2.0)  # 2.5 rad/s
        if kind is Imu:
            message.angular_velocity = angular
        else:
            message.twist.angular = angular
        robot.hint(message, still + 0.5)
        stamp = peer.next_stamp()
        assert robot.expected(stamp) == pytest.approx(still + 0.5, abs=0.05)  # still fresh
        assert robot.expected(stamp + STALE_NS + SECOND) == pytest.approx(still, abs=0.05)
        peer.destroy_publisher(robot.sensor)
        peer.destroy_publisher(robot.camera)


def test_a_hint_that_is_no_number_is_not_taken(peer: Peer, tiny_bundle: Path) -> None:
    with run(tiny_bundle):
        robot = Turning(peer, TwistStamped, "/motion")
        still = robot.expected(peer.next_stamp())
        message = TwistStamped()
        message.twist.angular.z = 2.0
        robot.hint(message, still + 0.4)
        stamp = peer.next_stamp()
        broken = TwistStamped(header=header(stamp))
        broken.twist.angular.z = math.nan
        robot.sensor.publish(broken)
        assert robot.expected(stamp) == pytest.approx(still + 0.4, abs=0.05)
        peer.destroy_publisher(robot.sensor)
        peer.destroy_publisher(robot.camera)


def test_a_topic_of_another_type_is_named_and_the_node_lives_on(peer: Peer, tiny_bundle: Path) -> None:
    wrong = peer.create_publisher(Vector3, "/motion", RELIABLE)
    with run(tiny_bundle) as child:
        peer.until(lambda: "expected geometry_msgs/msg/TwistStamped or sensor_msgs/msg/Imu" in child.output, "a warning")
        assert "geometry_msgs/msg/Vector3" in child.output
    peer.destroy_publisher(wrong)
