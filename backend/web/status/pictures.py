"""The outlines of the last masks, for the status page, if the setting allows it.

Answers are stored as they are, and drawn once, when the status page is opened. The photograph is never kept.
"""

import threading
from collections import deque
from collections.abc import Sequence

from backend.errors import PromptError
from backend.segmentation import shape_masks
from backend.segmentation.polygons import Ring
from backend.shapes import Bitmask, Brush, Polygon, Vector
from backend.types import Prediction, Region
from backend.web.status.view import Picture

KEPT = 12
MOST_REGIONS = 16
MOST_BYTES = 200_000
MOST_POINTS = 600
SIDE = 100.0


class Pictures:
    """The last answers that held masks, at most ``KEPT``, each of at most ``MOST_BYTES``; thread-safe."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Region, ...]] = deque(maxlen=KEPT)
        self._drawn: deque[Picture] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Store the masks of an answer; `take` draws them."""
        for prediction in predictions:
            chosen = prediction.result[:MOST_REGIONS]
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


def draw(regions: Sequence[Region]) -> Picture | None:
    """Return the outlines of regions on one image; None if none of them can be drawn."""
    height, width = regions[0].original_size
    scale = SIDE / max(height, width)
    parts: list[str] = []
    points = 0
    for region in regions:
        if region.original_size != (height, width):
            continue
        for ring in _rings(region):
            points += len(ring)
            if points > MOST_POINTS and parts:
                break
            parts.append("M" + "L".join(f"{x * scale:.1f} {y * scale:.1f}" for x, y in ring.tolist()) + "Z")
    if not parts:
        return None
    labels = dict.fromkeys(label for region in regions for label in region.labels)
    scores = [region.score for region in regions if region.score is not None]
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


def _rings(region: Region) -> tuple[Ring, ...]:
    """Return a region's outlines, (N, 2) corners in pixels; none for a point."""
    try:
        return shape_masks.rings(region.shape, region.original_size)
    except PromptError:
        return ()
