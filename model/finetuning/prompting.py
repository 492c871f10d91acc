"""The prompts that a mask's annotator might have given: a click or a box, then clicks on what is wrong.

As in SAM's training (the paper's appendix A, "Training algorithm"): a click anywhere on the object, a box with jittered
sides, corrective clicks anywhere in the error. Half of the clicks are put in the middle of the object or of the
largest error, where people click.
"""

import cv2
import numpy as np

from model.coco.rle import Rle
from model.types import BoolArray, Embedding, FloatArray

Rng = np.random.Generator
Click = tuple[float, float, int]
"""x and y in original pixels, and 1 on the object or 0 off it."""

CENTRED = 0.5
EXACT = 0.5
"""Share of the boxes that are as tight as the mask."""
JITTER, MOST_JITTER = 0.1, 20 / 1024
"""Standard deviation of a side of a box in parts of the box' size, and the most in parts of the photo's longer side."""


def innermost(mask: BoolArray) -> tuple[int, int, float]:
    """Return (x, y) of the pixel of a mask that is farthest from the others, and how far; 0 for an empty mask."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(column), int(row), float(inside[row, column])


def first_click(rng: Rng, cover: FloatArray, embedding: Embedding) -> Click:
    """Return a click on an object, given the share of each low-res cell that it covers."""
    return (*_to_photo(rng, _cell(rng, cover > 0.5, cover), cover.shape[0], embedding), 1)


def corrective_click(rng: Rng, cover: FloatArray, logits: FloatArray, embedding: Embedding) -> Click:
    """Return a click where a mask is wrong; on the object where it is not."""
    truth, predicted = cover > 0.5, logits > 0
    wrong = truth != predicted
    if not wrong.any():
        return first_click(rng, cover, embedding)
    missing, excess = truth & ~predicted, predicted & ~truth
    if rng.random() < CENTRED:
        places = innermost(missing), innermost(excess)
        column, row = max(places, key=lambda place: place[2])[:2]
    else:
        column, row = _any_cell(rng, wrong.astype(np.float32))
    return (*_to_photo(rng, (column, row), cover.shape[0], embedding), int(truth[row, column]))


def jittered_box(rng: Rng, rle: Rle) -> FloatArray:
    """Return a box (4,) XYXY around a mask in original pixels."""
    assert rle.box is not None  # objects have pixels
    corners, (height, width) = np.array(rle.box, np.float64), rle.size
    if rng.random() < EXACT:
        return np.asarray(corners, np.float32)
    sides, most = np.tile(corners[2:] - corners[:2], 2), MOST_JITTER * max(height, width)
    corners += np.clip(rng.normal(0, JITTER, 4) * sides, -most, most)
    corners = np.clip(corners, 0, [width, height, width, height])
    ordered = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
    return np.asarray(np.concatenate(ordered), np.float32)


def _cell(rng: Rng, inside: BoolArray, weights: FloatArray) -> tuple[int, int]:
    if inside.any() and rng.random() < CENTRED:
        return innermost(inside)[:2]
    return _any_cell(rng, weights * inside if inside.any() else weights)


def _any_cell(rng: Rng, weights: FloatArray) -> tuple[int, int]:
    """Return column and row of a random cell."""
    total = np.cumsum(weights.ravel(), dtype=np.float64)
    index = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    row, column = divmod(min(index, weights.size - 1), weights.shape[1])
    return column, row


def _to_photo(rng: Rng, cell: tuple[int, int], side: int, embedding: Embedding) -> tuple[float, float]:
    """Return a point of a low-res cell in original pixels."""
    (height, width), (rows, columns) = embedding.original_size, embedding.input_size
    scale = max(rows, columns) / side  # the photo touches an edge of the square
    x, y = ((cell[axis] + rng.uniform(0.25, 0.75)) * scale for axis in (0, 1))
    # A pixel's coordinates are those of its corner, and the network looks at its centre.
    return float(np.clip(x * width / columns - 0.5, 0, width - 1)), float(
        np.clip(y * height / rows - 0.5, 0, height - 1)
    )
