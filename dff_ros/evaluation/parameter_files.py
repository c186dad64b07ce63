"""The node's parameter files, read without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

NODE_ONLY = frozenset(
    {
        *("image_transport", "autostart", "report_cost", "class_id_format", "max_image_age", "motion_topic", "motion_type"),
        "jpeg_quality",
    }
)
"""Parameters of ``dff_node`` that are not the engine's; a test holds them against the node's declarations."""

ROS_OWN = frozenset({"use_sim_time", "qos_overrides", "start_type_description_service"})
"""Parameters that every ROS node has."""


def read_parameters(path: Path) -> dict[str, object]:
    """The engine's settings in a parameter file: ``/**: ros__parameters:`` (or ``dff_node:``), or plain names and values.

    The node's other parameters are left out, unknown ones kept, so that they are refused.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"should hold parameters, got {type(content).__name__}")
    values: dict[str, object] = {}
    for section in _sections(content):
        values.update(section)
    return {name: value for name, value in values.items() if str(name).split(".")[0] not in NODE_ONLY | ROS_OWN}


def _sections(content: Mapping[Any, Any]) -> list[Mapping[str, object]]:
    """The parts of a parameter file that concern the node, in order."""
    nodes = {name: body for name, body in content.items() if isinstance(body, Mapping) and "ros__parameters" in body}
    if not nodes:
        return [content]
    ours = [body["ros__parameters"] for name, body in nodes.items() if str(name).split("/")[-1] in ("**", "*", "dff_node")]
    if not ours or not all(isinstance(body, Mapping) for body in ours):
        raise ValueError(f"has no parameters for dff_node under {', '.join(map(str, nodes))}")
    return ours
