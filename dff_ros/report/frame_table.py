"""What happened frame by frame, in columns: about a hundred bytes a frame, so that an hour of video is no burden."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = ("index", "key_age_frames", "key_age_ms", "motion_px", "disagreement", "step_ms", "latency_ms", "agreement")
"""Keys of a trace record that are numbers or null."""


class FrameTable:
    """The records of a replay's trace (``dff_replay --trace``), one row for each frame in order."""

    def __init__(self) -> None:
        self._numbers = {name: array("d") for name in NUMBERS}
        self._stamps = array("q")
        self._words: dict[str, int] = {}
        self._kinds = array("H")
        self._reasons = array("H")
        self._made_key = array("b")

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one frame; what a record lacks or has as null was not measured."""
        for name, column in self._numbers.items():
            value = record.get(name)
            column.append(np.nan if value is None else float(value))
        self._stamps.append(int(record.get("stamp") or 0))
        self._kinds.append(self._word(record.get("kind")))
        self._reasons.append(self._word(record.get("reason")))
        self._made_key.append(bool(record.get("made_key")))

    def _word(self, word: str | None) -> int:
        return self._words.setdefault(word or "", len(self._words))

    def __len__(self) -> int:
        return len(self._stamps)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """(frames,) one of ``NUMBERS``, NaN where not measured."""
        return np.array(self._numbers[name])

    @property
    def kinds(self) -> list[str]:
        """``key``, ``propagated`` or ``dropped``, for each frame."""
        return self._said(self._kinds)

    @property
    def reasons(self) -> list[str]:
        """Why each frame was made a key frame; empty where it was not."""
        return self._said(self._reasons)

    @property
    def made_key(self) -> NDArray[np.bool_]:
        """(frames,) whether the frame was made a key frame, at once or aside."""
        return np.array(self._made_key, bool)

    def of_kind(self, kind: str) -> NDArray[np.bool_]:
        """(frames,) whether the frame is of this kind."""
        return np.asarray(np.array(self._kinds) == self._words.get(kind, -1), bool)

    def _said(self, codes: array[int]) -> list[str]:
        names = list(self._words)
        return [names[code] for code in codes]

    @property
    def stamps(self) -> NDArray[np.int64]:
        """(frames,) nanoseconds; 0 where unknown."""
        return np.array(self._stamps, np.int64)

    @property
    def timed(self) -> bool:
        """Whether the stamps can serve as an axis: all known, and rising."""
        stamps = self.stamps
        return bool(len(stamps) > 1 and (stamps > 0).all() and (np.diff(stamps) >= 0).all() and stamps[-1] > stamps[0])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(frames,) since the first frame, by the stamps."""
        stamps = self.stamps
        return (stamps - stamps[:1]).astype(np.float64) / 1e9

    @property
    def period_ms(self) -> float | None:
        """The usual time from one frame to the next (the median, so that a pause does not count); None without stamps."""
        if not self.timed:
            return None
        period = float(np.median(np.diff(self.stamps))) / 1e6
        return period if period > 0 else None

    def agreement_by_age(self) -> list[float | None]:
        """Mean agreement with per-frame at each age of the key; None where no frame had that age."""
        ages, agreement = self["key_age_frames"], self["agreement"]
        known = ~(np.isnan(ages) | np.isnan(agreement))
        if not known.any():
            return []
        whole = ages[known].astype(int)
        sums, counts = np.bincount(whole, agreement[known]), np.bincount(whole)
        return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
