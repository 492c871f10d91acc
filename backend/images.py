"""Bytes of an image file to pixels, as a browser shows them; nothing about where the bytes come from.

What a browser shows is what an annotator clicks on, so orientation follows the EXIF tag and nothing else (Pillow's own
``exif_transpose`` also obeys XMP, which browsers ignore). Colours become 8-bit sRGB: embedded ICC profiles are applied,
transparency lies on white, and 16-bit, 32-bit and float values are stretched between their 1st and 99th percentile,
since scans and medical images often use a small part of their range. Animations and multi-page files give their first
frame.

Pillow decodes everything. OpenCV reads a 12-megapixel JPEG in 52 ms instead of 92, little beside an encode, and returns
half an image where a file is cut short.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ImageError, Reason
from model.colours import to_rgb
from model.transforms import longest_side_size

PIXELS_VERSION = "1"
"""Changes whenever the same file would give other pixels; part of every cache key."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_FOREIGN: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("HEIC or AVIF", lambda head: head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS),
    ("a video", lambda head: head[4:8] == b"ftyp" or head.startswith(b"\x1aE\xdf\xa3")),
    ("JPEG XL", lambda head: head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL "))),
    ("JPEG 2000", lambda head: head.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"))),
    ("PDF", lambda head: head.startswith(b"%PDF-")),
    ("Photoshop", lambda head: head.startswith(b"8BPS")),
    ("DICOM", lambda head: head[128:132] == b"DICM"),
    ("SVG", lambda head: b"<svg" in head.lower()),
    ("a web page", lambda head: is_web_page(head)),
)

_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files, as found by feeding them such."""

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112

# Pillow's limit is global, half as high as what aerial photos need, and a warning at first; ours is checked on the
# header of every file, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Limits:
    """How large a picture may be.

    Attributes:
        max_pixels: a larger one is refused.
        reduce_above_pixels: a larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size (by the JPEG's own transform, which
            averages), as long as at least twice the model's input remains and the model's input keeps its exact size.
            None: never.
        model_side: longest side of the model's input.
    """

    max_pixels: int = 150_000_000
    reduce_above_pixels: int | None = 50_000_000
    model_side: int = 1024

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.model_side < 1:
            raise ValueError(f"limits: expected at least 1 pixel, got {self.max_pixels} and {self.model_side}")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, as a browser shows it; smaller than ``original_size`` if it was reduced.
        original_size: (H, W) of the image in the browser; what clicks and masks refer to.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]


def digest(data: bytes) -> str:
    """Return the name of an image's content: the sha256 of its file, in hex."""
    return hashlib.sha256(data).hexdigest()


def is_web_page(data: bytes) -> bool:
    """Whether ``data`` begins like HTML."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def check(data: bytes, limits: Limits) -> None:
    """Refuse, from the header alone, what `decode` would refuse without having decoded anything.

    Raises:
        ImageError: as `decode`.
    """
    try:
        _open(data, limits).close()
    except _DECODER_ERRORS as error:
        raise ImageError(f"the image cannot be read: {error}") from error


def decode(data: bytes, limits: Limits) -> Picture:
    """Return the pixels of an image file.

    Raises:
        ImageError: empty, damaged or cut short (``image_unreadable``), of a kind that is not read
            (``unsupported_image_format``), or of more pixels than allowed (``image_too_large``).
    """
    try:
        with _open(data, limits) as image:
            size_wh = image.size
            reduced = _reduce(image, limits)
            image.load()  # a TIFF turns itself here, a PNG finds its EXIF
            turn = _TRANSPOSED.get(_orientation(image))
            upright = to_rgb(image)
    except _DECODER_ERRORS as error:
        raise ImageError(f"the image cannot be read: {error}") from error
    if turn is not None:
        upright = upright.transpose(turn)
    pixels = np.asarray(upright)
    if not reduced:
        return Picture(pixels, (pixels.shape[0], pixels.shape[1]))
    swapped = turn is not None and turn not in (_TRANSPOSED[2], _TRANSPOSED[3], _TRANSPOSED[4])
    return Picture(pixels, (size_wh[0], size_wh[1]) if swapped else (size_wh[1], size_wh[0]))


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Return the image with its header read and its size checked, no pixel decoded."""
    if not data:
        raise ImageError("expected an image, got 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except _DECODER_ERRORS as error:
        known = f"expected one of {', '.join(FORMATS)}"
        for name, matches in _FOREIGN:
            if matches(data[:1024]):
                raise ImageError(f"{known}, got {name}", Reason.UNSUPPORTED_IMAGE_FORMAT) from error
        raise ImageError(f"{known}, got neither ({data[:8]!r}...)") from error
    width, height = image.size
    if width * height > limits.max_pixels:
        image.close()
        raise ImageError(
            f"expected at most {limits.max_pixels:,} pixels, got {width} × {height}; see PADDLE_SAM_MAX_IMAGE_PIXELS",
            Reason.IMAGE_TOO_LARGE,
        )
    if min(width, height) < 1:
        image.close()
        raise ImageError(f"expected at least one pixel, got {width} × {height}")
    return image


def _reduce(image: Image.Image, limits: Limits) -> bool:
    """Ask a huge JPEG to decode at a fraction of its size; return whether it will."""
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or limits.reduce_above_pixels is None:
        return False
    if width * height <= limits.reduce_above_pixels:
        return False
    wanted = longest_side_size((height, width), limits.model_side)
    for factor in (8, 4, 2):
        small = (-(-height // factor), -(-width // factor))
        keeps_detail = max(small) >= 2 * limits.model_side and min(width, height) >= factor
        if keeps_detail and longest_side_size(small, limits.model_side) == wanted:
            image.draft(image.mode, (width // factor, height // factor))
            return image.size != (width, height)
    return False


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or it makes no sense."""
    data = image.info.get("exif")
    if not isinstance(data, bytes):
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1  # a browser shows the image all the same
    return value if isinstance(value, int) else 1
