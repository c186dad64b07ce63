"""From frame to network image: every memory layout gives the same picture, and the geometry undoes the resize."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dff_ros.core.results import ImageGeometry
from dff_ros.engine.preprocess import check_frame, fit, to_image

CPU = torch.device("cpu")


def random_frame(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "inner", "padded"),
    [
        ((360, 480), (360, 480), (360, 480)),
        ((480, 640), (360, 480), (360, 480)),
        ((240, 320), (360, 480), (360, 480)),
        ((720, 1280), (312, 554), (312, 560)),
        ((375, 1242), (228, 757), (232, 760)),
        ((60, 80), (120, 160), (120, 160)),  # enlarged twice and no more
    ],
)
def test_every_camera_shows_about_the_same_number_of_pixels(
    source: tuple[int, int], inner: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert fit(*source, input_pixels=172_800, stride=8) == ImageGeometry(*source, *inner, *padded)


def test_a_frame_of_the_networks_size_is_only_scaled_to_0_1() -> None:
    frame = random_frame()
    image = to_image(frame, fit(24, 32, input_pixels=24 * 32, stride=8), CPU)
    expected = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0) / 255.0
    torch.testing.assert_close(image, expected)


def test_all_memory_layouts_of_a_frame_give_the_same_image() -> None:
    frame = random_frame()
    geometry = fit(24, 32, input_pixels=1200, stride=8)
    expected = to_image(frame, geometry, CPU)
    padded = np.zeros((24, 40, 3), np.uint8)
    padded[:, :32] = frame
    four = np.dstack([frame, np.zeros((24, 32), np.uint8)])
    locked, locked_bgr = frame.copy(), frame[..., ::-1].copy()
    locked.flags.writeable = locked_bgr.flags.writeable = False
    layouts = {
        "bgr buffer seen as rgb": np.ascontiguousarray(frame[..., ::-1])[..., ::-1],
        "padded rows": padded[:, :32],
        "rgba": four[..., :3],
        "bgra": np.ascontiguousarray(four[..., [2, 1, 0, 3]])[..., 2::-1],
        "bgr with padded rows": np.ascontiguousarray(padded[..., ::-1])[:, :32, ::-1],
        "bgr upside down in memory": np.ascontiguousarray(frame[::-1, :, ::-1])[::-1, :, ::-1],
        "read only": locked,
        "read only bgr": locked_bgr[..., ::-1],
        "upside down in memory": np.ascontiguousarray(frame[::-1])[::-1],
    }
    for name, layout in layouts.items():
        np.testing.assert_array_equal(layout, frame, err_msg=name)
        torch.testing.assert_close(to_image(layout, geometry, CPU), expected, msg=name)


def test_a_grey_view_becomes_three_equal_channels() -> None:
    grey = np.broadcast_to(random_frame()[..., :1], (24, 32, 3))
    image = to_image(grey, fit(24, 32, input_pixels=24 * 32, stride=8), CPU)
    assert torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])


def test_resizing_keeps_the_picture_where_it_was() -> None:
    frame = cv2.GaussianBlur(random_frame(240, 320), (0, 0), 6)
    image = to_image(frame, fit(240, 320, input_pixels=120 * 160, stride=8), CPU)
    expected = cv2.resize(frame, (160, 120), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    assert np.abs(image[0].permute(1, 2, 0).numpy() - expected).max() < 0.02


def test_a_line_that_shrinks_in_width_alone_does_not_flicker() -> None:
    line = np.zeros((1, 4000, 3), np.uint8)
    line[:, ::2] = 255
    geometry = fit(*line.shape[:2], input_pixels=2600, stride=1)
    assert (geometry.height, geometry.width) == (1, 3225)
    assert float(to_image(line, geometry, CPU)[..., 4:-4].std()) < 0.2  # each pixel shows its neighbours too


def test_padding_repeats_the_edge_so_that_it_is_no_object() -> None:
    image = to_image(random_frame(20, 30), ImageGeometry(20, 30, 20, 30, 24, 32), CPU)
    assert image.shape == (1, 3, 24, 32)
    assert torch.equal(image[..., 20:, :30], image[..., 19:20, :30].expand(-1, -1, 4, -1))


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_frame_is_refused_with_its_shape(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frame should be H x W x 3 uint8, not empty, got"):
        check_frame(frame)
