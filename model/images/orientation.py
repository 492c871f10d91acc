"""Reads the EXIF orientation of files as Chromium does, and rotates images, prompts and masks.

Chromium (156, checked by the browser tests) applies the EXIF orientation of JPEG and PNG, not of WebP, and only if it
is one SHORT of 1 to 8. The first such entry is used, in the first directory or in the camera's below it; a directory
that declares more entries than it has is read as far as it goes.

Orientation *o* of the EXIF standard transforms the stored image into the upright one.
"""

import struct
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.types import Mask, Prompt

Pixel = TypeVar("Pixel", bound=np.generic)

SWAPS_SIDES = frozenset((5, 6, 7, 8))
"""Orientations that swap width and height."""

TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ORIENTATION, _CAMERA = 0x0112, 0x8769
_SHORT, _LONG = 3, 4
_INTEGERS = {1: "B", _SHORT: "H", _LONG: "I", 6: "b", 8: "h", 9: "i"}
_ENTRY_BYTES = 12

_POINTS: dict[int, Callable[[float, float, float, float], tuple[float, float]]] = {
    1: lambda x, y, width, height: (x, y),
    2: lambda x, y, width, height: (width - x, y),
    3: lambda x, y, width, height: (width - x, height - y),
    4: lambda x, y, width, height: (x, height - y),
    5: lambda x, y, width, height: (y, x),
    6: lambda x, y, width, height: (height - y, x),
    7: lambda x, y, width, height: (height - y, width - x),
    8: lambda x, y, width, height: (y, width - x),
}


def read(exif: bytes, kinds: Collection[int] = (_SHORT,)) -> int:
    """Return the orientation 1 to 8 that an EXIF block (a TIFF header and its directories) contains, 1 if none.

    Args:
        exif: the block.
        kinds: types of numbers that count.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    return _in_directory(exif, order, struct.unpack_from(f"{order}I", exif, 4)[0], kinds, is_first=True) or 1


def read_any(exif: bytes) -> int:
    """Return the orientation 1 to 8 that an EXIF block contains as a number of any type, as some programs write it."""
    return read(exif, _INTEGERS)


def _in_directory(exif: bytes, order: str, at: int, kinds: Collection[int], is_first: bool) -> int | None:
    if at + 2 > len(exif):
        return None
    count = min(struct.unpack_from(f"{order}H", exif, at)[0], (len(exif) - at - 2) // _ENTRY_BYTES)
    for offset in range(at + 2, at + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, offset)
        if tag == _ORIENTATION and kind in kinds and values == 1:
            value = int(struct.unpack_from(f"{order}{_INTEGERS[kind]}", exif, offset + 8)[0])
            if 1 <= value <= 8:
                return value
        if tag == _CAMERA and kind == _LONG and values == 1 and is_first:
            start = struct.unpack_from(f"{order}I", exif, offset + 8)[0]
            below = _in_directory(exif, order, start, kinds, is_first=False)
            if below is not None:
                return below
    return None


def inverse(orientation: int) -> int:
    """Return the orientation that reverses another one.

    >>> inverse(6), inverse(3)
    (8, 3)
    """
    return {6: 8, 8: 6}.get(orientation, orientation)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the (height, width) of an image after rotation.

    >>> turned_size((200, 300), 6)
    (300, 200)
    """
    return (size[1], size[0]) if orientation in SWAPS_SIDES else size


def turned_array(array: npt.NDArray[Pixel], orientation: int) -> npt.NDArray[Pixel]:
    """Return an (h, w) array rotated like the image that it covers."""
    if orientation in SWAPS_SIDES:
        array = array.T
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def turned_prompt(prompt: Prompt, orientation: int, size: tuple[int, int]) -> Prompt:
    """Return a prompt on an image of ``size`` (height, width), converted to the rotated image.

    A mask input stays as it is: it is in the frame of the image's embedding, however the image is shown.
    """
    height, width = size
    move = _POINTS[orientation]
    points, box = prompt.point_coords, prompt.box
    moved_points = None if points is None else [move(float(x), float(y), width, height) for x, y in points]
    moved_box = None
    if box is not None:
        (x1, y1), (x2, y2) = (move(float(box[i]), float(box[i + 1]), width, height) for i in (0, 2))
        moved_box = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    rough = prompt.rough_mask
    return replace(
        prompt,
        point_coords=moved_points,  # type: ignore[arg-type]  # the constructor makes an array of it
        box=moved_box,  # type: ignore[arg-type]  # likewise
        rough_mask=None if rough is None else turned_array(rough, orientation),
    )


def turned_mask(mask: Mask, orientation: int) -> Mask:
    """Return a mask of an image, converted to the rotated image."""
    height, width = mask.original_size
    (x, y), (rows, columns) = mask.offset, mask.crop.shape
    corners = [_POINTS[orientation](*at, width, height) for at in ((x, y), (x + columns, y + rows))]
    offset = int(min(x for x, _ in corners)), int(min(y for _, y in corners))
    crop = turned_array(mask.crop, orientation)
    return Mask(crop, offset if crop.size else (0, 0), turned_size(mask.original_size, orientation))
