"""The fields of a ROS image <-> arrays: every encoding of a usual camera, with numpy and OpenCV only.

A frame is H x W x 3 uint8, RGB. Encodings that need no arithmetic come back as views of the message's data: RGB and BGR with or without
alpha, grey (its three channels are one), and 16-bit grey, of which the high byte is taken (value >> 8). Bayer mosaics are interpolated
bilinearly, 16-bit ones after taking the high byte. YUV is ITU-R BT.601, 16..235, which is what cameras send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Rows = NDArray[np.uint8]
"""Data of one image as (rows, step) bytes, padding included."""

JPEG_FORMAT = "rgb8; jpeg compressed bgr8"
"""Format of a CompressedImage with a colour JPEG, as image_transport's own plugin spells it."""


class EncodingError(ValueError):
    """An image that cannot be read; one line that says what was expected and what came."""


def to_frame(height: int, width: int, encoding: str, is_bigendian: bool | int, step: int, data: Any) -> Frame:
    """RGB frame (H, W, 3) uint8 from the fields of a sensor_msgs/Image; a view of ``data`` wherever no arithmetic is needed.

    ``data`` is anything with a buffer, of exactly height x step bytes (1.5 times that for nv12 and nv21, 3 times for nv24).
    Raises EncodingError for unknown encodings, zero sizes, and sizes, steps and data that do not fit each other.
    """
    if encoding not in _LAYOUTS:
        raise EncodingError(f"encoding should be one of {', '.join(_LAYOUTS)}, got {encoding!r}")
    layout = _LAYOUTS[encoding]
    layout.check_size(encoding, height, width)
    if step < layout.pixel_bytes * width:
        raise EncodingError(f"step should be at least {layout.pixel_bytes * width} for {width} pixels of {encoding}, got {step}")
    expected = int(layout.planes * height) * step
    flat: NDArray[np.uint8] = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    if flat.size != expected:
        raise EncodingError(f"data should be {expected} bytes for {encoding}, height {height} and step {step}, got {flat.size}")
    return layout.read(flat.reshape(-1, step), height, width, bool(is_bigendian))


def decode_compressed(data: Any, format: str) -> Frame:
    """RGB frame (H, W, 3) uint8 from the fields of a sensor_msgs/CompressedImage (JPEG, PNG or whatever else OpenCV reads).

    The data itself says what it is; of ``format`` only the order of the channels counts, as compressed_image_transport writes it
    ("rgb8; jpeg compressed bgr8"). Raises EncodingError where there is no picture in it.
    """
    if "compressedDepth" in format:
        raise EncodingError(f"compressed image should be a colour or grey picture, got format {format!r}")
    encoded = np.frombuffer(data, np.uint8) if len(data) else None
    # OpenCV answers garbage with None, or, depending on its version and the garbage, with an exception of its own.
    try:
        decoded: Any = None if encoded is None else cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise EncodingError(f"format {format!r} should hold a JPEG or PNG picture, got {len(data)} bytes of something else")
    # A publisher that handed RGB to an encoder that expects BGR says so, and OpenCV then gives back RGB.
    frame: Frame = decoded if "compressed rgb" in format else decoded[..., ::-1]
    return frame


def from_array(array: NDArray[np.uint8], encoding: str) -> tuple[int, int, str, int, NDArray[np.uint8]]:
    """Height, width, encoding, step and contiguous data of an image message: (H, W, 3) for rgb8 and bgr8, (H, W) for mono8.

    The channels are taken in the order that ``encoding`` names; a contiguous array is not copied.
    """
    shapes = {"rgb8": 3, "bgr8": 3, "mono8": 1}
    if encoding not in shapes:
        raise EncodingError(f"encoding should be one of {', '.join(shapes)}, got '{encoding}'")
    channels = shapes[encoding]
    fits = array.shape[2:] == (3,) if channels == 3 else array.ndim == 2
    if not fits or array.dtype != np.uint8 or array.size == 0:
        expected = "(H, W, 3)" if channels == 3 else "(H, W)"
        raise EncodingError(f"{encoding} should be {expected} uint8, got {array.shape} {array.dtype}")
    height, width = array.shape[:2]
    return height, width, encoding, width * channels, np.ascontiguousarray(array)


def encode_jpeg(frame: Frame, quality: int = 90) -> bytes:
    """JPEG of an RGB frame (H, W, 3) uint8, ``quality`` 1..100."""
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise EncodingError(f"frame should be (H, W, 3) uint8 that fits into a JPEG, got {frame.shape} {frame.dtype}")
    return data.tobytes()


Reader = Callable[[Rows, int, int, bool], Frame]
"""Frame from the data, height, width and whether the high byte of 16 bits comes first."""


