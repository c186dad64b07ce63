"""Dataclasses from what a YAML file says: every name known, none missing, every value of its field's type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Part = TypeVar("Part")


def named(kind: type[Any], content: Any) -> dict[str, Any]:
    """``content`` as a mapping of names that the dataclass ``kind`` knows and needs; raises ValueError where it is none."""
    part = kind.__name__.lower()
    if not isinstance(content, Mapping):
        raise ValueError(f"{part} should be a mapping, got {content!r}")
    known = {item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(kind)}
    if unknown := sorted(str(name) for name in content if name not in known):
        raise ValueError(f"{part} knows {', '.join(sorted(known))}, got {', '.join(unknown)}")
    if missing := [name for name, needed in known.items() if needed and name not in content]:
        raise ValueError(f"{part} should have {', '.join(missing)}")
    return dict(content)


def checked(part: Part) -> Part:
    """``part``, a dataclass; raises ValueError where a value is not of its field's type."""
    kinds = get_type_hints(type(part))
    for item in fields(part):  # type: ignore[arg-type]
        value = getattr(part, item.name)
        if not fits(value, kinds[item.name]):
            raise ValueError(f"{item.name} should be of type {item.type}, got {value!r}")
    return part


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the type ``kind``: a class, or a tuple or Mapping of such.

    A whole number is a float too, a bool is neither.
    """
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if inner:
        return isinstance(value, Mapping) and all(fits(name, inner[0]) and fits(item, inner[1]) for name, item in value.items())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
