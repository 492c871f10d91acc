"""Opens image files of all supported formats: checks the headers and computes the memory to decode them.

A file is decoded only if that takes no more memory than `allowed_bytes`. JPEGs are reduced while they are decoded, PNG
and BMP are read a few rows at a time; the others are decoded as a whole, and their pixels returned in bands.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from model.errors import CostError
from model.images import jpeg, orientation, png, webp

BAND_PIXELS = 1 << 20
"""Number of pixels that are converted at a time."""

MAX_SIDE = 1_000_000
"""Pixels; browsers' limit for PNG. A whole row is in memory, and resizing it takes 16 bytes per pixel."""

FLOOR_BYTES = 300_000_000
BYTES_PER_PIXEL = 3
OVERHEAD_BYTES = 10_000_000
"""Memory of a band in all its colours, and of decoders beside the image."""

MAX_RLE_PIXELS = 16_000_000  # Pillow unpacks such a BMP pixel by pixel in Python
MAX_TIFF_PARTS = 200_000

_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_TIFF_DIRECTORY = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF = (b"II+\0", b"MM\0+")
_STRIPS, _TILES = 273, 324
_JPEG_IN_TIFF = (6, 7)
_LEAST_DETAIL = (
    2  # times the side that is needed: what a reduced JPEG keeps, and half of it where it would cost too much
)

DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError, cv2.error,
)  # fmt: skip
"""What decoders raise on damaged files, as found by tests with damaged files."""

Loaded: TypeAlias = tuple[tuple[int, int], Callable[[], Iterator[Image.Image]]]


@dataclass(frozen=True)
class ImageFile:
    """A file whose header was read.

    Attributes:
        size_wh: (width, height) of the image as stored.
        bytes_needed: peak memory to decode it, beside the file.
        advice: how to change the file so that it needs less memory.
        load: returns the image's (width, height), of a JPEG perhaps smaller than ``size_wh``, and a function that
            yields its bands from top to bottom.
        turn: the EXIF orientation that a browser applies; 1 where there is none.
        ignored_turn: the stored orientation that Chromium does not apply; 1 where there is none.
    """

    size_wh: tuple[int, int]
    bytes_needed: int
    advice: str
    load: Callable[[], Loaded]
    turn: int = 1
    ignored_turn: int = 1


def kind_of(data: bytes) -> str:
    """Return the format that ``data`` begins like, empty for an unsupported one.

    >>> kind_of(b"GIF89a"), kind_of(b"%PDF-1.7")
    ('GIF', '')
    """
    head = data[:12]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WEBP"
    if head[:4] in _TIFF_DIRECTORY or head[:4] in _BIG_TIFF:
        return "TIFF"
    return "BMP" if head.startswith(b"BM") else ""


def allowed_bytes(size_wh: tuple[int, int]) -> int:
    """Return the memory in bytes that decoding an image may take: 300 MB, or 3 bytes per pixel if that is more.

    >>> allowed_bytes((1000, 1000))
    300000000
    """
    return max(FLOOR_BYTES, BYTES_PER_PIXEL * size_wh[0] * size_wh[1])


def open_file(
    data: bytes, kind: str, side: int, reduce_above_pixels: int | None, keeps_shape: bool = True
) -> ImageFile:
    """Open a file: read its header and plan how to decode it.

    Args:
        data: the file.
        kind: see `kind_of`.
        side: the longest side that is needed.
        reduce_above_pixels: a JPEG of more is decoded smaller; None: never.
        keeps_shape: whether ``side`` is of the longest side only; False: of both.

    Raises:
        CostError: it would take more time than its size justifies.
        Exception: another one of `DECODER_ERRORS`: it is damaged.
    """
    match kind:
        case "JPEG":
            return _jpeg(jpeg.read(data), side, reduce_above_pixels, keeps_shape)
        case "PNG":
            return _png(png.read(data))
        case "WEBP":
            return _webp(data)
        case "TIFF":
            return _tiff(data)
        case "BMP":
            return _bmp(data)
    with _pillow(data, kind) as image:
        return ImageFile(image.size, _pixels(image.size) * 2, "", lambda: _whole(_pillow(data, kind)))


