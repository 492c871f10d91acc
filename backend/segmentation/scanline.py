"""Fills a ring of (N, 2) corners (x, y) in pixels, the last of which joins the first.

The fill rule is non-zero, as in the editor: an area that a ring encloses twice in one direction is covered. The work
grows with the number of rows that the edges cross, however often they cross each other.
"""

import numpy as np

from backend.segmentation.polygons import Ring
from model.types import Mask

CROSSINGS_AT_ONCE = 1 << 20
"""Crossings of edges and rows computed at a time; a polygon may have thousands of edges as high as the image."""


def filled(ring: Ring, size: tuple[int, int]) -> Mask:
    """Return the pixels of an image of ``size`` (height, width) whose centres lie in a ring of corners.

    >>> filled(np.array([(1.0, 1.0), (3.0, 1.0), (3.0, 2.0), (1.0, 2.0)]), (4, 4)).box
    (1, 1, 3, 2)
    """
    starts, ends = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    first, end = (np.ceil(np.clip(side - 0.5, 0, size[0])).astype(np.int64) for side in (low, high))
    top, bottom = int(first.min()), int(end.max())
    left, right = np.ceil(np.clip((ring[:, 0].min() - 0.5, ring[:, 0].max() - 0.5), 0, size[1])).astype(np.int64)
    if top >= bottom or left >= right:
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), size)
    steps = np.zeros((bottom - top, int(right - left) + 1), dtype=np.int16)
    passed = np.cumsum(end - first)
    parts = np.searchsorted(passed, np.arange(CROSSINGS_AT_ONCE, passed[-1] + CROSSINGS_AT_ONCE, CROSSINGS_AT_ONCE))
    for chunk in np.split(np.arange(len(ring)), np.unique(parts)):
        counts = (end - first)[chunk]
        edges = np.repeat(chunk, counts)
        rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
        (x1, y1), (x2, y2) = starts[edges].T, ends[edges].T
        x = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
        columns = np.clip(np.ceil(np.clip(x - 0.5, 0, size[1])).astype(np.int64), left, right)
        np.add.at(steps, (rows - top, columns - left), np.where(y2 > y1, 1, -1).astype(np.int16))
    np.cumsum(steps, axis=1, out=steps)
    return Mask(steps[:, :-1] != 0, (int(left), top), size)
