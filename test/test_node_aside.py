"""The node as a process with key frames computed aside: frames, services, parameters, diagnostics and the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import tiny_card
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import PATIENCE, RELIABLE, Peer, image_message, peer, picture, running
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from dff_ros.core.bundle import build_model, save_bundle

__all__ = ["peer"]


class Camera:
    """Shows images to the node one by one and reads what it says about each."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._publisher = peer.create_publisher(Image, "/image", RELIABLE)
        self._infos: list[DiagnosticArray] = peer.collect(DiagnosticArray, "/dff/frame_info")
        peer.until(lambda: self._publisher.get_subscription_count() == 1, "the subscription")

    def show(self, pixels: np.ndarray | None = None) -> dict[str, str]:
        """What is said about one image."""
        shown = picture() if pixels is None else pixels
        answer = self._peer.knock(self._publisher, lambda stamp: image_message(shown, "rgb8", stamp), self._infos)
        return {item.key: item.value for item in answer.status[0].values}

    def until(self, condition: Callable[[dict[str, str]], bool], pixels: np.ndarray | None = None) -> dict[str, str]:
        """Images until what is said about one of them meets the condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition(info := self.show(pixels)):
            assert time.monotonic() < deadline, f"the last of many frames: {info}"
        return info

    def close(self) -> None:
        self._peer.destroy_publisher(self._publisher)


def set_string(peer: Peer, name: str, value: str) -> Any:
    parameter = Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value))
    return peer.call(SetParameters, "/dff/set_parameters", SetParameters.Request(parameters=[parameter])).results[0]


def test_a_node_makes_key_frames_aside(peer: Peer, tiny_bundle: Path) -> None:
    parameters = {"model": str(tiny_bundle), "key_frames": "aside", "schedule": "fixed:3", "report_cost": False, "threads": 2}
    with running("dff_node", parameters):
        camera = Camera(peer)
        ordered = camera.until(lambda info: info["reason"] == "interval")
        assert ordered["kind"] == "propagated" and int(ordered["key_age_frames"]) >= 3
        switched = camera.until(lambda info: int(info["key_age_frames"]) < int(ordered["key_age_frames"]))
        assert switched["kind"] == "propagated" and float(switched["key_ms"]) > 0 and switched["key_ms"] != ordered["key_ms"]
        check_diagnostics(peer, camera)
        check_hard_triggers(peer, camera)
        assert set_string(peer, "key_frames", "blocking").successful
        assert camera.until(lambda info: info["reason"] == "interval")["kind"] == "key"
        assert set_string(peer, "key_frames", "aside").successful
        assert camera.until(lambda info: info["reason"] == "interval")["kind"] == "propagated"
        assert "should be one of blocking, aside" in set_string(peer, "key_frames", "sideways").reason
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert peer.call(ChangeState, "/dff/change_state", request).success
        assert camera.until(lambda info: info["kind"] == "key")["reason"] == "first frame"
        camera.until(lambda info: info["reason"] == "interval")
        camera.close()


def check_diagnostics(peer: Peer, camera: Camera) -> None:
    """The key rate counts keys made aside."""
    diagnostics = peer.collect(DiagnosticArray, "/diagnostics")

    def engine() -> dict[str, str]:
        found = [status for message in diagnostics for status in message.status if status.name == "dff: engine"]
        return {item.key: item.value for item in found[-1].values} if found else {}

    def enough(info: dict[str, str]) -> bool:
        return float(engine().get("key_rate") or 0) > 0.1

    camera.until(enough)
    assert engine()["key_frames"] == "aside"


def check_hard_triggers(peer: Peer, camera: Camera) -> None:
    """Each makes the next frame a blocking key frame."""
    peer.call(Trigger, "/dff/reset", Trigger.Request())
    info = camera.show()
    assert (info["kind"], info["reason"]) == ("key", "reset")
    for enabled in (False, True):
        peer.call(SetBool, "/dff/enable", SetBool.Request(data=enabled))
    info = camera.show()
    assert (info["kind"], info["reason"]) == ("key", "enabled")
    info = camera.show(picture(96, 128))
    assert (info["kind"], info["reason"]) == ("key", "size changed")


def test_ctrl_c_ends_it_while_a_key_frame_is_in_flight(peer: Peer, tmp_path: Path) -> None:
    card = tiny_card()
    feature_network = {**card.architecture["feature_network"], "width": 48, "channels": 64, "blocks": (2, 2, 4), "dilations": (1, 2, 4, 8)}
    card = tiny_card(architecture={**card.architecture, "feature_network": feature_network})
    save_bundle(tmp_path / "slow", card, build_model(card))
    parameters = {
        "model": str(tmp_path / "slow"), "input_pixels": 2_000_000, "threads": 1, "report_cost": False, "precision": "float32",
        "key_frames": "aside", "schedule": "fixed:1", "max_gap": 0.0, "max_key_age": 0.0,
    }  # fmt: skip
    with running("dff_node", parameters) as child:
        camera = Camera(peer)
        large = picture(1120, 1800)
        key = camera.show(large)
        assert camera.until(lambda info: info["reason"] == "interval", large)["kind"] == "propagated"
        begun = time.monotonic()
        child.signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 0
        took_ms = (time.monotonic() - begun) * 1e3
        assert took_ms < float(key["key_ms"]), "the key frame should have been in flight all the while"
        camera.close()
