"""The node as a process: how it starts, how it refuses to, how it ends, and its life cycle."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_card
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_process import BEST_EFFORT, PATIENCE, RELIABLE, SECOND, Peer, header, image_message, peer, picture, running
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from dff_ros.core.bundle import build_model, save_bundle
from dff_ros.image_encoding import encode_jpeg
from dff_ros.node.child_process import ChildProcess
from dff_ros.node.messages import compressed_message

__all__ = ["peer"]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def frame_infos(peer: Peer, node: str) -> list[DiagnosticArray]:
    return peer.collect(DiagnosticArray, f"{node}/frame_info")


def values(message: DiagnosticArray) -> dict[str, str]:
    return {item.key: item.value for item in message.status[0].values}


def counted(diagnostics: list[DiagnosticArray], name: str) -> int:
    """A counter of the node's, from the newest diagnostics; 0 before the first ones."""
    found = [item.value for message in diagnostics for status in message.status for item in status.values if item.key == name]
    return int(found[-1]) if found else 0


def test_two_nodes_run_side_by_side_and_a_remap_moves_the_compressed_topic_too(peer: Peer, tiny_bundle: Path) -> None:
    parameters = {"model": str(tiny_bundle), "report_cost": False, "threads": 1, "image_transport": "compressed"}
    mapping = {"__ns": "/left", "image": "/cameras/left"}
    reliable = {"qos_overrides./cameras/right.subscription.reliability": "reliable", "model": str(tiny_bundle), "report_cost": False}
    with (
        running("dff_node", parameters, remappings=mapping),
        running("dff_node", reliable, remappings={"__ns": "/right", "__node": "eye", "image": "/cameras/right"}),
    ):
        left = peer.create_publisher(CompressedImage, "/cameras/left/compressed", RELIABLE)
        right = peer.create_publisher(Image, "/cameras/right", RELIABLE)
        left_infos, right_infos = frame_infos(peer, "/left/dff"), frame_infos(peer, "/right/eye")
        peer.until(lambda: left.get_subscription_count() == right.get_subscription_count() == 1, "both subscriptions")
        (subscription,) = peer.get_subscriptions_info_by_topic("/cameras/right")
        assert subscription.qos_profile.reliability.name == "RELIABLE"
        peer.knock(left, lambda stamp: compressed_message(header(stamp, "left"), encode_jpeg(picture())), left_infos)
        peer.knock(right, lambda stamp: image_message(picture(), "bgr8", stamp, "right"), right_infos)
        assert [left_infos[0].header.frame_id, right_infos[0].header.frame_id] == ["left", "right"]
        left.publish(compressed_message(header(peer.next_stamp(), "left"), b"no picture"))
        peer.knock(left, lambda stamp: compressed_message(header(stamp, "left"), encode_jpeg(picture())), left_infos)
        check_mismatch(peer)
        for publisher in (left, right):
            peer.destroy_publisher(publisher)


def check_mismatch(peer: Peer) -> None:
    """A best-effort camera cannot feed a node that was told to ask for reliable: the diagnostics say so."""
    diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
    best_effort = peer.create_publisher(Image, "/cameras/right", BEST_EFFORT)

    def said() -> bool:
        return any("incompatible QoS, RELIABILITY" in status.message for message in diagnostics for status in message.status)

    peer.until(said, "a status about the mismatch")
    peer.destroy_publisher(best_effort)

    def withdrawn() -> bool:
        levels = [status.level for message in diagnostics for status in message.status if status.name == "right/eye: input"]
        return levels[-1] != DiagnosticStatus.ERROR

    peer.until(withdrawn, "the status after that camera has left")


