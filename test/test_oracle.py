"""The oracle: dynamic programming against trying every placement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dff_ros.evaluation.schedule_study.oracle import Losses, best_keys, least_losses, loss_of


def table(frames: int, ages: int, seed: int) -> Losses:
    losses = np.random.default_rng(seed).uniform(0.0, 1.0, (frames, ages))
    losses[:, 0] = 0.0
    for frame in range(frames):
        losses[frame, frame + 1 :] = np.nan
    return losses


def placements(frames: int, count: int) -> list[list[int]]:
    return [[0, *rest] for rest in itertools.combinations(range(1, frames), count - 1)]


@pytest.mark.parametrize(("frames", "ages"), [(1, 3), (6, 6), (8, 3), (9, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_no_placement_loses_less(frames: int, ages: int, seed: int) -> None:
    losses = table(frames, ages, seed)
    least = least_losses(losses)
    for count in range(1, frames + 1):
        tried = min(loss_of(losses, keys) for keys in placements(frames, count))
        assert least[count] == pytest.approx(tried)
        if np.isfinite(tried):
            keys = best_keys(losses, count)
            assert len(keys) == count
            assert loss_of(losses, keys) == pytest.approx(tried)
    assert least[0] == np.inf
    assert least[frames] == 0.0  # per-frame


def test_keys_stand_where_the_loss_jumps() -> None:
    losses = np.zeros((10, 10))
    for frame in range(6, 10):
        losses[frame, frame - 5 :] = 1.0  # keys before frame 6 are worthless from there on
    assert best_keys(losses, 2) == [0, 6]
    assert loss_of(losses, [0, 6]) == 0.0
    assert loss_of(losses, [0, 5]) == pytest.approx(0.4)


def test_no_key_reaches_across_a_cut() -> None:
    losses = np.zeros((8, 5))
    for frame in range(4, 8):
        losses[frame, frame - 3 :] = np.nan  # frame 4 is the first of another video
    assert least_losses(losses)[1] == np.inf
    assert best_keys(losses, 2) == [0, 4]


def test_too_few_keys_for_the_ages_are_refused() -> None:
    losses = np.zeros((10, 3))
    assert loss_of(losses, [0, 5]) == np.inf
    with pytest.raises(ValueError, match="3 keys cannot answer all of 10 frames at ages up to 2"):
        best_keys(losses, 3)
    with pytest.raises(ValueError, match=r"keys should be 1\.\.10, got 11"):
        best_keys(losses, 11)
    with pytest.raises(ValueError, match="keys should begin with frame 0"):
        loss_of(losses, [2, 5])
    with pytest.raises(ValueError, match="losses at age 0 should be 0"):
        least_losses(np.ones((3, 3)))
