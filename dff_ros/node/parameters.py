"""ROS parameters from settings dataclasses: one field, one parameter; range, description and read-only flag come with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from dff_ros.engine.settings import setting, validate
from dff_ros.overlay import OVERLAY_JPEG_QUALITY

S = TypeVar("S")

_LARGEST_FLOAT = 1.7976931348623157e308
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class NodeSettings:
    """What ``dff_node`` can be told besides the engine's settings."""

    image_transport: str = setting(
        "raw", "raw subscribes to image, compressed to image/compressed", choices=("raw", "compressed")
    )
    autostart: bool = setting(True, "configure and activate at start; false leaves it to a lifecycle manager")
    report_cost: bool = setting(True, "measure at configure what a key and a propagated frame cost, and log what follows from it")
    class_id_format: str = setting(
        "name", "class_id of a detection: the name of its class or the index", choices=("name", "index"), dynamic=True
    )
    max_image_age: float = setting(
        0.0, "seconds after which an image is dropped unseen, by its stamp and the node's clock; 0 sets no limit",
        minimum=0.0, maximum=3600.0, dynamic=True,
    )
    motion_topic: str = setting(
        "", "TwistStamped or Imu topic of a sensor that turns with the camera, a hint to adaptive schedules; empty for none"
    )
    motion_type: str = setting("auto", "what motion_topic carries; auto finds it out", choices=("auto", "twist", "imu"))
    jpeg_quality: int = setting(OVERLAY_JPEG_QUALITY, "quality of overlay/compressed", minimum=1, maximum=100, dynamic=True)

    def __post_init__(self) -> None:
        validate(self)


def descriptor(default: object, metadata: Mapping[str, Any]) -> ParameterDescriptor:
    """How a settings field is declared; a bound that the field leaves open is the type's own."""
    description = metadata["description"]
    if metadata["choices"]:
        description += f" ({' | '.join(metadata['choices'])})"
    result = ParameterDescriptor(description=description, read_only=not metadata["dynamic"])
    low, high = metadata["minimum"], metadata["maximum"]
    if low is None and high is None:
        return result
    if isinstance(default, int):
        limits = IntegerRange(from_value=-_LARGEST_INTEGER - 1 if low is None else int(low),
                              to_value=_LARGEST_INTEGER if high is None else int(high))
        result.integer_range = [limits]
    else:
        bounds = FloatingPointRange(from_value=-_LARGEST_FLOAT if low is None else float(low),
                                    to_value=_LARGEST_FLOAT if high is None else float(high))
        result.floating_point_range = [bounds]
    return result


def declare(node: Node, settings: type[S]) -> S:
    """Declare every field of ``settings`` on ``node``; returns them with the values that the user gave.

    Raises rclpy's ParameterException for a wrong type or a value out of range, ValueError for any other bad value.
    """
    values: dict[str, Any] = {}
    for item in fields(settings):  # type: ignore[arg-type]
        parameter = node.declare_parameter(item.name, item.default, descriptor(item.default, item.metadata))
        values[item.name] = parameter.value
    return settings(**values)


def chosen(settings: type[Any], parameters: Iterable[Any]) -> dict[str, Any]:
    """Names and values of those parameters that are fields of ``settings``."""
    names = {item.name for item in fields(settings)}
    return {parameter.name: parameter.value for parameter in parameters if parameter.name in names}
