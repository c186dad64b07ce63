"""Every encoding against a slow, obvious reference, with padded rows; and one clear line for everything else."""

from __future__ import annotations

import array
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest

from dff_ros.image_encoding import ENCODINGS, EncodingError, decode_compressed, encode_jpeg, from_array, to_frame

HEIGHT, WIDTH, PADDING = 6, 8, 5


def scene(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def padded(rows: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Step and data of rows of bytes, with rubbish after each row."""
    junk = np.full((len(rows), padding), 0xAB, np.uint8)
    return rows.shape[1] + padding, np.hstack([rows, junk]).tobytes()


def rgb_of_yuv(y: float, u: float, v: float) -> list[float]:
    """ITU-R BT.601, limited range."""
    y, u, v = 255 / 219 * (y - 16), 255 / 224 * (u - 128), 255 / 224 * (v - 128)
    red, blue = y + 1.402 * v, y + 1.772 * u
    return [min(255.0, max(0.0, value)) for value in (red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue)]


@pytest.mark.parametrize("padding", [0, PADDING])
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (5, 7), (1, 1)])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("8UC3", [2, 1, 0]), ("rgba8", [0, 1, 2, None]), ("bgra8", [2, 1, 0, None])],
)
def test_colour_encodings_are_views_in_rgb_order(encoding: str, channels: list[int | None], height: int, width: int, padding: int) -> None:
    truth = scene(height, width)
    rows = np.empty((height, width, len(channels)), np.uint8)
    for place, channel in enumerate(channels):
        rows[..., place] = 77 if channel is None else truth[..., channel]
    step, data = padded(rows.reshape(height, -1), padding)
    frame = to_frame(height, width, encoding, 0, step, data)
    assert np.array_equal(frame, truth)
    assert np.shares_memory(frame, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("padding", [0, PADDING])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_the_same_view_in_three_channels(encoding: str, padding: int) -> None:
    grey = scene(5, 7)[..., 0]
    step, data = padded(grey, padding)
    frame = to_frame(5, 7, encoding, 0, step, data)
    assert frame.shape == (5, 7, 3)
    assert all(np.array_equal(frame[..., channel], grey) for channel in range(3))
    assert np.shares_memory(frame, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("big", "kind"), [(0, "<u2"), (1, ">u2")])
def test_mono16_gives_value_shifted_right_by_8_in_both_byte_orders(big: int, kind: str, padding: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (5, 7))
    step, data = padded(values.astype(kind).view(np.uint8).reshape(5, -1), padding)
    frame = to_frame(5, 7, "mono16", big, step, data)
    assert np.array_equal(frame, np.repeat((values >> 8)[..., None], 3, axis=2))


def bilinear_demosaic(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Mean of the nearest samples of each colour in the 3x3 neighbourhood, away from the border; ROS's meaning of ``pattern``."""
    height, width = mosaic.shape
    result = np.zeros((height, width, 3))
    for v in range(1, height - 1):
        for u in range(1, width - 1):
            for channel, colour in enumerate("rgb"):
                around = [(y, x) for y in range(v - 1, v + 2) for x in range(u - 1, u + 2) if pattern[2 * (y % 2) + x % 2] == colour]
                nearest = [place for place in around if place == (v, u)] or around
                result[v, u, channel] = np.mean([int(mosaic[place]) for place in nearest])
    return result


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaics_are_named_as_ros_names_them(pattern: str, bits: int, big: int) -> None:
    height, width = 7, 9
    mosaic = np.random.default_rng(5).integers(0, 1 << bits, (height, width))
    kind = np.dtype("u1") if bits == 8 else np.dtype(">u2" if big else "<u2")
    step, data = padded(mosaic.astype(kind).view(np.uint8).reshape(height, -1), 4)
    frame = to_frame(height, width, f"bayer_{pattern}{bits}", big, step, data)
    expected = bilinear_demosaic(mosaic >> (bits - 8), pattern)
    assert np.abs(frame.astype(int) - expected)[1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_an_evenly_red_scene_is_red_after_any_mosaic(pattern: str) -> None:
    mosaic = np.array([[200 if pattern[2 * (v % 2) + u % 2] == "r" else 10 for u in range(8)] for v in range(8)], np.uint8)
    frame = to_frame(8, 8, f"bayer_{pattern}8", 0, 8, mosaic.tobytes())
    assert (frame[2:-2, 2:-2] == (200, 10, 10)).all()


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")])
def test_packed_yuv(encoding: str, order: str, padding: int) -> None:
    pairs = np.random.default_rng(7).integers(16, 236, (HEIGHT, WIDTH // 2, 4), dtype=np.uint8)  # bytes in the order of the name
    step, data = padded(pairs.reshape(HEIGHT, -1), padding)
    frame = to_frame(HEIGHT, WIDTH, encoding, 0, step, data)
    lumas = [place for place, letter in enumerate(order) if letter == "y"]
    for v in range(HEIGHT):
        for u in range(WIDTH):
            quad = pairs[v, u // 2].astype(float)
            expected = rgb_of_yuv(quad[lumas[u % 2]], quad[order.index("u")], quad[order.index("v")])
            assert np.abs(frame[v, u] - np.array(expected)).max() <= 2


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "first", "shared"), [("nv12", "u", 2), ("nv21", "v", 2), ("nv24", "u", 1)])
def test_two_plane_yuv(encoding: str, first: str, shared: int, padding: int) -> None:
    rng = np.random.default_rng(9)
    luma = rng.integers(16, 236, (HEIGHT, WIDTH), dtype=np.uint8)
    chroma = rng.integers(60, 200, (HEIGHT // shared, WIDTH // shared, 2), dtype=np.uint8)
    step, luma_data = padded(luma, padding)
    _, chroma_data = padded(chroma.reshape(len(chroma), -1), padding * (2 // shared))
    data = luma_data + chroma_data
    assert len(data) == HEIGHT * step * (3 if encoding == "nv24" else 1.5)
    frame = to_frame(HEIGHT, WIDTH, encoding, 0, step, data)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            pair = chroma[v // shared, u // shared].astype(float)
            expected = rgb_of_yuv(float(luma[v, u]), *(pair if first == "u" else pair[::-1]))
            assert np.abs(frame[v, u] - np.array(expected)).max() <= 2


def test_full_chroma_allows_odd_sizes() -> None:
    assert to_frame(5, 7, "nv24", 0, 7, bytes(5 * 7 * 3)).shape == (5, 7, 3)


def test_the_table_of_the_contract_is_covered() -> None:
    bayer = {f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
    packed = {"rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "8UC3", "8UC1"}
    assert set(ENCODINGS) == bayer | packed | {"uyvy", "yuyv", "yuv422", "yuv422_yuy2", "nv12", "nv21", "nv24"}


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview, partial(array.array, "B"), partial(np.frombuffer, dtype=np.uint8)])
def test_data_may_come_in_any_buffer(container: Callable[[bytes], object]) -> None:
    truth = scene()
    assert np.array_equal(to_frame(HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, container(truth.tobytes())), truth)


@pytest.mark.parametrize(
    ("height", "width", "encoding", "step", "size", "expected"),
    [
        (4, 4, "32FC1", 16, 64, "encoding should be one of rgb8, .* got '32FC1'"),
        (4, 4, "", 12, 48, "encoding should be one of .* got ''"),
        (0, 4, "rgb8", 12, 0, "at least one pixel, got width 4 and height 0"),
        (4, 0, "rgb8", 0, 0, "at least one pixel, got width 0 and height 4"),
        (4, 4, "rgb8", 11, 44, "step should be at least 12 for 4 pixels of rgb8, got 11"),
        (4, 4, "rgb8", 12, 47, "data should be 48 bytes for rgb8, height 4 and step 12, got 47"),
        (4, 4, "rgb8", 12, 0, "data should be 48 bytes for rgb8, height 4 and step 12, got 0"),
        (4, 4, "nv12", 4, 16, "data should be 24 bytes for nv12, height 4 and step 4, got 16"),
        (4, 4, "nv24", 4, 24, "data should be 48 bytes"),
        (4, 5, "nv12", 6, 36, "width should be even for nv12, where pixels share their colour, got 5"),
        (3, 4, "nv21", 4, 18, "height should be even"),
        (4, 5, "uyvy", 10, 40, "width should be even"),
        (2, 2, "bayer_rggb8", 2, 4, "3x3 pixels or more, got 2x2"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(height: int, width: int, encoding: str, step: int, size: int, expected: str) -> None:
    with pytest.raises(EncodingError, match=expected) as caught:
        to_frame(height, width, encoding, 0, step, bytes(size))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("format", ["jpeg", "png", "rgb8; jpeg compressed bgr8", ""])
def test_compressed_pictures_come_back_in_rgb(suffix: str, format: str) -> None:
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, :12] = (220, 30, 40)
    encoded = cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()
    assert np.abs(decode_compressed(encoded, format).astype(int) - picture).mean() < 6


def test_a_jpeg_keeps_its_colours() -> None:
    picture = np.full((16, 16, 3), (220, 30, 40), np.uint8)
    assert np.abs(decode_compressed(encode_jpeg(picture, 95), "jpeg").astype(int) - picture).max() <= 4


def test_compressed_pictures_may_say_that_their_channels_are_swapped() -> None:
    picture = np.full((8, 8, 3), (200, 20, 30), np.uint8)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    assert np.array_equal(decode_compressed(encoded, "rgb8; png compressed rgb8"), picture)


def test_grey_and_16_bit_pictures_come_back_as_colour() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    frame = decode_compressed(cv2.imencode(".png", values)[1].tobytes(), "png")
    assert frame.shape == (8, 8, 3)
    assert np.abs(frame[..., 0].astype(int) - (values >> 8)).max() <= 1


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError, match=f"format 'jpeg' should hold .* got {len(data)} bytes"):
        decode_compressed(data, "jpeg")


def test_compressed_depth_is_refused() -> None:
    with pytest.raises(EncodingError, match="compressedDepth"):
        decode_compressed(b"123", "16UC1; compressedDepth png")


@pytest.mark.parametrize(("encoding", "shape"), [("rgb8", (5, 7, 3)), ("bgr8", (5, 7, 3)), ("mono8", (5, 7))])
def test_arrays_become_fields_and_come_back(encoding: str, shape: tuple[int, ...]) -> None:
    source = scene(5, 7).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    height, width, name, step, data = from_array(source, encoding)
    assert (height, width, name, step) == (5, 7, encoding, 7 * (3 if len(shape) == 3 else 1))
    assert np.shares_memory(data, source)
    back = to_frame(height, width, name, 0, step, data.tobytes())
    expected = {"rgb8": source, "bgr8": source[..., ::-1], "mono8": np.stack([source] * 3, axis=-1)}[encoding]
    assert np.array_equal(back, expected)


def test_a_reversed_view_becomes_contiguous_fields() -> None:
    source = scene()[..., ::-1]
    assert from_array(source, "rgb8")[4].tobytes() == source.tobytes()


@pytest.mark.parametrize(
    ("image", "encoding"),
    [(scene(), "mono8"), (scene()[..., 0], "rgb8"), (scene().astype(float), "rgb8"), (scene(), "nv12"), (scene()[:0], "rgb8")],
)
def test_arrays_that_do_not_fit_are_refused(image: np.ndarray, encoding: str) -> None:
    with pytest.raises(EncodingError, match="should be"):
        from_array(image, encoding)
