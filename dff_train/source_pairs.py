"""What a data source hands to the augmentation: frames at their own size, and how they were moved and pasted over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PAPER_OFFSETS = (0, 9)
"""Fewest and most frames between the key frame and the current one, as in the paper (section 3)."""

LONGEST_OFFSET = 15
"""Most frames that a source can put between them: half as far again, so that a key frame that comes late is nothing new."""

UNMOVED: Array = np.eye(3)


def no_boxes() -> Array:
    """An empty (0, 4) float32 array of boxes."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Truth:
    """What a source says about one frame, in the frame's own pixels."""

    labels: Array | None = None
    """(H, W) uint8 CamVid ids, 255 without truth; None: no pixel is labelled."""
    boxes: Array = field(default_factory=no_boxes)
    box_labels: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    ignore_boxes: Array = field(default_factory=no_boxes)
    labelled_classes: tuple[bool, bool, bool] = (False, False, False)
    points: Array = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """(K, 2) x y worth having in a crop: pixels of rare classes."""


@dataclass(frozen=True)
class Cutout:
    """An object cut out of a still by its labels."""

    patch: Array
    """(h, w, 3) uint8 RGB."""
    alpha: Array
    """(h, w) uint8, 255 on the object, soft at its edge."""
    box: tuple[float, float, float, float]
    """Where it stood in its still."""
    corner: tuple[int, int]
    """x y of the patch's first pixel in its still."""
    label: int
    """Its CamVid id."""


@dataclass(frozen=True)
class Pasted:
    """A cutout placed into a pair. Matrices are 3x3 affine, from its still's pixels to each frame's; None: not in that frame."""

    cutout: Cutout
    to_image: Array | None
    to_key: Array | None
    unseen: Array | None = None
    """Where it would be in the one frame that does not show it, because it comes or goes on the way; None: no frame between shows it."""


@dataclass(frozen=True)
class SourcePair:
    """Two frames of a source at their own size, the truth of the current one, and for pairs made of stills their motion.

    ``flow`` (H, W, 2) float32 and ``visible`` (H, W) bool are given where the source knows them per pixel. Where
    ``made`` is set both frames are the same still and the flow follows from the matrices ``to_image`` and ``to_key``
    (3x3 affine, still -> frame) and the pasted objects.
    """

    key_image: Array
    image: Array
    offset: int
    truth: Truth
    source: str
    flow: Array | None = None
    visible: Array | None = None
    between: tuple[Array, ...] | None = None
    """The frames between the two, the key frame's neighbour first; None where the source does not hold them or they are ``made`` too."""
    made: bool = False
    to_image: Array = field(default_factory=lambda: UNMOVED)
    to_key: Array = field(default_factory=lambda: UNMOVED)
    pasted: tuple[Pasted, ...] = ()


class Source(Protocol):
    """Labelled frames of one kind, held in memory."""

    name: str

    def __len__(self) -> int: ...

    def pair(self, index: int, rng: np.random.Generator, offsets: tuple[int, int] = PAPER_OFFSETS) -> SourcePair:
        """Frame ``index`` (or one near it) as the current one, with a key frame ``offsets[0]`` to ``offsets[1]`` frames before it."""
        ...

    def truths(self) -> list[tuple[tuple[int, int], Truth]]:
        """Size (height, width) and truth of every frame, for statistics such as anchors."""
        ...
