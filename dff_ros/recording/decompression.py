"""What bags are compressed with, undone as far as damaged data allows. Both libraries come with rosbags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lz4.frame import LZ4FrameDecompressor

try:
    from backports import zstd

    _new_zstd: Callable[[], Any] = zstd.ZstdDecompressor
    _ZstdError: type[Exception] = zstd.ZstdError
except ImportError:  # rosbags before 0.11.9
    import zstandard

    _ZstdError = zstandard.ZstdError

    def _new_zstd() -> Any:
        return zstandard.ZstdDecompressor().decompressobj()


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SLICE = 1 << 16
_ERRORS = (_ZstdError, RuntimeError, EOFError, ValueError)


class DecompressionError(ValueError):
    """Compressed data that is damaged or ends too early."""


def inflated(parts: Iterable[bytes], compression: str) -> Iterator[bytes]:
    """The contents of ``parts``, zstd or lz4, piece by piece; raises DecompressionError where they go no further."""
    if compression not in ("zstd", "lz4"):
        raise DecompressionError(f"compression should be zstd or lz4, got {compression!r}")
    new = _new_zstd if compression == "zstd" else LZ4FrameDecompressor
    frame, begun = new(), False
    for part in parts:
        while part:
            begun = True
            try:
                content = frame.decompress(part)
            except _ERRORS as error:
                raise DecompressionError(f"{compression} data is damaged: {error}") from None
            yield content
            part = b""
            if frame.eof:  # several frames may follow each other
                part, frame, begun = frame.unused_data or b"", new(), False
    if begun:
        raise DecompressionError(f"{compression} data ends too early")


def as_far_as_it_goes(data: bytes, compression: str) -> bytes:
    """What can be had of ``data``; all of it where it is whole. Compression "" is none."""
    if not compression:
        return data
    contents = []
    try:
        # In slices: what comes before a damaged place is handed out.
        for content in inflated((data[start : start + _SLICE] for start in range(0, len(data), _SLICE)), compression):
            contents.append(content)
    except DecompressionError:
        pass
    return b"".join(contents)


def inflate_message(data: bytes) -> bytes:
    """A message that was compressed by itself; raises DecompressionError where it is damaged."""
    return b"".join(inflated([data], "zstd"))


def inflate_file(source: Path, target: Path) -> str:
    """Write the contents of a .zstd file to ``target``, as far as it goes; returns why it goes no further, "" where it is whole."""
    with source.open("rb") as file, target.open("wb") as output:
        try:
            for content in inflated(iter(lambda: file.read(_SLICE), b""), "zstd"):
                output.write(content)
        except DecompressionError as error:
            return str(error)
    return ""
