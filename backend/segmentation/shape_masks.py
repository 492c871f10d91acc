"""Converts a shape to its outlines, and to the mask of the pixels whose centres lie inside.

Outlines are (N, 2) corners (x, y) in pixels, the last of which joins the first.
"""

import cv2
import numpy as np

from backend.errors import PromptError, Reason
from backend.segmentation import polygons, scanline, shape_prompts
from backend.segmentation.polygons import Ring
from backend.segmentation.shape_prompts import Size
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, Shape, Vector
from model.types import Mask

ELLIPSE_CORNERS = 64
EXACT_CORNERS = 720
"""Corners of an ellipse that becomes a mask: a radius of 10,000 pixels is 0.1 pixels too short between two corners."""


def rings(shape: Shape, size: Size) -> tuple[Ring, ...]:
    """Return a shape's outlines on an image of ``size`` (height, width); a painted mask has one per connected part.

    Raises:
        PromptError: the shape is damaged, or covers no area.

    >>> [ring] = rings(Rectangle(25, 50, 50, 50), (100, 200))
    >>> ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    ([50.0, 50.0], [150.0, 100.0])
    """
    if isinstance(shape, Brush | Bitmask):
        return polygons.rings(shape_prompts.painted(shape, size))
    return (_ring(shape, size, ELLIPSE_CORNERS),)


def mask(shape: Shape, size: Size) -> Mask:
    """Return the pixels that a shape covers on an image of ``size`` (height, width), none where it lies outside.

    Raises:
        PromptError: the shape is damaged, or covers no area.

    >>> mask(Rectangle(25, 50, 50, 50), (100, 200)).area
    5000
    """
    if isinstance(shape, Brush | Bitmask):
        return shape_prompts.painted(shape, size)
    return scanline.filled(_ring(shape, size, EXACT_CORNERS), size)


def scaled(mask: Mask, size: Size) -> Mask:
    """Return a mask on a copy of its image of ``size`` (height, width)."""
    if mask.original_size == size:
        return mask
    pixels = cv2.resize(mask.to_array().view(np.uint8), size[::-1], interpolation=cv2.INTER_AREA)
    return Mask.from_array(np.asarray(pixels, dtype=np.bool_))


def _ring(shape: Shape, size: Size, ellipse_corners: int) -> Ring:
    match shape:
        case Rectangle():
            shape_prompts.bounds(shape, size)  # raises if a coordinate is not a finite number
            return np.array(shape_prompts.corners(shape, size))
        case Ellipse():
            return _ellipse(shape, size, ellipse_corners)
        case Polygon(points) | Vector(points, True) if len(points) >= 3:
            shape_prompts.bounds(Vector(points), size)
            return np.array(points) * (size[1] / 100, size[0] / 100)
        case KeyPoint():
            raise PromptError("a point covers nothing", Reason.NOT_A_PROMPT)
    raise PromptError("an open path covers nothing", Reason.UNSUPPORTED_PROMPT)


def _ellipse(shape: Ellipse, size: Size, corners: int) -> Ring:
    x1, y1, x2, y2 = shape_prompts.bounds(shape, size)
    angles, turn = np.linspace(0, 2 * np.pi, corners, endpoint=False), np.radians(shape.rotation)
    across = shape.radius_x * size[1] / 100 * np.cos(angles)
    down = shape.radius_y * size[0] / 100 * np.sin(angles)
    xs = (x1 + x2) / 2 + across * np.cos(turn) - down * np.sin(turn)
    ys = (y1 + y2) / 2 + across * np.sin(turn) + down * np.cos(turn)
    return np.stack((xs, ys), axis=1)
