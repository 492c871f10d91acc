"""Converts a mask's outline to closed rings, for kinds of region that hold one ring and no holes.

Policy: one ring per connected part, largest first. A ring differs from its part by at most ``TOLERANCE`` of the part's
area, and never by more than ``COARSEST`` pixels. Parts below ``SPECK`` of the object's area are dropped and holes below
it are filled; a larger hole is connected to the outside by a slit of ``SLIT`` pixels, so that the ring goes around it.
Rings do not cross themselves and stay inside the image. A mask with more than ``RAGGED`` corners is smoothed first, and
at most ``MOST_PARTS`` parts are returned.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import nearest_points

from model.types import Mask

Ring: TypeAlias = npt.NDArray[np.float64]

TOLERANCE = 0.015
COARSEST = 2.0
SPECK = 0.001
SMALLEST_SPECK = 4.0
SLIT = 0.05
MOST_PARTS = 32
RAGGED = 20_000  # corners beyond which a mask is noise rather than an outline


def rings(mask: Mask) -> tuple[Ring, ...]:
    """Return the outline of a mask: per part the (N, 2) corners in original pixels, without repeating the first.

    An empty mask has no rings.

    >>> [ring] = rings(Mask.from_array(np.ones((4, 6), dtype=np.bool_)))
    >>> ring.shape, ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    ((4, 2), [0.0, 0.0], [6.0, 4.0])
    """
    if not mask.area:
        return ()
    speck = max(SMALLEST_SPECK, SPECK * mask.area)
    height, width = mask.original_size
    frame = shapely.box(0, 0, width, height)
    parts: list[Polygon] = []
    for shell, holes in _contours(mask):
        grown = shapely.affinity.translate(_grown(shell, holes), mask.offset[0] + 0.5, mask.offset[1] + 0.5)
        parts.extend(_without_holes(shapely.intersection(grown, frame), speck))
    parts.sort(key=lambda part: -part.area)
    kept = [part for number, part in enumerate(parts) if number == 0 or part.area >= speck]
    return tuple(shapely.get_coordinates(part.exterior)[:-1] for part in kept[:MOST_PARTS])


def _contours(mask: Mask) -> Iterator[tuple[Ring, list[Ring]]]:
    """Yield every part's border and the borders of its holes, through the centres of pixels."""
    crop = mask.crop.view(np.uint8)
    contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if sum(map(len, contours)) > RAGGED:
        crop = _smoothed(crop)
        contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    borders = [contour[:, 0].astype(np.float64) for contour in contours]
    shells = [number for number, (_, _, _, parent) in enumerate(tree[0]) if parent < 0]
    shells.sort(key=lambda number: -cv2.contourArea(contours[number]))
    holes: dict[int, list[Ring]] = {number: [] for number in shells}
    for number, (_, _, _, parent) in enumerate(tree[0]):
        if parent >= 0 and len(borders[number]) >= 3:
            holes[parent].append(borders[number])
    for number in shells[: 2 * MOST_PARTS]:
        yield borders[number], holes[number]


def _smoothed(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a ragged mask without its specks and pinholes, or unchanged where it consists of specks only."""
    smooth = crop
    for size in (3, 7, 11):
        smooth = np.asarray(cv2.medianBlur(smooth, size), dtype=np.uint8)
    return smooth if smooth.any() else crop


def _grown(shell: Ring, holes: Sequence[Ring]) -> BaseGeometry:
    """Return the area of the pixels on and inside the borders: simplified, then widened by up to half a pixel."""
    if len(shell) < 3:
        outline = LineString(shell) if len(shell) == 2 else shapely.Point(shell[0])
        return outline.buffer(0.5, cap_style="square", join_style="mitre")
    exact: BaseGeometry = Polygon(shell, holes)
    is_thin = not exact.is_valid  # the border runs over itself, where the mask is one pixel wide
    if is_thin:
        borders = [shapely.LinearRing(border) for border in (shell, *holes)]
        exact = shapely.union_all([shapely.make_valid(exact, method="structure"), *borders])
    # Moving a border by t changes the area by less than t times its length, so the last try is always good enough.
    safe = min(COARSEST, TOLERANCE * exact.area / max(1.0, exact.length))
    allowed = TOLERANCE * exact.area
    for tolerance in (*(min(COARSEST, factor * safe) for factor in (4, 2.5, 1.5)), safe):
        simple = exact.simplify(tolerance, preserve_topology=True)
        if tolerance == safe or shapely.symmetric_difference(simple, exact).area <= allowed:
            break
    # Half a pixel on an upright border, less on a slanted one: as much as compensates for the missing pixels.
    missing = _pixels(shell) - sum(_pixels(hole, sign=-1) for hole in holes) - simple.area
    margin = 0.5 if is_thin else min(0.5, max(0.3, missing / simple.length))
    return simple.buffer(margin, join_style="mitre", mitre_limit=2, cap_style="square")


def _pixels(border: Ring, sign: int = 1) -> float:
    """Return how many pixels a border encloses, with (``sign`` 1) or without (-1) the border itself: Pick's theorem."""
    steps = np.abs(np.diff(border, axis=0, append=border[:1])).max(axis=1).sum()
    return cv2.contourArea(border.astype(np.float32)) + sign * float(steps) / 2 + 1


def _without_holes(shape: BaseGeometry, speck: float) -> Iterator[Polygon]:
    """Yield the shape's polygons without holes: small holes are filled, others are connected to the outside."""
    for polygon in _polygons(shape):
        holes = [hole for hole in polygon.interiors if Polygon(hole).area >= speck]
        slits = shapely.union_all([_slit(hole, polygon) for hole in holes])
        whole = shapely.difference(Polygon(polygon.exterior, holes), slits)
        yield from (part for part in _polygons(whole) if part.area > 0)


def _slit(hole: shapely.LinearRing, polygon: Polygon) -> BaseGeometry:
    """Return a thin cut from a hole to the outside, along the shortest line and a little beyond both ends."""
    start, end = nearest_points(hole, polygon.exterior)
    dx, dy = end.x - start.x, end.y - start.y
    distance = math.hypot(dx, dy) or 1.0
    dx, dy = SLIT * dx / distance, SLIT * dy / distance
    return LineString([(start.x - dx, start.y - dy), (end.x + dx, end.y + dy)]).buffer(SLIT / 2, cap_style="flat")


def _polygons(shape: BaseGeometry) -> list[Polygon]:
    """Return a shape's polygons, including those within nested collections."""
    return [
        polygon
        for part in shapely.get_parts(shape).tolist()
        for polygon in ([part] if isinstance(part, Polygon) else _polygons(part) if hasattr(part, "geoms") else [])
    ]
