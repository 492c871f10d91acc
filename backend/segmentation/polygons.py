"""Converts a mask's outline to closed rings, for kinds of region that hold one ring and no holes.

Policy: one ring per connected part, largest first, at most ``MOST_PARTS``. By default a ring differs from its part by
at most ``LOSS`` of the part's area, and never by more than ``COARSEST`` pixels; `backend.shapes.Detail` lists what can
be set. Holes are connected to the outside by a slit of ``SLIT`` pixels, so that the ring goes around them. Rings do not
cross themselves and stay inside the image. A mask with more than ``RAGGED`` corners is drawn in squares of 2 pixels, or
as many as it takes, so that an outline takes a second at most.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import nearest_points

from backend.shapes import DEFAULT_DETAIL, MOST_CORNERS, Detail
from model.automatic.small_regions import is_noise, pixels_within, without_small_regions
from model.types import Mask

Ring: TypeAlias = npt.NDArray[np.float64]

LOSS = 0.004
COARSEST = 2.0
SPECK = 0.001  # of the object's area
SMALLEST_SPECK = 4.0  # pixels
SLIT = 0.02
SLANT = 0.2  # pixels to each side by which a slit is turned, so that it misses the pixels' centres in its row
MOST_PARTS = 32
RAGGED = 20_000  # corners beyond which a mask is noise rather than an outline
CORNERS_PER_HOLE = 16
HALVINGS = 8  # of the interval of tolerances in which the one for a number of corners lies


def rings(mask: Mask, detail: Detail = DEFAULT_DETAIL) -> tuple[Ring, ...]:
    """Return the outline of a mask: per part the (N, 2) corners in original pixels, without repeating the first.

    An empty mask has no rings.

    >>> [ring] = rings(Mask.from_array(np.ones((4, 6), dtype=np.bool_)))
    >>> ring.shape, ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    ((4, 2), [0.0, 0.0], [6.0, 4.0])
    """
    if not mask.area:
        return ()
    speck = max(SMALLEST_SPECK, SPECK * mask.area) if detail.min_area is None else detail.min_area
    mask, _ = without_small_regions(mask, speck)
    most = detail.corners or MOST_CORNERS
    parts: list[Polygon] = []
    for shell, holes in _contours(mask):
        holes.sort(key=lambda hole: -cv2.contourArea(hole.astype(np.float32)))
        part = _Part.of(shell + mask.offset, [hole + mask.offset for hole in holes[: most // CORNERS_PER_HOLE]])
        parts.extend(_fitted(part, mask.original_size, detail.tolerance, most))
    parts.sort(key=lambda polygon: -polygon.area)
    return tuple(shapely.get_coordinates(polygon.exterior)[:-1] for polygon in parts[:MOST_PARTS])


def _contours(mask: Mask) -> Iterator[tuple[Ring, list[Ring]]]:
    """Yield every part's border and the borders of its holes, through the centres of pixels; the largest part first."""
    attempts = map(_borders, _ever_smoother(mask.crop.view(np.uint8)))
    contours, tree = next(borders for borders in attempts if borders is not None)
    borders = [contour[:, 0].astype(np.float64) for contour in contours]
    shells = [number for number, (_, _, _, parent) in enumerate(tree) if parent < 0]
    shells.sort(key=lambda number: -cv2.contourArea(contours[number]))
    holes: dict[int, list[Ring]] = {number: [] for number in shells}
    for number, (_, _, _, parent) in enumerate(tree):
        if parent >= 0 and len(borders[number]) >= 3:
            holes[parent].append(borders[number])
    for number in shells[:MOST_PARTS]:
        yield borders[number], holes[number]


def _borders(crop: npt.NDArray[np.uint8]) -> tuple[Sequence[npt.NDArray[np.int32]], npt.NDArray[np.int32]] | None:
    """Return the borders of a mask's parts and holes, and how they are nested; None where the mask is ragged."""
    if is_noise(crop):
        return None
    contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return (contours, tree[0]) if sum(map(len, contours)) <= RAGGED else None


