"""Regions drawn over their image, for people who want to see what would be stored before it is."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from backend import marks
from backend.shapes import Bitmask, Brush, Ellipse, Polygon, Rectangle, Vector
from backend.types import Region
from model.overlay import RgbImage, draw
from model.types import Mask

LONGEST_SIDE = 1600
QUALITY = 90
ELLIPSE_CORNERS = 90

COMMENT = b"masks drawn by paddle-sam"
_MARK = b"\xff\xfe" + (2 + len(COMMENT)).to_bytes(2, "big") + COMMENT
_MARKED_WITHIN = 256  # bytes


def over(pixels: RgbImage, regions: tuple[Region, ...]) -> RgbImage:
    """Return an image with regions tinted over it, no larger than `LONGEST_SIDE`.

    Args:
        pixels: (h, w, 3) uint8 RGB, possibly smaller than the image that the regions are about.
        regions: all about this image.

    Raises:
        PromptError: a region is damaged.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1.0 else np.asarray(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return draw(small, [area(region, (size_wh[1], size_wh[0])) for region in regions], ())


def area(region: Region, size: tuple[int, int]) -> Mask:
    """Return what a region covers of an image that is shown at ``size`` (height, width).

    Raises:
        PromptError: the region is damaged, or lies outside the image.
    """
    match region.shape:
        case Brush() | Bitmask() | Polygon() | Vector():
            found = marks.mark(region.shape, size, region.original_size).rough_mask
            assert found is not None  # these shapes are areas
            return Mask.from_array(found)
        case Rectangle(x, y, width, height, rotation):
            corners = np.array(((0.0, 0.0), (width, 0.0), (width, height), (0.0, height)))
            return _filled(corners, (x, y), rotation, size)
        case Ellipse(x, y, radius_x, radius_y, rotation):
            angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
            ring = np.stack((radius_x * np.cos(angles), radius_y * np.sin(angles)), axis=1)
            return _filled(ring, (x, y), rotation, size)
        case _:
            return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), size)


def _filled(ring: npt.NDArray[np.float64], origin: tuple[float, float], rotation: float, size: tuple[int, int]) -> Mask:
    """Return what lies in a ring of points in percent, turned in degrees clockwise about (0, 0), moved to an origin."""
    height, width = size
    scale, angle = np.array((width / 100, height / 100)), np.radians(rotation)
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    points = ring * scale @ turn + np.array(origin) * scale
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)
    return Mask.from_array(canvas.view(np.bool_))


def jpeg(pixels: RgbImage) -> bytes:
    """Return an RGB image as a file, with a comment by which `is_overlay` knows it."""
    done, made = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done  # an array of this form can be written
    data = made.tobytes()
    header = 4 + int.from_bytes(data[4:6], "big")  # JFIF's own segment has to come first
    return data[:header] + _MARK + data[header:]


def is_overlay(path: Path) -> bool:
    """Whether a file is one that `jpeg` has made, or the beginning of one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _MARK in file.read(_MARKED_WITHIN)
