"""Draws regions over their image, to show predictions before they are stored."""

from pathlib import Path

import cv2
import numpy as np

from backend.segmentation import shape_masks
from backend.shapes import Bitmask, Brush, KeyPoint
from backend.types import Region
from model.overlay import RgbImage, draw
from model.types import Mask

LONGEST_SIDE = 1600
QUALITY = 90

COMMENT = b"masks drawn by paddle-sam"
_MARK = b"\xff\xfe" + (2 + len(COMMENT)).to_bytes(2, "big") + COMMENT
_MARKED_WITHIN = 256  # bytes


def over(pixels: RgbImage, regions: tuple[Region, ...]) -> RgbImage:
    """Return an image, (h, w, 3) uint8 RGB of any scale, with its regions tinted over it, up to `LONGEST_SIDE`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1.0 else np.asarray(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return draw(small, [area(region, (size_wh[1], size_wh[0])) for region in regions], ())


def area(region: Region, size: tuple[int, int]) -> Mask:
    """Return the pixels that a region covers on an image that is shown at ``size`` (height, width)."""
    match region.shape:
        case Brush() | Bitmask():
            return shape_masks.scaled(shape_masks.mask(region.shape, region.original_size), size)
        case KeyPoint():
            return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), size)
    return shape_masks.mask(region.shape, size)


def jpeg(pixels: RgbImage) -> bytes:
    """Return an RGB image as a JPEG file, with a comment that `is_overlay` recognizes."""
    is_encoded, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert is_encoded  # an array of this form can be written
    data = encoded.tobytes()
    header = 4 + int.from_bytes(data[4:6], "big")  # JFIF's own segment has to come first
    return data[:header] + _MARK + data[header:]


def is_overlay(path: Path) -> bool:
    """Whether a file was made by `jpeg`, completely or in part."""
    with path.open("rb") as file:
        return _MARK in file.read(_MARKED_WITHIN)
