"""Settings as ROS parameters, and the files that set them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from node_process import Peer, peer
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.node.parameters import NodeSettings, chosen, declare, descriptor
from dff_ros.node.playback_node import SourceSettings

__all__ = ["peer"]

CONFIG = Path(__file__).resolve().parent.parent / "config"


def node_with(**values: object) -> Node:
    return Node("declared", parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])


@pytest.fixture
def nodes(peer: Peer) -> Iterator[list[Node]]:
    created: list[Node] = []
    yield created
    for node in created:
        node.destroy_node()


def test_what_the_user_gave_comes_back_and_the_rest_has_its_default(nodes: list[Node]) -> None:
    nodes.append(node_with(schedule="fixed:3", score_threshold=0.25, jpeg_quality=50))
    assert declare(nodes[0], EngineSettings) == EngineSettings(schedule="fixed:3", score_threshold=0.25)
    assert declare(nodes[0], NodeSettings) == NodeSettings(jpeg_quality=50)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("score_threshold", 1.5, InvalidParameterValueException),
        ("threads", -1, InvalidParameterValueException),
        ("schedule", 10, InvalidParameterTypeException),
        ("device", "tpu", ValueError),
    ],
)
def test_a_bad_value_is_refused_and_named(nodes: list[Node], name: str, value: object, kind: type[Exception]) -> None:
    nodes.append(node_with(**{name: value}))
    with pytest.raises(kind, match=name):
        declare(nodes[0], EngineSettings)


def test_no_two_settings_of_one_node_share_a_name() -> None:
    assert not {item.name for item in fields(NodeSettings)} & {item.name for item in fields(EngineSettings)}


@pytest.mark.parametrize("settings", [NodeSettings, EngineSettings, SourceSettings])
def test_every_parameter_is_described(settings: type) -> None:
    for item in fields(settings):
        assert descriptor(item.default, item.metadata).description


def test_a_bound_left_open_is_the_types_own() -> None:
    metadata = {"description": "d", "minimum": 1, "maximum": None, "choices": None, "dynamic": True}
    limits = descriptor(3, metadata).integer_range[0]
    assert (limits.from_value, limits.to_value) == (1, 2**63 - 1)
    assert descriptor(3.0, metadata).floating_point_range[0].from_value == 1.0


def test_chosen_takes_only_the_fields_of_the_settings() -> None:
    parameters = [Parameter("schedule", value="fixed:2"), Parameter("use_sim_time", value=True)]
    assert chosen(EngineSettings, parameters) == {"schedule": "fixed:2"}


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_parameter_files_fit_any_node_name_and_hold_known_settings(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert content.keys() == {"/**"}
    given = content["/**"]["ros__parameters"]
    own = {item.name for item in fields(NodeSettings)}
    NodeSettings(**{name: value for name, value in given.items() if name in own})
    settings = EngineSettings().with_values({name: value for name, value in given.items() if name not in own})
    parse_schedule(settings.schedule, settings)


def test_there_is_a_parameter_file() -> None:
    assert (CONFIG / "dff.yaml").is_file()
