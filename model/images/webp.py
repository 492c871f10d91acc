"""Parses the chunks of a WebP that decide how it is decoded and how much memory that takes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ANIMATED, _TRANSPARENT = 0x02, 0x10
_MAX_CHUNKS = 100_000
_LOSSY_BYTES, _LOSSLESS_BYTES, _ANIMATED_BYTES = 6, 8, 17
"""Measured bytes per pixel: OpenCV for lossy images and for lossless or transparent ones; Pillow for animations."""


@dataclass(frozen=True)
class WebP:
    """A WebP whose chunks were parsed.

    Attributes:
        size_wh: its (width, height).
        is_animated: whether it has frames.
        pixel_bytes: memory to decode it, in bytes per pixel.
        profile: an ICC profile, empty where it has none.
        exif: a TIFF block, empty where it has none.
    """

    size_wh: tuple[int, int]
    is_animated: bool
    pixel_bytes: int
    profile: bytes = b""
    exif: bytes = b""


def read(data: bytes) -> WebP:
    """Return the parts of a WebP.

    Raises:
        ValueError: it is damaged or truncated; the message says where.
    """
    chunks: dict[bytes, memoryview] = {}
    for name, body in _chunks(memoryview(data)):
        if name != b"VP8X" or not chunks:  # VP8X is valid only as the first chunk
            chunks.setdefault(name, body)
    flags = bytes(chunks.get(b"VP8X", b"\0")[:1])[0]
    is_animated = bool(flags & _ANIMATED)
    if is_animated:
        pixel_bytes = _ANIMATED_BYTES
    elif b"VP8L" in chunks or flags & _TRANSPARENT:
        pixel_bytes = _LOSSLESS_BYTES
    elif b"VP8 " in chunks:
        pixel_bytes = _LOSSY_BYTES
    else:
        raise ValueError("it holds no picture")
    return WebP(
        _size(chunks),
        is_animated,
        pixel_bytes,
        bytes(chunks.get(b"ICCP", b"")),
        bytes(chunks.get(b"EXIF", b"")).removeprefix(b"Exif\0\0"),
    )


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at, end = 12, 8 + struct.unpack_from("<I", view, 4)[0]
    if end > len(view):
        raise ValueError("it is cut short")
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        name, length = struct.unpack_from("<4sI", view, at)
        if at + 8 + length > end:
            raise ValueError("it is cut short")
        yield bytes(name), view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _size(chunks: dict[bytes, memoryview]) -> tuple[int, int]:
    """Return the (width, height) of the canvas or of the only image."""
    if len(body := chunks.get(b"VP8X", memoryview(b""))) >= 10:
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if len(body := chunks.get(b"VP8L", memoryview(b""))) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(body := chunks.get(b"VP8 ", memoryview(b""))) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("it holds no picture")