def _pillow(data: bytes, kind: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise ValueError("its header is cut short or damaged") from error


def _pixels(size_wh: tuple[int, int]) -> int:
    return size_wh[0] * size_wh[1]


def _rows(width: int) -> int:
    return max(1, BAND_PIXELS // width)


def _whole(image: Image.Image) -> Loaded:
    """Decode an image as a whole and return it in bands."""
    image.load()

    def bands() -> Iterator[Image.Image]:
        step = _rows(image.width)
        for top in range(0, image.height, step):
            yield image.crop((0, top, image.width, min(top + step, image.height)))

    return image.size, bands


def _jpeg(photo: jpeg.Jpeg, side: int, reduce_above_pixels: int | None, keeps_shape: bool) -> ImageFile:
    pixels = _pixels(photo.size_wh)
    is_costly = photo.coefficients_bytes + 4 * pixels > FLOOR_BYTES
    is_reduced = reduce_above_pixels is not None and (is_costly or pixels > reduce_above_pixels)
    detail = side if photo.coefficients_bytes > FLOOR_BYTES // 2 else _LEAST_DETAIL * side
    decisive = max(photo.size_wh) if keeps_shape else min(photo.size_wh)
    memory = allowed_bytes(photo.size_wh) - photo.coefficients_bytes - OVERHEAD_BYTES
    factor = _factor(photo.size_wh, decisive // detail, memory) if is_reduced else 1

    def load() -> Loaded:
        if not photo.is_ended:
            _check_ending(photo, factor)
        return _whole(_drafted(photo.file(), factor))

    advice = "save it as a baseline JPEG, not a progressive one" if photo.coefficients_bytes else ""
    needed = photo.coefficients_bytes + 4 * pixels // factor**2 + OVERHEAD_BYTES
    turn, ignored = orientation.read(photo.exif), orientation.read_any(photo.exif)
    return ImageFile(photo.size_wh, needed, advice, load, turn, ignored)


def _factor(size_wh: tuple[int, int], most: int, memory: int) -> int:
    """Return what to divide a JPEG's sides by: at most ``most``, or what its pixels need to fit into the memory."""
    factors = [factor for factor in (1, 2, 4, 8) if factor <= min(size_wh)]
    wanted = max((factor for factor in factors if factor <= most), default=1)
    fitting = (factor for factor in factors if factor >= wanted and 4 * _pixels(size_wh) // factor**2 <= memory)
    return next(fitting, wanted)


def _drafted(data: bytes, factor: int) -> Image.Image:
    image = _pillow(data, "JPEG")
    if factor > 1:
        image.draft(image.mode, (image.width // factor, image.height // factor))
    return image


def _check_ending(photo: jpeg.Jpeg, factor: int) -> None:
    """Check that a JPEG without its end marker lacks nothing else.

    A decoder reads beyond the last scan's data only where some of it is missing: then two different tails give two
    different images.

    Raises:
        ValueError: it is truncated.
    """
    if not photo.is_complete:
        raise ValueError("it is cut short: scans are missing")
    noise = np.random.default_rng(0).integers(1, 255, 512, dtype=np.uint8).tobytes()
    digests = set()
    for tail in (b"", noise):
        digest = hashlib.sha256()
        for band in _whole(_drafted(photo.file(tail), factor))[1]():
            digest.update(band.tobytes())
        digests.add(digest.digest())
    if len(digests) > 1:
        raise ValueError("it is cut short: the last scan is not whole")


def _png(image: png.Png) -> ImageFile:
    size_wh, turn = image.size_wh, orientation.read(image.exif)
    ignored = orientation.read_any(image.exif or image.late_exif)
    if image.has_bands:
        rows = _rows(max(1, size_wh[0]))
        return ImageFile(size_wh, 0, "", lambda: (size_wh, partial(image.bands, rows)), turn, ignored)
    advice = "save it without interlacing and with 8 bits a channel"
    needed = 4 * _pixels(size_wh) + sum(map(len, image.pixels)) + OVERHEAD_BYTES
    return ImageFile(size_wh, needed, advice, lambda: _whole(image.whole()), turn, ignored)


def _webp(data: bytes) -> ImageFile:
    """Open a WebP; OpenCV decodes it unless it is animated, as Pillow takes almost three times the memory."""
    image = webp.read(data)
    needed = image.pixel_bytes * _pixels(image.size_wh)
    load = (lambda: _whole(_pillow(data, "WEBP"))) if image.is_animated else partial(_opencv, data, image.profile)
    ignored = orientation.read_any(image.exif)
    return ImageFile(image.size_wh, needed, "save it as JPEG or PNG", load, ignored_turn=ignored)


def _opencv(data: bytes, profile: bytes) -> Loaded:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("it is damaged or cut short")
    height, width, channels = pixels.shape

    def bands() -> Iterator[Image.Image]:
        step = _rows(width)
        for top in range(0, height, step):
            order = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA
            band = Image.fromarray(cv2.cvtColor(pixels[top : top + step], order))
            if profile:
                band.info["icc_profile"] = profile
            yield band

    return (width, height), bands


def _bmp(data: bytes) -> ImageFile:
    with _pillow(data, "BMP") as image:
        size_wh, header = image.size, image
        decoder, _, offset, form = image.tile[0]
    if decoder == "raw":
        return ImageFile(size_wh, 0, "", lambda: (size_wh, partial(_raw_rows, data, header, offset, form)))
    if _pixels(size_wh) > MAX_RLE_PIXELS:
        raise CostError(
            f"expected at most {MAX_RLE_PIXELS:,} pixels in a run-length BMP, got {size_wh[0]} × {size_wh[1]}",
        )
    return ImageFile(size_wh, 3 * _pixels(size_wh), "", lambda: _whole(_pillow(data, "BMP")))


def _raw_rows(data: bytes, header: Image.Image, offset: int, form: tuple[str, int, int]) -> Iterator[Image.Image]:
    """Yield the rows of an uncompressed image; ``form`` is their mode, stride and direction."""
    (width, height), (mode, stride, direction) = header.size, form
    step = _rows(max(1, width))
    for top in range(0, height, step):
        count = min(step, height - top)
        first = top if direction > 0 else height - top - count
        rows = memoryview(data)[offset + first * stride : offset + (first + count) * stride]
        band = Image.frombytes(header.mode, (width, count), rows, "raw", mode, stride, direction)
        if header.palette is not None and header.mode == "P":
            band.putpalette(header.palette.palette, header.palette.rawmode or "RGB")
        yield band


def _tiff(data: bytes) -> ImageFile:
    """Open a TIFF; Chromium shows none, so it is rotated as its tag says unless a click's size differs."""
    if (parts := _tiff_parts(data)) > MAX_TIFF_PARTS:
        raise CostError(f"expected at most {MAX_TIFF_PARTS:,} strips or tiles in a TIFF, got {parts:,}")
    with _pillow(data, "TIFF") as image:
        size_wh, tags = image.size, image.tag_v2
        of_part = tags.get(322, size_wh[0]) * tags.get(323, min(tags.get(278, size_wh[1]), size_wh[1]))
        part_bytes = of_part * tags.get(277, 1) * max(tags.get(258, (8,))) // 8
        needed = _PILLOW_BYTES.get(image.mode, 4) * _pixels(size_wh) + (part_bytes if tags.get(259, 1) != 1 else 0)
        needed += OVERHEAD_BYTES
        turned, compression = tags.get(274, 1), tags.get(259, 1)
    if compression in _JPEG_IN_TIFF and data.count(b"\xff\xda") > jpeg.MAX_SCANS + 4 * parts:
        raise CostError(f"expected at most {jpeg.MAX_SCANS} scans in a TIFF's JPEGs, got more")
    ignored = orientation.inverse(turned) if turned in orientation.SWAPS_SIDES else 1
    advice = "save it in small strips or tiles, or as JPEG or PNG"
    return ImageFile(size_wh, needed, advice, lambda: _whole(_pillow(data, "TIFF")), ignored_turn=ignored)


def _tiff_parts(data: bytes) -> int:
    """Return the number of strips or tiles in the first directory; Pillow makes an object of each."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[:4] in _BIG_TIFF
    at = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)[0]
    [count] = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, at)
    at, step, form = (at + 8, 20, "HHQ") if is_big else (at + 2, 12, "HHI")
    parts = [0]
    for offset in range(at, min(at + count * step, len(data) - step + 1), step):
        tag, _, values = struct.unpack_from(order + form, data, offset)
        if tag in (_STRIPS, _TILES):
            parts.append(values)
    return max(parts)
