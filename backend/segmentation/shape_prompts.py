"""Converts one drawn shape into a prompt in pixels: points on the object, a box around it, a rough mask of it.

Pixels follow the model's convention: (x, y) with the pixel (0, 0) covering [0, 1) × [0, 1); nothing is rounded.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from backend.errors import PromptError, Reason
from backend.protocol import bitmask, rle
from backend.segmentation import scanline
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, Shape, Stroke, Vector
from model.types import BoolArray, Mask

Size: TypeAlias = tuple[int, int]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]

SLIP_PERCENT = 1.0  # a point dragged out of the image by no more than this counts as on its border
FARTHEST_PERCENT = 1e6
FAR_PIXELS = 1e5  # OpenCV draws with integers; coordinates are clipped to this, far outside any image
SMALLEST_PIXELS = 1 - 1e-6
"""The smallest side of an area: a pixel, less the rounding of a conversion to percent and back."""

SUBPIXEL_BITS = 4
COARSE_PIXELS = 1 << 20  # of a larger mask, some rows and columns are searched for the point farthest inside

AREA_CELLS = 256  # to each side of the box around a polygon, in which the area of one that crosses itself is counted
RASTER_SIDE = 1024  # longer side in pixels to which a polygon is rasterised at most: the side of SAM's input
ROUGH_SIDE = 256  # longer side in pixels of a rough mask: the decoder's own grid, to which it would shrink a larger one
MOST_WORK = 600_000_000  # estimated nanoseconds that rasterising the areas of one click may take
PIXEL_WORK = 1  # nanoseconds per pixel of the image for a polygon: mostly to write the mask of the answer
MASK_WORK = 8  # likewise for a painted mask, which is also decoded
BITMASK_WORK = 16  # likewise for a PNG
CODE_WORK = 400  # nanoseconds per byte of a run-length code; a detailed mask has kilobytes
ROW_WORK = 100  # nanoseconds per row that an edge of a polygon crosses


@dataclass(frozen=True, eq=False)
class ShapePrompt:
    """One shape in pixels."""

    points: tuple[Point, ...] = ()  # (x, y) on the object, where the shape gives some
    box: Box | None = None  # x1, y1, x2, y2 around the object, inside the image; None where the shape gives none
    # see `model.types.Prompt`, its longer side at most `ROUGH_SIDE`; None where the shape is no area
    rough_mask: npt.NDArray[np.bool_ | np.uint8] | None = None
    bounds: Box | None = None  # the box in which points belong to the same object; None for a point


def shape_to_prompt(shape: Shape, size: Size) -> ShapePrompt:
    """Return the prompt of a shape on an image of ``size`` (height, width).

    >>> shape_to_prompt(Rectangle(25, 50, 50, 25), (100, 200)).box
    (50.0, 50.0, 150.0, 75.0)

    Raises:
        PromptError: the shape lies outside the image, is damaged, or is of a kind that marks no object.
    """
    match shape:
        case KeyPoint(x, y):
            _check_range(x, y)
            return ShapePrompt((_point(x, y, size),))
        case Rectangle() | Ellipse():
            return _boxed(shape, size)
        case Polygon(points) | Vector(points, True) if len(points) >= 3:
            return _polygon(points, size)
        case Polygon() | Vector():
            raise PromptError("an open path marks no object", Reason.UNSUPPORTED_PROMPT)
        case Brush() | Bitmask():
            mask = painted(shape, size)
            if not mask.area:
                raise PromptError("nothing is painted", Reason.NO_PROMPT)
            return ShapePrompt((_interior_point(mask),), None, rough(mask.to_array()), mask.box)


def check_area(shape: Shape, size: Size) -> None:
    """Check that a shape around an object covers at least a pixel of the image in each direction.

    A click with the rectangle tool makes a box without an extent, which `shape_to_prompt` treats as a point. In
    annotations and files there was no click: such a box is damaged.

    Raises:
        PromptError: it covers less of an image of ``size`` (height, width); points and masks always pass.
    """
    match shape:
        case KeyPoint() | Brush() | Bitmask():
            return
        case Rectangle(_, _, across, down):
            sides = across, down
        case Ellipse(_, _, radius_x, radius_y):
            sides = 2 * radius_x, 2 * radius_y
        case Polygon(points) | Vector(points):
            if not points:
                return  # an empty path is open, and `shape_to_prompt` refuses that
            xs, ys = zip(*points, strict=True)
            sides = max(xs) - min(xs), max(ys) - min(ys)
    _check_range(*sides)
    height, width = size
    across, down = abs(sides[0]) * width / 100, abs(sides[1]) * height / 100
    if min(across, down) < SMALLEST_PIXELS:
        name = type(shape).__name__.lower()
        raise PromptError(f"{name}: expected at least 1 × 1 pixels, got {across:.3g} × {down:.3g}", Reason.BAD_GEOMETRY)
    x1, y1, x2, y2 = bounds(shape, size)
    if isinstance(shape, Polygon | Vector):
        area = _area(np.array(shape.points) * (width / 100, height / 100))
        if area < SMALLEST_PIXELS:
            raise PromptError(f"polygon: expected an area of at least 1 pixel, got {area:.3g}", Reason.BAD_GEOMETRY)
    visible = min(x2, float(width)) - max(x1, 0.0), min(y2, float(height)) - max(y1, 0.0)
    if min(visible) < SMALLEST_PIXELS:
        raise _outside((x1, y1, x2, y2), size)


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Return the area of a ring in pixels; of one that crosses itself, of all its parts, counted in cells."""
    x, y = (ring - ring.min(axis=0)).T
    enclosed = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    # Beside the centres of cells, on which a line that goes there and back could be rounded to either side.
    cells = np.stack((x / x.max() * AREA_CELLS + 0.217, y / y.max() * AREA_CELLS), axis=1)
    counted = scanline.filled(cells, (AREA_CELLS, AREA_CELLS + 1)).area * float(x.max() * y.max()) / AREA_CELLS**2
    return max(enclosed, counted)


