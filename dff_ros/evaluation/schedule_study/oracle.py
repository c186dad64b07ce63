"""The best placement of key frames, knowing the future: what a schedule could reach at most.

A table of losses says for every frame and every age of its key what the propagated answer loses (its disagreement with
per-frame's). From it the oracle is found by dynamic programming, and any schedule's loss is read off.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.floating]
"""(frames, ages): what frame i loses with its key ``age`` frames before it; column 0 is the key itself. NaN where there is no such key."""


def loss_of(losses: Losses, keys: Sequence[int]) -> float:
    """The mean loss over all frames with key frames at ``keys``, rising and from 0 on; inf where an age is not in the table."""
    check_table(losses)
    if not len(keys) or keys[0] != 0:
        raise ValueError(f"keys should begin with frame 0, got {list(keys[:3])}")
    total = 0.0
    for first, after in itertools.pairwise([*keys, len(losses)]):
        ages = range(after - first)
        if len(ages) > losses.shape[1]:
            return float("inf")
        total += sum(float(losses[first + age, age]) for age in ages)
    return total / len(losses) if np.isfinite(total) else float("inf")


def least_losses(losses: Losses) -> NDArray[np.float64]:
    """The least mean loss that ``k`` key frames allow, at index k = 0..frames; inf where so few leave a frame without an answer.

    Frames whose keys may not lie before a certain frame (where a video is cut) have NaN at the ages that would reach across.
    """
    return _programme(losses)[0]


def best_keys(losses: Losses, count: int) -> list[int]:
    """Where ``count`` key frames lose least; raises ValueError where so many cannot answer every frame."""
    if not 1 <= count <= len(losses):
        raise ValueError(f"keys should be 1..{len(losses)}, got {count}")
    least, lengths = _programme(losses)
    if not np.isfinite(least[count]):
        raise ValueError(f"{count} keys cannot answer all of {len(losses)} frames at ages up to {losses.shape[1] - 1}")
    keys, end = [], len(losses)
    for used in range(count, 0, -1):
        end -= int(lengths[used, end])
        keys.append(end)
    return keys[::-1]


def check_table(losses: Losses) -> None:
    """Raise ValueError where ``losses`` is no table whose keys themselves lose nothing."""
    if losses.ndim != 2 or not len(losses) or not losses.shape[1]:
        raise ValueError(f"losses should be (frames, ages), got {losses.shape}")
    if losses[:, 0].any():
        raise ValueError("losses at age 0 should be 0: a key frame's answer is per-frame's")


def _programme(losses: Losses) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``least_losses``, and for k keys up to frame j (exclusive) how many frames the last of them answers in the best case."""
    check_table(losses)
    frames, ages = losses.shape
    stretches = _stretches(losses)
    best = np.full(frames + 1, np.inf)
    best[0] = 0.0
    least, lengths = np.full(frames + 1, np.inf), np.zeros((frames + 1, frames + 1), np.int64)
    for used in range(1, frames + 1):
        following = np.full(frames + 1, np.inf)
        for length in range(1, min(ages, frames) + 1):
            reached = best[: frames + 1 - length] + stretches[: frames + 1 - length, length]
            better = reached < following[length:]
            following[length:][better] = reached[better]
            lengths[used, length:][better] = length
        best = following
        least[used] = best[frames] / frames
    return least, lengths


def _stretches(losses: Losses) -> NDArray[np.float64]:
    """(frames + 1, ages + 1): what a key at frame i and those after it lose, so many frames in all; inf where it cannot be."""
    frames, ages = losses.shape
    total = np.full((frames + 1, ages + 1), np.inf)
    total[:, 0] = 0.0
    for age in range(ages):
        reached = np.full(frames, np.inf)
        reached[: frames - age] = losses[np.arange(age, frames), age] if age < frames else []
        total[:frames, age + 1] = total[:frames, age] + np.where(np.isnan(reached), np.inf, reached)
    return total