@dataclass(frozen=True)
class _Layout:
    """How an encoding lies in memory: ``planes`` is the size of the data in units of height x step; pixels come in blocks of ``block``."""

    read: Reader
    pixel_bytes: int
    planes: float = 1
    block: tuple[int, int] = (1, 1)
    least: int = 1

    def check_size(self, encoding: str, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise EncodingError(f"image should have at least one pixel, got width {width} and height {height}")
        if min(height, width) < self.least:
            raise EncodingError(f"{encoding} should be {self.least}x{self.least} pixels or more, got {width}x{height}")
        for name, value, multiple in (("height", height, self.block[0]), ("width", width, self.block[1])):
            if value % multiple:
                raise EncodingError(f"{name} should be even for {encoding}, where pixels share their colour, got {value}")


def _grey(image: NDArray[np.uint8]) -> Frame:
    return np.broadcast_to(image[..., None], (*image.shape, 3))


def _packed(channels: int, order: slice) -> Reader:
    """Reader of interleaved channels; ``order`` picks red, green and blue."""

    def read(rows: Rows, height: int, width: int, big: bool) -> Frame:
        return rows[:, : width * channels].reshape(height, width, channels)[..., order]

    return read


def _high_bytes(rows: Rows, width: int, big: bool) -> NDArray[np.uint8]:
    return rows[:, (0 if big else 1) : 2 * width : 2]


def _mono8(rows: Rows, height: int, width: int, big: bool) -> Frame:
    return _grey(rows[:, :width])


def _mono16(rows: Rows, height: int, width: int, big: bool) -> Frame:
    return _grey(_high_bytes(rows, width, big))


def _bayer(code: int, *, wide: bool) -> Reader:
    def read(rows: Rows, height: int, width: int, big: bool) -> Frame:
        mosaic = _high_bytes(rows, width, big) if wide else rows[:, :width]
        return _filled(cv2.cvtColor(np.ascontiguousarray(mosaic), code))

    return read


def _yuv422(code: int) -> Reader:
    def read(rows: Rows, height: int, width: int, big: bool) -> Frame:
        return _filled(cv2.cvtColor(rows[:, : 2 * width].reshape(height, width, 2), code))

    return read


def _nv420(code: int) -> Reader:
    def read(rows: Rows, height: int, width: int, big: bool) -> Frame:
        chroma = rows[height:, :width].reshape(height // 2, width // 2, 2)
        return _filled(cv2.cvtColorTwoPlane(rows[:height, :width], chroma, code))

    return read


_BT601 = np.array([[1.164, 0.0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0.0]])
_FROM_YUV = np.hstack([_BT601, -_BT601 @ np.array([[16.0], [128.0], [128.0]])])


def _nv24(rows: Rows, height: int, width: int, big: bool) -> Frame:
    """Full chroma: after the luma come as many rows of U and V pairs, each twice as long."""
    chroma = rows[height:].reshape(height, -1)[:, : 2 * width].reshape(height, width, 2)
    return _filled(cv2.transform(np.dstack([rows[:height, :width], chroma]), _FROM_YUV))


def _filled(image: Any) -> Frame:
    frame: Frame = image
    return frame


_RGB, _BGR, _BGRA = slice(0, 3), slice(None, None, -1), slice(2, None, -1)

# ROS names a mosaic by its first two pixels of the first two rows; OpenCV's old names, the only ones that all its versions have, by the
# pixels one row and one column further on.
_BAYER = {"rggb": cv2.COLOR_BayerBG2RGB, "bggr": cv2.COLOR_BayerRG2RGB, "gbrg": cv2.COLOR_BayerGR2RGB, "grbg": cv2.COLOR_BayerGB2RGB}

_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(_packed(3, _RGB), 3),
    "bgr8": _Layout(_packed(3, _BGR), 3),
    "rgba8": _Layout(_packed(4, _RGB), 4),
    "bgra8": _Layout(_packed(4, _BGRA), 4),
    "mono8": _Layout(_mono8, 1),
    "mono16": _Layout(_mono16, 2),
    "8UC1": _Layout(_mono8, 1),
    "8UC3": _Layout(_packed(3, _BGR), 3),
    **{f"bayer_{name}8": _Layout(_bayer(code, wide=False), 1, least=3) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": _Layout(_bayer(code, wide=True), 2, least=3) for name, code in _BAYER.items()},
    "uyvy": _Layout(_yuv422(cv2.COLOR_YUV2RGB_UYVY), 2, block=(1, 2)),
    "yuyv": _Layout(_yuv422(cv2.COLOR_YUV2RGB_YUY2), 2, block=(1, 2)),
    "yuv422": _Layout(_yuv422(cv2.COLOR_YUV2RGB_UYVY), 2, block=(1, 2)),
    "yuv422_yuy2": _Layout(_yuv422(cv2.COLOR_YUV2RGB_YUY2), 2, block=(1, 2)),
    "nv12": _Layout(_nv420(cv2.COLOR_YUV2RGB_NV12), 1, 1.5, block=(2, 2)),
    "nv21": _Layout(_nv420(cv2.COLOR_YUV2RGB_NV21), 1, 1.5, block=(2, 2)),
    "nv24": _Layout(_nv24, 1, 3),
}

ENCODINGS = tuple(_LAYOUTS)
"""The encodings that ``to_frame`` reads."""