def bounds(shape: Rectangle | Ellipse | Polygon | Vector, size: Size) -> Box:
    """Return the upright box x1, y1, x2, y2 around a shape in pixels, not clipped; `PromptError` if out of range."""
    height, width = size
    match shape:
        case Rectangle(x, y, across, down, rotation):
            _check_range(x, y, across, down, rotation)
            outline = corners(shape, size)
        case Ellipse(x, y, radius_x, radius_y, rotation):
            _check_range(x, y, radius_x, radius_y, rotation)
            cosine, sine = _turn(rotation)
            across, down = radius_x * width / 100, radius_y * height / 100
            half_x, half_y = math.hypot(across * cosine, down * sine), math.hypot(across * sine, down * cosine)
            centre_x, centre_y = x * width / 100, y * height / 100
            outline = [(centre_x - half_x, centre_y - half_y), (centre_x + half_x, centre_y + half_y)]
        case Polygon(points) | Vector(points):
            _check_range(*(percent for point in points for percent in point))
            outline = [(x * width / 100, y * height / 100) for x, y in points]
    xs, ys = zip(*outline, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def corners(shape: Rectangle, size: Size) -> list[Point]:
    """Return a rectangle's four corners in pixels, in order, rotated about the first one.

    >>> corners(Rectangle(10, 10, 20, 20), (100, 100))
    [(10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0)]
    """
    height, width = size
    x, y = shape.x * width / 100, shape.y * height / 100
    across, down = shape.width * width / 100, shape.height * height / 100
    cosine, sine = _turn(shape.rotation)
    around = ((0.0, 0.0), (across, 0.0), (across, down), (0.0, down))
    return [(x + dx * cosine - dy * sine, y + dx * sine + dy * cosine) for dx, dy in around]


def work(shape: Shape, size: Size) -> int:
    """Return the estimated nanoseconds to rasterise a shape on an image of ``size``; 0 for shapes without an area."""
    match shape:
        case Polygon() | Vector():
            return PIXEL_WORK * math.prod(size) + outline_work(shape, size)
        case Brush():
            return MASK_WORK * math.prod(size) + outline_work(shape, size)
        case Bitmask():
            return BITMASK_WORK * math.prod(size) + outline_work(shape, size)
    return 0


def outline_work(shape: Shape, size: Size) -> int:
    """Return the part of `work` for corners, codes and strokes, each of which may cross the whole image."""
    match shape:
        case Polygon(points) | Vector(points):
            rises = sum(min(abs(y2 - y1), 200.0) for (_, y1), (_, y2) in pairwise((*points, *points[:1])))
            return len(points) ** 2 + int(ROW_WORK * rises * _shrunk(size, RASTER_SIDE)[0] / 100)
        case Brush() | Bitmask():
            code = shape.rle if isinstance(shape, Brush) else b""
            return CODE_WORK * len(code) + sum(_stroke_work(stroke, *size) for stroke in shape.strokes)
    return 0


def _stroke_work(stroke: Stroke, height: int, width: int) -> int:
    across = min(abs(stroke.width), 100.0) * width / 100 + 1
    lengths = (
        min(math.hypot((x2 - x1) * width, (y2 - y1) * height) / 100, height + width)
        for (x1, y1), (x2, y2) in pairwise((*stroke.points[:1], *stroke.points))
    )
    return int(sum(min((length + across) * across, height * width) for length in lengths))


def _check_range(*percents: float) -> None:
    if any(not abs(percent) <= FARTHEST_PERCENT for percent in percents):
        raise PromptError(f"expected percent of the image, got {percents}", Reason.BAD_GEOMETRY)


def _point(x_percent: float, y_percent: float, size: Size) -> Point:
    """Return a point moved into the image; at the right border, x is the last float below the width."""
    if not all(-SLIP_PERCENT <= percent <= 100 + SLIP_PERCENT for percent in (x_percent, y_percent)):
        raise PromptError(f"point at {x_percent:.1f} %, {y_percent:.1f} %", Reason.OUTSIDE_IMAGE)
    height, width = size
    last_x, last_y = (float(np.nextafter(np.float32(side), np.float32(0))) for side in (width, height))
    return min(max(x_percent * width / 100, 0.0), last_x), min(max(y_percent * height / 100, 0.0), last_y)


def _boxed(shape: Rectangle | Ellipse, size: Size) -> ShapePrompt:
    """Return the box around a shape, with the centre of an ellipse; a click with the tool is a point."""
    box, (height, width) = bounds(shape, size), size
    if isinstance(shape, Ellipse):
        (x, y), sides = (shape.x * width / 100, shape.y * height / 100), (2 * shape.radius_x, 2 * shape.radius_y)
    else:
        (x, y), sides = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), (shape.width, shape.height)
    if abs(sides[0]) * width / 100 < 1 and abs(sides[1]) * height / 100 < 1:
        return ShapePrompt((_point(x * 100 / width, y * 100 / height, size),))
    box = _clipped(box, size)
    has_centre = isinstance(shape, Ellipse) and 0 <= x < width and 0 <= y < height
    return ShapePrompt(((x, y),) if has_centre else (), box, bounds=box)


