"""The training set: several sources mixed, every sample a function of the seed and its index alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from dff_train.augment import NETWORK_PIXELS, Augmentation, augment
from dff_train.drives import DriveScenes
from dff_train.readers import CamVidStills, DataError, HighwayFrames, PetsFrames
from dff_train.recordings import unlabelled_source
from dff_train.samples import Sample
from dff_train.source_pairs import PAPER_OFFSETS, Source

SOURCES: Mapping[str, Callable[[Path, bool, bool], Source]] = {
    CamVidStills.name: lambda data, *_: CamVidStills(data / "camvid" / "train"),
    PetsFrames.name: lambda data, *_: PetsFrames(data / "pets09"),
    HighwayFrames.name: lambda data, *_: HighwayFrames(data / "highway"),
    DriveScenes.name: lambda _, flow, between: DriveScenes(flow=flow, between=between),
}
"""Name of a source, as recipes give it -> its training part: from a DATA folder (docs/data.md), whether flow is wanted, and whether
frames between are."""


class MixedDataset(Dataset[Sample]):
    """Endless samples of several sources: ``dataset[i]`` is the same sample in any order and any process, for every i >= 0."""

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        augmentation: Augmentation | None = None,
        *,
        seed: int = 0,
        offsets: tuple[int, int] = PAPER_OFFSETS,
    ) -> None:
        """``weights`` are the shares of the sources; ``offsets`` the fewest and most frames of a pair: with (0, 0) all are stills."""
        if not sources or len(sources) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"expected a weight of at least 0 for each of {len(sources)} sources, not all 0, got {list(weights)}")
        # A loader's process is forked off this one. OpenCV's threads do not survive that: the first warp, or changing the number of
        # threads, would wait for them forever. Here they are stopped in time; more threads would only take cores from the training.
        cv2.setNumThreads(1)
        self.sources = list(sources)
        self.shares = np.asarray(weights, float) / sum(weights)
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.offsets = offsets

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        source = self.sources[rng.choice(len(self.sources), p=self.shares)]
        return augment(source.pair(int(rng.integers(len(source))), rng, self.offsets), self.augmentation, rng)


def open_sources(
    data: Path, names: Sequence[str], *, pixels: int = NETWORK_PIXELS, flow: bool = False, between: bool = False
) -> list[Source]:
    """The named sources, decoded into memory; raises DataError where one is unknown or its files are missing.

    A name with a slash is the place of an unlabelled recording in ``data``; of these at most ``pixels`` pixels a frame are kept, and one
    that cannot be read raises RecordingError.
    """
    unknown = [name for name in names if name not in SOURCES and "/" not in name]
    if unknown:
        raise DataError(f"sources are {', '.join(SOURCES)} and FOLDER/NAME of a recording, got {', '.join(unknown)}")
    return [SOURCES[name](data, flow, between) if name in SOURCES else unlabelled_source(data, name, pixels=pixels) for name in names]


def mixed_dataset(
    data: Path,
    shares: Mapping[str, float],
    *,
    crop: tuple[int, int],
    seed: int = 0,
    offsets: tuple[int, int] = PAPER_OFFSETS,
    input_pixels: int = NETWORK_PIXELS,
    flow: bool = False,
    between: bool = False,
) -> MixedDataset:
    """The data set of a recipe: ``shares`` maps names of SOURCES to shares of the samples.

    ``crop`` is (height, width) in network pixels; ``flow`` adds exact flow and visibility where they are known, ``between`` the frames
    between key frame and current frame.
    """
    sources = open_sources(data, list(shares), pixels=input_pixels, flow=flow, between=between)
    augmentation = Augmentation(crop=crop, pixels=input_pixels, flow=flow, between=between)
    return MixedDataset(sources, list(shares.values()), augmentation, seed=seed, offsets=offsets)