def _ever_smoother(crop: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a mask, then the mask in ever larger squares, set where at least half of one is, or as much as of any."""
    yield crop
    shares = crop * np.uint8(255)
    while shares.size > 1:
        half = [(side + 1) // 2 for side in shares.shape[::-1]]
        shares = cv2.resize(shares, half, interpolation=cv2.INTER_AREA).astype(np.float32)
        squares = (shares >= min(127.5, float(shares.max()))).view(np.uint8)
        yield np.asarray(cv2.resize(squares, crop.shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


@dataclass(frozen=True)
class _Part:
    """A part's outline before it is simplified.

    Attributes:
        outline: through the centres of the border's pixels, or around these where the part is thin.
        pixels: what the part covers; None where the outline goes around the pixels.
    """

    outline: BaseGeometry
    pixels: float | None

    @classmethod
    def of(cls, shell: Ring, holes: Sequence[Ring]) -> "_Part":
        """Return the part on and inside of borders."""
        if len(shell) < 3:
            return cls(_around(LineString(shell) if len(shell) == 2 else shapely.Point(shell[0])), None)
        exact: BaseGeometry = Polygon(shell, holes)
        if exact.is_valid:
            return cls(exact, pixels_within(shell) - sum(pixels_within(hole, sign=-1) for hole in holes))
        # The border runs over itself, where the part is one pixel wide.
        borders = [shapely.LinearRing(border) for border in (shell, *holes)]
        return cls(_around(shapely.union_all([shapely.make_valid(exact, method="structure"), *borders])), None)

    def simplified(self, tolerance: float) -> BaseGeometry:
        """Return the area with fewer corners, in pixels of the image."""
        simple = self.outline.simplify(tolerance, preserve_topology=True)
        margin = 0.0
        if self.pixels is not None:
            # Half a pixel on an upright border, less on a slanted one: as much as compensates for the missing pixels.
            least, most = max(0.0, 0.3 - tolerance / 2), 0.5 + tolerance / 2
            margin = min(most, max(least, (self.pixels - simple.area) / simple.length))
        grown = simple.buffer(margin, join_style="mitre", mitre_limit=2)
        return shapely.affinity.translate(grown, 0.5, 0.5)

    def default_tolerance(self) -> float:
        """Return a tolerance that changes the area by at most ``LOSS``."""
        # Moving a border by t changes the area by less than t times its length, so the last one is always good enough.
        allowed = LOSS * self.outline.area
        safe = min(COARSEST, allowed / max(1.0, self.outline.length))
        for tolerance in (*(min(COARSEST, factor * safe) for factor in (8, 4, 2.5, 1.5)), safe):
            if tolerance == safe or self._loss(tolerance) <= allowed:
                break
        return tolerance

    def _loss(self, tolerance: float) -> float:
        simple = self.outline.simplify(tolerance, preserve_topology=True)
        return float(shapely.symmetric_difference(simple, self.outline).area)


def _around(shape: BaseGeometry) -> BaseGeometry:
    """Return the area of the pixels whose centres lie on a shape."""
    return shape.buffer(0.5, cap_style="square", join_style="mitre", mitre_limit=2)


def _fitted(part: _Part, size: tuple[int, int], tolerance: float | None, corners: int) -> list[Polygon]:
    """Return a part's polygons on an image of ``size``, with so many corners at most."""
    frame = shapely.box(0, 0, size[1], size[0])

    def at(tolerance: float) -> list[Polygon]:
        return list(_without_holes(shapely.intersection(part.simplified(tolerance), frame)))

    low = part.default_tolerance() if tolerance is None else tolerance
    polygons = at(low)
    if _corners(polygons) <= corners:
        return polygons
    x1, y1, x2, y2 = part.outline.bounds
    fitting = _polygons(shapely.intersection(shapely.box(x1, y1, x2 + 1, y2 + 1), frame))
    low, high = max(low, 0.1), math.hypot(x2 - x1, y2 - y1) + 1
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        polygons = at(middle)
        if _corners(polygons) > corners:
            low = middle
        else:
            fitting, high = polygons, middle
    return fitting


def _corners(polygons: Sequence[Polygon]) -> int:
    return max((len(polygon.exterior.coords) - 1 for polygon in polygons), default=0)


def _without_holes(shape: BaseGeometry) -> Iterator[Polygon]:
    """Yield the shape's polygons, their holes connected to the outside."""
    for polygon in _polygons(shape):
        for slant in (SLANT, 0.0):  # in a narrow corner a slanted slit may end beside the hole
            slits = shapely.union_all([_slit(hole, polygon, slant) for hole in polygon.interiors])
            parts = _polygons(shapely.difference(polygon, slits))
            if not any(part.interiors for part in parts):
                break
        yield from (part for part in parts if part.area > 0)


def _slit(hole: shapely.LinearRing, polygon: Polygon, slant: float) -> BaseGeometry:
    """Return a thin cut from a hole to the outside, along the shortest line and a little beyond both ends."""
    start, end = nearest_points(hole, polygon.exterior)
    distance = math.hypot(end.x - start.x, end.y - start.y) or 1.0
    dx, dy = (end.x - start.x) / distance, (end.y - start.y) / distance
    line = [
        (start.x - dx / 2 + slant * dy, start.y - dy / 2 - slant * dx),
        (end.x + dx / 2 - slant * dy, end.y + dy / 2 + slant * dx),
    ]
    return LineString(line).buffer(SLIT / 2, cap_style="flat")


def _polygons(shape: BaseGeometry) -> list[Polygon]:
    """Return a shape's polygons, including those within nested collections."""
    return [
        polygon
        for part in shapely.get_parts(shape).tolist()
        for polygon in ([part] if isinstance(part, Polygon) else _polygons(part) if hasattr(part, "geoms") else [])
    ]