def _turn(degrees: float) -> tuple[float, float]:
    """Return cosine and sine, exact for quarter turns."""
    quarters, rest = divmod(degrees % 360, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _clipped(box: Box, size: Size) -> Box:
    """Return the part of a box inside the image, with sides of at least a pixel."""
    height, width = size
    x1, y1, x2, y2 = box
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise _outside(box, size)
    (x1, x2), (y1, y2) = _span(x1, x2, width), _span(y1, y2, height)
    return x1, y1, x2, y2


def _outside(box: Box, size: Size) -> PromptError:
    x1, y1, x2, y2 = box
    return PromptError(f"box {x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f} of {size[1]} × {size[0]}", Reason.OUTSIDE_IMAGE)


def _span(low: float, high: float, length: int) -> tuple[float, float]:
    low, high = max(low, 0.0), min(high, float(length))
    if high - low < 1:
        low = min(max((low + high) / 2 - 0.5, 0.0), length - 1.0)
        high = low + 1
    return low, high


def _polygon(points: tuple[Point, ...], size: Size) -> ShapePrompt:
    box = _clipped(bounds(Vector(points), size), size)
    height, width = _shrunk(size, RASTER_SIDE)
    ring = np.array(points) * (width / 100, height / 100)
    drawn = scanline.filled(ring, (height, width)).to_array()
    # The border counts as well: a thin shape may lie between the centres of pixels.
    cv2.polylines(drawn.view(np.uint8), [_drawable(ring)], True, 1, shift=SUBPIXEL_BITS)
    if not drawn.any():
        raise PromptError("polygon: no pixel of the image lies in it", Reason.OUTSIDE_IMAGE)
    x, y = _interior_point(Mask.from_array(drawn))
    return ShapePrompt(((x * size[1] / width, y * size[0] / height),), box, rough(drawn), box)


def _shrunk(size: Size, longest: int) -> Size:
    """Return the size of a copy whose longer side is at most ``longest`` pixels."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rough(drawn: BoolArray) -> npt.NDArray[np.bool_ | np.uint8]:
    """Return an area shrunk to `ROUGH_SIDE`, or unchanged where it is no larger."""
    rows, columns = drawn.shape
    height, width = _shrunk((rows, columns), ROUGH_SIDE)
    if (height, width) == (rows, columns):
        return drawn
    shares = drawn.view(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(shares, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _drawable(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return points in OpenCV's fixed-point coordinates, where (0, 0) is a pixel's centre."""
    near = np.clip(pixels - 0.5, -FAR_PIXELS, FAR_PIXELS)
    return np.rint(near * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _interior_point(mask: Mask) -> Point:
    """Return the (x, y) centre of the pixel of a mask that is farthest from its border."""
    step = 1 + math.isqrt(mask.crop.size // COARSE_PIXELS)
    crop = mask.crop[::step, ::step]
    if not crop.any():
        step, crop = 1, mask.crop
    framed = np.pad(crop.astype(np.uint8), 1)
    row, column = np.unravel_index(int(np.argmax(cv2.distanceTransform(framed, cv2.DIST_L2, 3))), framed.shape)
    return mask.offset[0] + (int(column) - 1) * step + 0.5, mask.offset[1] + (int(row) - 1) * step + 0.5


def painted(shape: Brush | Bitmask, original_size: Size) -> Mask:
    """Return a painted mask of an image of ``original_size`` (height, width); `PromptError` for another size."""
    try:
        if isinstance(shape, Bitmask):
            mask = bitmask.decode(shape.data_url, original_size)
        else:
            empty = Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), original_size)
            mask = rle.decode(shape.rle, original_size) if shape.rle else empty
    except ValueError as error:
        raise PromptError(str(error), Reason.BAD_GEOMETRY) from error
    if not shape.strokes:
        return mask
    canvas = mask.to_array().view(np.uint8)
    for stroke in shape.strokes:
        _draw(stroke, canvas)
    return Mask.from_array(canvas.view(np.bool_))


def _draw(stroke: Stroke, canvas: npt.NDArray[np.uint8]) -> None:
    """Draw a stroke as the editor does, with round ends and a width in percent of the image's width."""
    if not stroke.points:
        return
    _check_range(stroke.width, *(percent for point in stroke.points for percent in point))
    height, width = canvas.shape
    pixels = _drawable(np.array(stroke.points) * (width / 100, height / 100))
    thickness = max(1, min(round(abs(stroke.width) * width / 100), 32_000))
    if len(pixels) == 1:
        pixels = np.repeat(pixels, 2, axis=0)
    cv2.polylines(canvas, [pixels], False, int(not stroke.erases), thickness, shift=SUBPIXEL_BITS)