def test_a_lifecycle_manager_can_drive_it_and_sim_time_and_bag_loops_work(peer: Peer, tiny_bundle: Path) -> None:
    parameters = {
        "model": str(tiny_bundle), "autostart": False, "use_sim_time": True, "max_image_age": 0.5, "threads": 1, "schedule": "fixed:100",
    }  # fmt: skip

    def state() -> str:
        return str(peer.call(GetState, "/dff/get_state", GetState.Request()).current_state.label)

    def change(number: int, expected: str) -> None:
        peer.call(ChangeState, "/dff/change_state", ChangeState.Request(transition=Transition(id=number)))
        assert state() == expected

    with running("dff_node", parameters) as child:
        assert state() == "unconfigured"
        change(Transition.TRANSITION_CONFIGURE, "inactive")
        assert "cost ratio" in child.output
        assert not peer.call(Trigger, "/dff/reset", Trigger.Request()).success
        change(Transition.TRANSITION_ACTIVATE, "active")
        camera, clock = peer.create_publisher(Image, "/image", RELIABLE), peer.create_publisher(Clock, "/clock", RELIABLE)
        infos = frame_infos(peer, "/dff")
        peer.until(lambda: camera.get_subscription_count() and clock.get_subscription_count(), "the subscriptions")

        def image_at(stamp: int) -> Image:
            clock.publish(Clock(clock=header(stamp).stamp))
            return image_message(picture(), "rgb8", stamp)

        seconds = (100, 101, 90)  # the third: the bag starts again
        answers = [peer.knock(camera, image_at, infos, stamps=itertools.count(second * SECOND, 1000)) for second in seconds]
        assert [values(answer)["reason"] for answer in answers] == ["first frame", "", "time went back"]
        change(Transition.TRANSITION_DEACTIVATE, "inactive")
        peer.until(lambda: not camera.get_subscription_count(), "the end of the subscription")
        change(Transition.TRANSITION_CLEANUP, "unconfigured")
        change(Transition.TRANSITION_CONFIGURE, "inactive")
        change(Transition.TRANSITION_ACTIVATE, "active")
        peer.until(lambda: camera.get_subscription_count() == 1, "the subscription after a second start")
        peer.knock(camera, image_at, infos, stamps=itertools.count(200 * SECOND, 1000))
        peer.destroy_publisher(camera)


def test_ctrl_c_twice_ends_it_while_it_computes_and_while_it_starts(peer: Peer, tmp_path: Path) -> None:
    card = tiny_card()
    feature_network = {**card.architecture["feature_network"], "width": 48, "channels": 64}
    card = tiny_card(architecture={**card.architecture, "feature_network": feature_network})
    save_bundle(tmp_path / "slow", card, build_model(card))
    parameters = {"model": str(tmp_path / "slow"), "input_pixels": 4_000_000, "threads": 1, "report_cost": False, "precision": "float32"}
    with running("dff_node", parameters) as child:
        camera = peer.create_publisher(Image, "/image", RELIABLE)
        infos = frame_infos(peer, "/dff")
        peer.until(lambda: camera.get_subscription_count() == 1, "the subscription")
        diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
        large = image_message(picture(1600, 2500), "rgb8", 0)
        while not counted(diagnostics, "received"):
            camera.publish(large)
            peer.idle(0.5)
        assert not infos, "the step should have taken longer than this"
        child.signal(signal.SIGINT)
        child.signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 0
    with running("dff_node", parameters) as child:
        wait_until(lambda: catches(child.pid, signal.SIGTERM), "the signal handler")
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"model": "/nowhere/at/all"}, "cannot configure: no bundle '/nowhere/at/all'"),
        ({"score_threshold": 2.0}, "score_threshold"),
    ],
)
def test_what_cannot_start_ends_with_one_clear_line(parameters: dict[str, object], complaint: str) -> None:
    child = ChildProcess("dff_node", parameters=parameters)
    assert child.wait(PATIENCE) == 1
    assert len(child.lines) == 1, child.output
    assert complaint in child.output


def test_an_activation_that_fails_says_why() -> None:
    overrides = {"qos_overrides./image.subscription.reliability": "perhaps"}
    child = ChildProcess("dff_node", parameters={**overrides, "report_cost": False})
    assert child.wait(PATIENCE) == 1
    assert "cannot activate: " in child.lines[-1] and "perhaps" in child.lines[-1], child.output
