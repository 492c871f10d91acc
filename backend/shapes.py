"""The shapes that can be drawn on an image, without labels, control or image.

Frames: *percent* is percent of the image as the browser shows it, x of its width and y of its height.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias


class ShapeKind(str, Enum):
    """What a region is drawn as, whatever its labels."""

    KEYPOINT = "keypoint"
    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"
    POLYGON = "polygon"
    BRUSH = "brush"
    BITMASK = "bitmask"
    VECTOR = "vector"

    def __str__(self) -> str:
        return self.value


OUTPUT_KINDS = (
    ShapeKind.BRUSH,
    ShapeKind.BITMASK,
    ShapeKind.POLYGON,
    ShapeKind.VECTOR,
    ShapeKind.RECTANGLE,
    ShapeKind.ELLIPSE,
)
"""The kinds that an answer can have, in order of preference where a labeling config offers several."""


@dataclass(frozen=True)
class Detail:
    """How closely a region follows its mask; None means the default."""

    # largest distance in pixels of the photo between an outline and its mask; by default a ring loses at most 0.5 % of
    # the IoU
    tolerance: float | None = None
    corners: int | None = None  # largest number of corners of a ring, from `FEWEST_CORNERS`; beyond it, tolerance grows
    # holes and islands of fewer pixels are filled and dropped; by default those below 0.1 % of an object's area where
    # an outline is drawn, none where a mask is painted
    min_area: float | None = None

    def over(self, defaults: "Detail") -> "Detail":
        """Return this with the values of ``defaults`` where it has none.

        >>> Detail(corners=20).over(Detail(corners=400, min_area=50.0))
        Detail(tolerance=None, corners=20, min_area=50.0)
        """
        own = {name: value for name, value in vars(self).items() if value is not None}
        return replace(defaults, **own)


DEFAULT_DETAIL = Detail()

FEWEST_CORNERS, MOST_CORNERS = 4, 400
"""Corners that a ring can be limited to, and that it is limited to by default."""


def in_order(preferred: Iterable[ShapeKind]) -> tuple[ShapeKind, ...]:
    """Return every kind that an answer can be drawn as, the preferred ones first.

    >>> [str(kind) for kind in in_order([ShapeKind.POLYGON])][:3]
    ['polygon', 'brush', 'bitmask']
    """
    return tuple(dict.fromkeys((*preferred, *OUTPUT_KINDS)))


def kind_of(name: str) -> ShapeKind | None:
    """Return what a tag or region type draws, None for one that draws nothing.

    >>> str(kind_of("Brush")), str(kind_of("brushlabels")), kind_of("Choices")
    ('brush', 'brush', None)
    """
    plain = name.lower().removesuffix("labels")
    return ShapeKind.BRUSH if plain == "magicwand" else _KINDS.get(plain)


_KINDS = {str(kind): kind for kind in ShapeKind}


@dataclass(frozen=True)
class KeyPoint:
    """A point, in percent."""

    x: float
    y: float


@dataclass(frozen=True)
class Rectangle:
    """A box by its corner (x, y), width and height in percent, turned ``rotation`` degrees clockwise about that corner.

    Width and height may be negative when the box was drawn from right to left or upwards.
    """

    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Ellipse:
    """An ellipse by its centre and radii in percent, turned ``rotation`` degrees clockwise about the centre."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Polygon:
    """A closed ring of (x, y) corners in percent; the last corner joins the first.

    >>> Polygon(((0, 0), (50, 0)))
    Traceback (most recent call last):
        ...
    ValueError: points: expected at least 3 corners, got 2
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 3:
            raise ValueError(f"points: expected at least 3 corners, got {len(self.points)}")


@dataclass(frozen=True)
class Stroke:
    """One stroke of a brush, or of an eraser: (x, y) in percent, its width in percent of the image's width."""

    points: tuple[tuple[float, float], ...]
    width: float
    erases: bool = False


@dataclass(frozen=True)
class Brush:
    """A painted mask: Label Studio's run-length code (``backend.protocol.rle``), then strokes over it, oldest first."""

    rle: bytes = b""
    strokes: tuple[Stroke, ...] = ()


@dataclass(frozen=True)
class Bitmask:
    """A painted mask: the data URL of an RGBA PNG whose alpha is the mask, then strokes over it, oldest first."""

    data_url: str
    strokes: tuple[Stroke, ...] = ()


@dataclass(frozen=True)
class Vector:
    """A path of (x, y) corners in percent, joined by straight lines; some are curves where it is ``curved``."""

    points: tuple[tuple[float, float], ...]
    closed: bool = True
    curved: bool = False


Shape: TypeAlias = KeyPoint | Rectangle | Ellipse | Polygon | Brush | Bitmask | Vector
