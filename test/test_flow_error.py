"""The flow benchmark: KITTI's encoding, and errors worked out by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from flow_error import Contender, Pair, at_cells, at_source_pixels, decode_flow, end_point_error, measure, read_pairs, score

from dff_ros.core.propagate import FlowFields
from dff_ros.engine.preprocess import fit


def encoded(flow: np.ndarray, known: np.ndarray) -> np.ndarray:
    """KITTI's encoding as OpenCV holds it: known, v, u."""
    u, v = (np.rint(flow[..., axis] * 64 + 2**15).astype(np.uint16) for axis in range(2))
    return np.dstack([known.astype(np.uint16), v, u])


def test_flow_is_stored_in_64ths_of_a_pixel_around_a_half() -> None:
    """A line of the development kit: u = (value - 2^15) / 64; red is u, green v, blue says whether they are known."""
    image = np.zeros((1, 2, 3), np.uint16)
    image[0, 0] = 1, 32768 - 128, 32768 + 96
    flow, known = decode_flow(image)
    assert flow[0, 0].tolist() == [1.5, -2.0]
    assert known.tolist() == [[True, False]]


def test_flow_survives_a_png_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth, known = rng.uniform(-200, 200, (6, 9, 2)).round(1).astype(np.float32), rng.random((6, 9)) < 0.5
    cv2.imwrite(str(tmp_path / "a_flow_gt.png"), encoded(truth, known))
    flow, mask = decode_flow(cv2.imread(str(tmp_path / "a_flow_gt.png"), cv2.IMREAD_UNCHANGED))
    np.testing.assert_allclose(flow, truth, atol=1 / 128 + 1e-4)
    assert (mask == known).all()


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"should be H x W x 3 uint16, got \(4, 4, 3\) uint8"):
        decode_flow(np.zeros((4, 4, 3), np.uint8))


def test_pairs_of_both_years_are_found_with_their_images(tmp_path: Path) -> None:
    names = {"2012/7_10_flow_noc": ("2012/7_10_colored_0", "2012/7_11_colored_0"), "2015/3_flow_gt": ("2015/3_frame1", "2015/3_frame2")}
    for year, (flow, images) in enumerate(names.items(), start=1):
        (tmp_path / flow).parent.mkdir()
        cv2.imwrite(str(tmp_path / f"{flow}.png"), encoded(np.full((4, 6, 2), float(year)), np.ones((4, 6), bool)))
        for brightness, image in enumerate(images):
            cv2.imwrite(str(tmp_path / f"{image}.png"), np.full((4, 6, 3), 10 * year + brightness, np.uint8))
    pairs = read_pairs(tmp_path)
    found = [(pair.flow.max(), pair.current.max(), pair.key.max(), pair.known.all()) for pair in pairs]
    assert found == [(1, 10, 11, True), (2, 20, 21, True)]
    with pytest.raises(FileNotFoundError, match="should hold true flow"):
        read_pairs(tmp_path / "2012" / "none")


def test_the_end_point_error_is_the_length_of_the_difference() -> None:
    flow, truth = np.array([[3.0, 4.0], [1.0, 1.0]], np.float32), np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    assert end_point_error(flow, truth).tolist() == [5.0, 1.0]


def test_flow_in_cells_becomes_flow_in_source_pixels() -> None:
    """The network sees half the size: a cell of 8 of its pixels is 16 source pixels."""
    geometry = fit(96, 128, input_pixels=48 * 64, stride=8)
    assert (geometry.height, geometry.width) == (48, 64)
    cells = np.zeros((6, 8, 2), np.float32)
    cells[...] = 0.5, -1.0
    pixels = at_source_pixels(cells, geometry, stride=8)
    assert pixels.shape == (96, 128, 2)
    np.testing.assert_allclose(pixels, np.broadcast_to([8.0, -16.0], (96, 128, 2)), atol=1e-5)


def test_cells_are_read_at_their_centres() -> None:
    """At full size a ramp of one cell of flow per cell is, between the outer centres, a pixel per pixel."""
    geometry = fit(48, 64, input_pixels=48 * 64, stride=8)
    cells = np.zeros((6, 8, 2), np.float32)
    cells[..., 0] = np.arange(8)
    pixels = at_source_pixels(cells, geometry, stride=8)
    np.testing.assert_allclose(pixels[20, 4:60, 0], np.arange(4, 60) + 0.5 - 4, atol=0.3)  # OpenCV reads at 32nds of a cell
    assert pixels[20, 0, 0] == 0 and pixels[20, 63, 0] == 56


def test_a_cells_true_flow_is_the_mean_of_what_is_known_in_it() -> None:
    geometry = fit(16, 16, input_pixels=256, stride=8)
    flow, known = np.zeros((16, 16, 2), np.float32), np.zeros((16, 16), bool)
    flow[:8, :8] = 4.0, 0.0
    flow[0, :8] = 8.0, -8.0
    known[:8, :8] = True
    known[:, 8:] = np.arange(16)[:, None] < 1  # one row of the second cell: an eighth
    mean, enough = at_cells(flow, known, geometry, stride=8)
    assert enough.tolist() == [[True, False], [False, False]]
    np.testing.assert_allclose(mean[0, 0], [(7 * 4 + 8) / 8 / 8, -1 / 8])


def test_the_score_of_a_hand_made_pair() -> None:
    """True flow is 8 px to the right, one cell; the answer is that on the left half and nothing on the right half, which is 8 px off."""
    picture = np.zeros((32, 64, 3), np.uint8)
    known = np.ones((32, 64), bool)
    known[:, 28:36] = False  # where the answer is read between the two
    pair = Pair(picture, picture, np.broadcast_to(np.float32([8, 0]), (32, 64, 2)), known)
    geometry = fit(32, 64, input_pixels=32 * 64, stride=8)
    cells = np.zeros((4, 8, 2), np.float32)
    cells[:, :4, 0] = 1
    found = score(cells, pair, geometry, stride=8)
    assert (found.pixels, found.outliers) == (pytest.approx(4.0), 0.5)
    assert (found.cells, found.cell_outliers) == (0.5, 0.5)


class Knows:
    """A flow network that says what the first pixel of the pair's difference says, in cells."""

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def __call__(self, current: torch.Tensor, key: torch.Tensor) -> FlowFields:
        cells = round(float(key[0, 0, 0, 0] - current[0, 0, 0, 0]) * 255) / 8
        return FlowFields(torch.tensor([cells, 0.0]).view(1, 2, 1, 1).expand(1, 2, current.shape[2] // 8, current.shape[3] // 8))


def test_current_and_key_are_not_mixed_up() -> None:
    current, key = (np.full((32, 64, 3), value, np.uint8) for value in (10, 14))
    pair = Pair(current, key, np.broadcast_to(np.float32([4, 0]), (32, 64, 2)), np.ones((32, 64), bool))
    found, times = measure(Contender("knows", Knows(), 8, 32 * 64, torch.device("cpu")), pair, repeats=3)
    assert found.pixels == pytest.approx(0, abs=1e-5) and found.cells == pytest.approx(0, abs=1e-5)
    assert len(times) == 3
