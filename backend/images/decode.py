"""Decodes the bytes of an image file into pixels as a browser shows them.

An annotator clicks on what the browser shows, so an image is rotated where Chromium rotates it (`orientation`), and the
parts of a file that Chromium ignores are ignored. Colours become 8-bit sRGB: embedded ICC profiles are applied,
transparency is blended with white, and 16-bit, 32-bit and float values are stretched between their 1st and 99th
percentile, since scans and medical images often use a small part of their range. Animations and multi-page files give
their first frame.

Pixels are reduced to the size of the model's input: the colours are converted and the rows resized a band at a time, so
that the full-size pixels need not be in memory together.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ImageError, Reason
from model import colours
from model.errors import CostError
from model.images import orientation
from model.images.files import DECODER_ERRORS, MAX_SIDE, ImageFile, allowed_bytes, kind_of, open_file
from model.transforms import input_size, resize_bands

PIXELS_VERSION = "3"  # changes whenever the same file would decode to other pixels; part of every cache key
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_DIGEST = re.compile(r"[0-9a-f]{64}")
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


# Pillow's limit is global, half as high as what aerial photos need, and a warning at first; ours is checked on the
# header of every file, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class PixelLimits:
    """Limits on the size of an image."""

    max_pixels: int = 150_000_000  # a larger image is refused
    # a larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size, by the JPEG's own transform, which averages. At least
    # twice the side of the model's input remains, or once that side where its scans take much memory. It is reduced
    # further if it would take too much memory otherwise. None never reduces; for tests
    reduce_above_pixels: int | None = 50_000_000
    model_side: int = 1024  # side of the model's square input in pixels; larger images are scaled down to it
    # whether an image keeps its shape inside the input; False for a model to whose square every image is stretched
    keeps_shape: bool = True

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.model_side < 1:
            raise ValueError(f"limits: expected at least 1 pixel, got {self.max_pixels} and {self.model_side}")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image."""

    # (h, w, 3) uint8 RGB, as a browser shows it; of ``original_size``, or scaled down to the model's input where that
    # is smaller
    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]  # (H, W) of the image in the browser; clicks and masks refer to it
    # the EXIF orientation that turns this image into what a browser shows that applies another orientation of the file;
    # 1 where there is none, or where the size is the same
    other_orientation: int = 1


def digest(data: bytes) -> str:
    """Return the sha256 of an image file in hex, the name of its content.

    >>> digest(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def check_digest(name: str, value: str) -> None:
    """Raise a `ValueError` that begins with ``name`` if a value is no sha256 in hex."""
    if not _DIGEST.fullmatch(value):
        raise ValueError(f"{name}: expected 64 hexadecimal digits, got {value!r:.80}")


def is_web_page(data: bytes) -> bool:
    """Whether ``data`` begins like HTML.

    >>> is_web_page(b"<!DOCTYPE html><html>"), is_web_page(b"GIF89a")
    (True, False)
    """
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def check(data: bytes, limits: PixelLimits) -> None:
    """Check an image file by its headers alone, as `decode` does before it decodes pixels; raises as `decode`."""
    _open(data, limits)


def decode(data: bytes, limits: PixelLimits) -> Picture:
    """Return the pixels of an image file.

    Raises:
        ImageError: the file is empty, damaged or truncated (``image_unreadable``), of an unsupported format
            (``unsupported_image_format``), or has more pixels than allowed, or takes more memory or time to decode than
            its pixels justify (``image_too_large``).
    """
    file = _open(data, limits)
    original_size = orientation.turned_size((file.size_wh[1], file.size_wh[0]), file.turn)
    fitted = input_size(original_size, limits.model_side, limits.keeps_shape)
    # Each axis only shrinks here: what a model enlarges, it enlarges itself.
    wanted = min(fitted[0], original_size[0]), min(fitted[1], original_size[1])
    height, width = orientation.turned_size(wanted, file.turn)
    try:
        loaded_wh, bands = file.load()
        picture = resize_bands(colours.bands_to_rgb(bands, loaded_wh), loaded_wh[1], (width, height))
    except DECODER_ERRORS as error:
        raise _damaged(kind_of(data), error) from error
    if file.turn != 1:
        picture = picture.transpose(orientation.TRANSPOSED[file.turn])
    other = orientation.inverse(file.turn) if file.turn != 1 else file.ignored_turn
    return Picture(np.asarray(picture), original_size, other if other in orientation.SWAPS_SIDES else 1)


def _open(data: bytes, limits: PixelLimits) -> ImageFile:
    if not data:
        raise ImageError("expected an image, got 0 bytes")
    kind = kind_of(data)
    if not kind:
        known = f"expected one of {', '.join(FORMATS)}"
        for name, matches in _FOREIGN:
            if matches(data[:1024]):
                raise ImageError(f"{known}, got {name}", Reason.UNSUPPORTED_IMAGE_FORMAT)
        raise ImageError(f"{known}, got none of them ({data[:8]!r}...)")
    try:
        file = open_file(data, kind, limits.model_side, limits.reduce_above_pixels, limits.keeps_shape)
    except CostError as error:
        raise ImageError(str(error), Reason.IMAGE_TOO_LARGE) from error
    except DECODER_ERRORS as error:
        raise _damaged(kind, error) from error
    width, height = file.size_wh
    if width * height > limits.max_pixels:
        most = f"expected at most {limits.max_pixels:,} pixels"
        text = f"{most}, got {width} × {height}; see PADDLE_SAM_MAX_IMAGE_PIXELS"
        raise ImageError(text, Reason.IMAGE_TOO_LARGE)
    if min(width, height) < 1:
        raise ImageError(f"expected at least one pixel, got {width} × {height}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"expected sides of at most {MAX_SIDE:,}, got {width} × {height}", Reason.IMAGE_TOO_LARGE)
    if file.bytes_needed > (allowed := allowed_bytes(file.size_wh)):
        raise ImageError(
            f"expected a {kind} that takes at most {allowed // 10**6} MB to decode, got {width} × {height} that takes "
            f"{file.bytes_needed // 10**6} MB; {file.advice or 'make it smaller'}",
            Reason.IMAGE_TOO_LARGE,
        )
    return file


def _damaged(kind: str, error: Exception) -> ImageError:
    return ImageError(f"expected a whole image, got a damaged {kind}: {error or type(error).__name__}")
