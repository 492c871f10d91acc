"""The outlines of the last masks, for the status page of an operator who allows it.

An answer is only put aside when it is given; it is drawn when somebody looks, once. The photograph is never kept.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from backend import bitmask, outlines, rle
from backend.outlines import Ring
from backend.shapes import Bitmask, Brush, Ellipse, Polygon, Rectangle, Vector
from backend.status import Picture
from backend.types import Prediction, Region

KEPT = 12
MOST_REGIONS = 16
MOST_BYTES = 200_000
MOST_POINTS = 600
SIDE = 100.0
ELLIPSE_CORNERS = 48


class Pictures:
    """The last answers that held masks, at most ``KEPT``, each of at most ``MOST_BYTES``; safe from many threads."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Region, ...]] = deque(maxlen=KEPT)
        self._drawn: deque[Picture] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Put the masks of an answer aside; nothing is drawn yet."""
        for one in predictions:
            chosen = one.result[:MOST_REGIONS]
            if chosen and sum(map(_nbytes, chosen)) <= MOST_BYTES:
                self._waiting.append(chosen)

    def take(self) -> tuple[Picture, ...]:
        """Return the last pictures, newest first."""
        with self._lock:
            while self._waiting:
                picture = draw(self._waiting.popleft())
                if picture is not None:
                    self._drawn.append(picture)
            return tuple(reversed(self._drawn))


def draw(found: Sequence[Region]) -> Picture | None:
    """Return the outlines of regions on one image; None for none that can be drawn."""
    height, width = found[0].original_size
    scale = SIDE / max(height, width)
    parts: list[str] = []
    points = 0
    for region in found:
        if region.original_size != (height, width):
            continue
        for ring in _rings(region):
            points += len(ring)
            if points > MOST_POINTS and parts:
                break
            parts.append("M" + "L".join(f"{x * scale:.1f} {y * scale:.1f}" for x, y in ring.tolist()) + "Z")
    if not parts:
        return None
    labels = dict.fromkeys(label for region in found for label in region.labels)
    scores = [region.score for region in found if region.score is not None]
    caption = ", ".join(labels) + (f" {sum(scores) / len(scores):.2f}" if scores else "")
    return Picture(round(width * scale, 1), round(height * scale, 1), "".join(parts), caption.strip())


def _nbytes(region: Region) -> int:
    match region.shape:
        case Brush(code):
            return len(code)
        case Bitmask(data_url):
            return len(data_url)
        case Polygon(points) | Vector(points):
            return 16 * len(points)
    return 0


def _rings(region: Region) -> Iterator[Ring]:
    """Yield a region's outlines, (N, 2) corners in pixels."""
    height, width = region.original_size
    match region.shape:
        case Brush(code):
            yield from outlines.rings(rle.decode(code, region.original_size))
        case Bitmask(data_url):
            yield from outlines.rings(bitmask.decode(data_url, region.original_size))
        case Polygon(points) | Vector(points):
            yield np.array(points) * (width / 100, height / 100)
        case Rectangle(x, y, across, down, rotation):
            corners = np.array([(0, 0), (across, 0), (across, down), (0, down)], np.float64)
            yield _placed(corners, rotation, (x, y), region.original_size)
        case Ellipse(x, y, radius_x, radius_y, rotation):
            turn = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
            corners = np.stack([radius_x * np.cos(turn), radius_y * np.sin(turn)], axis=1)
            yield _placed(corners, rotation, (x, y), region.original_size)


def _placed(corners: Ring, degrees: float, origin: tuple[float, float], size: tuple[int, int]) -> Ring:
    """Return corners in percent as pixels, turned clockwise about the origin and moved there."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    scale = np.array((size[1] / 100, size[0] / 100))
    turned: Ring = (corners * scale) @ np.array([(cosine, sine), (-sine, cosine)])
    return np.asarray(turned + np.array(origin) * scale, np.float64)
