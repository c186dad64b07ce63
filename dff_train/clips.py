"""Consecutive frames as a source of real pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dff_train.source_pairs import PAPER_OFFSETS, Array, SourcePair, Truth


class Clip:
    """Frames in order, each with its truth, in one run or several; the key frame of a pair lies at most at its run's start."""

    def __init__(
        self, name: str, frames: Sequence[Array], truth: Sequence[Truth], *, firsts: Sequence[int] | None = None, standing: float = 0.0
    ) -> None:
        """``firsts`` names for each frame the first frame of its run; without it all are one run.

        In a ``standing`` share of the pairs the key frame shows what the current frame shows: time went by and nothing moved.
        """
        self.name = name
        self.frames = frames
        self.truth = truth
        self.firsts = firsts or [0] * len(frames)
        self.standing = standing

    def __len__(self) -> int:
        return len(self.frames)

    def pair(self, index: int, rng: np.random.Generator, offsets: tuple[int, int] = PAPER_OFFSETS) -> SourcePair:
        """Frame ``index`` with a real earlier frame as its key; one too near its run's start gives way to the first that is not."""
        fewest, most = offsets
        first = self.firsts[index]
        later = min(max(index, first + fewest), len(self.frames) - 1)
        index = later if self.firsts[later] == first else index
        offset = min(int(rng.integers(fewest, most + 1)), index - first)
        stands = self.standing and rng.random() < self.standing
        key = index if stands else index - offset
        between = (self.frames[index],) * (offset - 1) if stands else tuple(self.frames[key + 1 : index])
        return SourcePair(self.frames[key], self.frames[index], offset, self.truth[index], self.name, between=between)

    def truths(self) -> list[tuple[tuple[int, int], Truth]]:
        return [((frame.shape[0], frame.shape[1]), truth) for frame, truth in zip(self.frames, self.truth, strict=True)]
