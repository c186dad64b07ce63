"""Quantities as a person writes them."""

from __future__ import annotations

from typing import Any


def points(share: float) -> str:
    """0.0164 as ``1.6 points``."""
    return "1.0 point" if f"{share * 100:.1f}" == "1.0" else f"{share * 100:.1f} points"


def frames(count: int) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count:,} frame{'' if count == 1 else 's'}"


def ms(value: Any) -> str:
    """Milliseconds with two or three digits."""
    return "-" if value is None else f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def sentence(line: str) -> str:
    """A line of a log as a sentence."""
    return f"{line[:1].upper()}{line[1:].rstrip('.')}."
