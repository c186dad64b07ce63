"""How far flow networks are off on KITTI's pairs with true flow, and how long they take, in one run.

    GOMP_SPINCOUNT=1000 python benchmarks/flow_error.py --data $DATA [--model BUNDLE ...]

Rows: no flow at all, OpenCV's presets of DIS, our DIS, and the flow network of each bundle given. As in the engine each sees the
frame resized to the bundle's pixel count and answers in feature cells. Columns: mean end-point error in source pixels, and the share of
pixels that are more than 3 px off; the same where it matters to the warp, in feature cells against the mean true flow of each cell;
milliseconds of what one propagated frame costs (the current image prepared, the flow computed; median).

True flow leads from the first frame, here the current one, to the second, here the key frame: flow runs from the current frame to
the key, whichever of the two was taken first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dff_ros.core.bundle import Card
from dff_ros.core.flow_network import DISFlow, FlowNetwork, StillFlow
from dff_ros.core.results import ImageGeometry
from dff_ros.engine.host import keep_freed_memory
from dff_ros.engine.loading import load_model
from dff_ros.engine.preprocess import fit, to_image
from dff_ros.engine.settings import EngineSettings
from dff_ros.recording.frames import Frame, read_image

OUTLIER_PX = 3.0
LEAST_KNOWN = 0.25
"""A feature cell counts where the flow of at least this share of its pixels is known (KITTI's is sparse)."""

LAYOUTS = {
    "_10_flow_noc": ("_10_colored_0", "_11_colored_0"),
    "_10_flow_occ": ("_10_colored_0", "_11_colored_0"),
    "_flow_gt": ("_frame1", "_frame2"),
}
"""Endings of the names: of the true flow (2012, 2015), and of the two images it belongs to."""

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class Pair:
    """Two images and the true flow from the first to the second: (H, W, 2) float32 (dx, dy) in pixels, known where (H, W) bool says."""

    current: Frame
    key: Frame
    flow: NDArray[np.float32]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Contender:
    """One row: a flow network with what it runs on."""

    name: str
    network: FlowNetwork
    stride: int
    input_pixels: int
    device: torch.device


@dataclass(frozen=True)
class FlowError:
    """End-point errors in source pixels and in feature cells, shares as fractions."""

    pixels: float
    outliers: float
    cells: float
    cell_outliers: float


class PresetDIS(DISFlow):
    """DIS as one of OpenCV's presets has it, on the same half-size images as ours."""

    def __init__(self, preset: int, *, stride: int) -> None:
        super().__init__(stride=stride)
        self._dis: Any = cv2.DISOpticalFlow_create(preset)

    def _flow(self, current: np.ndarray, key: np.ndarray) -> np.ndarray:
        flow: np.ndarray = self._dis.calc(current, key, None)
        return flow


def decode_flow(image: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """KITTI's encoding, (H, W, 3) uint16 in OpenCV's order (known, v, u) -> flow (H, W, 2) and where it is known (H, W).

    Each of u and v is stored as 64 times itself plus 2^15.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint16:
        raise ValueError(f"a flow image should be H x W x 3 uint16, got {image.shape} {image.dtype}")
    flow = (image[..., :0:-1].astype(np.float32) - 2.0**15) / 64.0
    return flow, image[..., 0] > 0


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs below a folder; raises FileNotFoundError where there is none, or an image is missing."""
    pairs = []
    for file in sorted(folder.rglob("*.png")):
        for ending, images in LAYOUTS.items():
            if file.stem.endswith(ending):
                current, key = (file.with_name(f"{file.stem.removesuffix(ending)}{image}.png") for image in images)
                flow, known = decode_flow(np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))
                pairs.append(Pair(read_image(current), read_image(key), flow, known))
    if not pairs:
        raise FileNotFoundError(f"{folder} should hold true flow (*{'.png, *'.join(LAYOUTS)}.png)")
    return pairs


def end_point_error(flow: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Length of the difference of two flows (..., 2)."""
    return np.linalg.norm(flow - truth, axis=-1)


def at_source_pixels(cells: NDArray[np.float32], geometry: ImageGeometry, stride: int) -> NDArray[np.float32]:
    """Flow in feature cells (h, w, 2) -> in source pixels (H, W, 2), read bilinearly between the cells' centres."""
    x = ((np.arange(geometry.source_width) + 0.5) * geometry.scale_x / stride - 0.5).astype(np.float32)
    y = ((np.arange(geometry.source_height) + 0.5) * geometry.scale_y / stride - 0.5).astype(np.float32)
    read = cv2.remap(cells, *np.meshgrid(x, y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return read * np.array([stride / geometry.scale_x, stride / geometry.scale_y], np.float32)


def at_cells(
    flow: NDArray[np.float32], known: NDArray[np.bool_], geometry: ImageGeometry, stride: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Known flow in source pixels (H, W, 2) -> its mean in each feature cell (h, w, 2), in cells, and where enough of it is known."""
    height, width = geometry.padded_height // stride, geometry.padded_width // stride
    columns = ((np.arange(geometry.source_width) + 0.5) * geometry.scale_x / stride).astype(int)
    rows = ((np.arange(geometry.source_height) + 0.5) * geometry.scale_y / stride).astype(int)
    cell = rows[:, None] * width + columns
    count = np.bincount(cell.ravel(), minlength=height * width)
    found = np.bincount(cell[known], minlength=height * width)
    total = [np.bincount(cell[known], flow[known, axis], height * width) for axis in range(2)]
    mean = np.stack(total, axis=-1) / np.maximum(found, 1)[:, None] * [geometry.scale_x / stride, geometry.scale_y / stride]
    enough = found >= np.maximum(LEAST_KNOWN * count, 1)
    return mean.reshape(height, width, 2).astype(np.float32), enough.reshape(height, width)


def score(cells: NDArray[np.float32], pair: Pair, geometry: ImageGeometry, stride: int) -> FlowError:
    """The error of one pair's flow in feature cells (h, w, 2); a cell is an outlier where it is off by more than half a cell."""
    error = end_point_error(at_source_pixels(cells, geometry, stride), pair.flow)[pair.known]
    truth, enough = at_cells(pair.flow, pair.known, geometry, stride)
    cell_error = end_point_error(cells, truth)[enough]
    means = (error.mean(), (error > OUTLIER_PX).mean(), cell_error.mean(), (cell_error > 0.5).mean())
    return FlowError(*map(float, means))


@torch.inference_mode()
def measure(contender: Contender, pair: Pair, repeats: int) -> tuple[FlowError, list[float]]:
    """The error on one pair, and the milliseconds of each of ``repeats`` propagated frames."""
    source = pair.current.shape[:2]
    geometry = fit(*source, input_pixels=contender.input_pixels, stride=contender.stride)
    current, key = (to_image(frame, geometry, contender.device) for frame in (pair.current, pair.key))
    held = contender.network.prepare(key)
    flow, times = None, []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        flow = to_host(contender.network(contender.network.prepare(current), held).flow)
        times.append((time.perf_counter() - started) * 1e3)
    assert flow is not None
    return score(flow, pair, geometry, contender.stride), times[1:]  # the first one warms up


def to_host(flow: Tensor) -> NDArray[np.float32]:
    """(1, 2, h, w) -> (h, w, 2) on the host, which waits for a GPU."""
    return np.ascontiguousarray(flow[0].permute(1, 2, 0).float().cpu().numpy())


def contenders(models: Sequence[str], precision: str) -> Iterator[Contender]:
    """All rows; bundles whose flow is DIS add none, as it is there already."""
    pixels, cpu = Card.input_pixels, torch.device("cpu")
    yield Contender("none", StillFlow(stride=8), 8, pixels, cpu)
    for name, preset in DIS_PRESETS.items():
        yield Contender(f"dis, {name} preset", PresetDIS(preset, stride=8), 8, pixels, cpu)
    yield Contender("dis", DISFlow(stride=8), 8, pixels, cpu)
    for name in models:
        model = load_model(EngineSettings(model=name, precision=precision))
        kind = model.card.architecture["flow_network"]["kind"]
        if kind == "dis" and model.networks.stride == 8 and model.card.input_pixels == pixels:
            print(f"({name}: its flow is the dis above)", file=sys.stderr)
            continue
        label = f"{name}: {kind}, {str(model.precision).removeprefix('torch.')}"
        yield Contender(label, model.networks.flow_network, model.networks.stride, model.card.input_pixels, model.device)


def row(contender: Contender, pairs: Sequence[Pair], repeats: int) -> str:
    """One line of the table: means over the pairs."""
    errors, times = zip(*(measure(contender, pair, repeats) for pair in pairs), strict=True)
    pixels, outliers, cells, cell_outliers = (
        statistics.mean(getattr(error, name) for error in errors) for name in ("pixels", "outliers", "cells", "cell_outliers")
    )
    ms = statistics.median(item for pair in times for item in pair)
    return f"| {contender.name} | {pixels:.2f} | {outliers:.1%} | {cells:.3f} | {cell_outliers:.1%} | {ms:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds flow/, as docs/data.md says")
    parser.add_argument("--model", action="append", default=[], metavar="BUNDLE", help="its flow network; may be given again")
    parser.add_argument("--precision", default="auto", help="number format of the bundles' flow networks")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions on each pair")
    options = parser.parse_args()
    keep_freed_memory()  # as the node does
    pairs = read_pairs(options.data / "flow")
    sizes = ", ".join(f"{pair.flow.shape[1]}x{pair.flow.shape[0]}" for pair in pairs)
    print(f"{len(pairs)} pairs: {sizes}; networks see {Card.input_pixels} pixels, {torch.get_num_threads()} threads\n")
    print("| flow | mean error, px | > 3 px | mean error, cells | > 0.5 cells | ms a frame |")
    print("|---|---|---|---|---|---|")
    for contender in contenders(options.model, options.precision):
        print(row(contender, pairs, options.repeats), flush=True)


if __name__ == "__main__":
    main()
