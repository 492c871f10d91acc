"""Takes parts out of accepted masks: what the model finds at a negative point is cut off the mask that it lies in.

The part is decoded as an object of its own: a positive point where the annotator clicked, and negative ones in the
rest of the mask. Where that finds no part, the mask is decoded once more as SAM was trained to correct one: with its
own logits as mask input (or its pixels, where these are not known), points inside it, and the click as a negative one.
Of what the decoder takes away, only the piece that holds the click is cut off, so the rest of the mask keeps every
pixel, those painted by hand too.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import cv2
import numpy as np

from backend.segmentation import shape_prompts
from backend.segmentation.corrections.accepted_masks import AcceptedMask
from model.types import BoolArray, FloatArray, Mask, Prompt

Point: TypeAlias = tuple[float, float]

SEARCH_SIDE = 256
"""Longer side in pixels of the copy of a mask in which points and strips of it are searched."""

PART_NEGATIVES, MASK_POSITIVES = 2, 3
"""Points in the rest of the mask: negative ones about a part, positive ones about the mask."""

LARGEST_PIECE = 0.9
"""Share of a mask that is taken out at most; a larger part is not what a click inside it means."""

SLIVER = 0.04
"""Width of what is left between a part and the mask's border, as a share of the side of a square of the mask's area;
a narrower strip belongs to the part.
"""

SMALLEST_REST = 0.01
"""Share of a mask; smaller islands that a cut leaves belong to the part, too."""


def carve(
    accepted: AcceptedMask, clicks: Sequence[Point], decode: Callable[[Sequence[Prompt]], Iterable[Mask]]
) -> Mask:
    """Return an accepted mask without the parts that the model finds at some of its points.

    Args:
        accepted: the mask.
        clicks: (x, y) in pixels of its image, all of them in the mask.
        decode: returns the mask of each prompt.

    Returns:
        The rest; empty where the model finds no part.
    """
    mask, removed = accepted.mask, np.zeros_like(accepted.mask.crop)
    inside, (left, top), (height, width) = _inside(mask, clicks), mask.offset, mask.crop.shape
    parts = decode([_points([click], inside[:PART_NEGATIVES]) for click in clicks])
    missed = [click for click, part in zip(clicks, parts, strict=True) if not _remove(removed, part, [click], mask)]
    if missed:
        [corrected] = decode([_points(inside or missed, missed, accepted)])
        kept = corrected.to_array()[top : top + height, left : left + width]
        _remove(removed, Mask(mask.crop > kept, mask.offset, mask.original_size), missed, mask)
    if not removed.any():
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), mask.original_size)
    _remove_slivers(mask.crop, removed)
    rest = Mask.from_array(mask.crop > removed)
    return Mask(rest.crop, (left + rest.offset[0], top + rest.offset[1]), mask.original_size)


def _points(positive: Sequence[Point], negative: Sequence[Point], accepted: AcceptedMask | None = None) -> Prompt:
    """Return a prompt of points, with an accepted mask as its mask input."""
    mask_input = rough_mask = None
    if accepted is not None:
        mask_input = accepted.low_res_mask
        if mask_input is None:
            rough_mask = shape_prompts.rough(accepted.mask.to_array())
    return Prompt(
        point_coords=[*positive, *negative],  # type: ignore[arg-type]  # the constructor makes an array of it
        point_labels=[1] * len(positive) + [0] * len(negative),  # type: ignore[arg-type]  # likewise
        mask_input=mask_input,  # type: ignore[arg-type]  # likewise
        rough_mask=rough_mask,
    )


def _inside(mask: Mask, clicks: Iterable[Point]) -> list[Point]:
    """Return up to `MASK_POSITIVES` points of a mask, far from its border, from the clicks and from each other."""
    step = math.ceil(max(mask.crop.shape) / SEARCH_SIDE)
    crop = np.pad(mask.crop[::step, ::step].astype(np.uint8), 1)
    room = np.square(cv2.distanceTransform(crop, cv2.DIST_L2, 3), dtype=np.float64)  # distances here are squared
    rows, columns = (np.arange(side, dtype=np.float64) for side in crop.shape)
    (left, top), points = mask.offset, list[Point]()
    taken = [((x - left) / step + 0.5, (y - top) / step + 0.5) for x, y in clicks]
    while True:
        for x, y in taken:
            np.minimum(room, np.add.outer(np.square(rows - y) / 4, np.square(columns - x) / 4), out=room)
        row, column = np.unravel_index(int(np.argmax(room)), room.shape)
        if len(points) == MASK_POSITIVES or room[row, column] < 1:
            return points
        points.append((left + (int(column) - 1) * step + 0.5, top + (int(row) - 1) * step + 0.5))
        taken = [(float(column), float(row))]


def _remove(removed: BoolArray, part: Mask, clicks: Iterable[Point], mask: Mask) -> bool:
    """Add to what was removed, (h, w) of a mask's crop, the connected pieces of a part of it that hold clicks.

    Returns:
        Whether there were any; a piece that is nearly the whole mask does not count.
    """
    (left, top), (height, width) = mask.offset, mask.crop.shape
    x1, y1 = max(left, part.offset[0]), max(top, part.offset[1])
    x2 = min(left + width, part.offset[0] + part.crop.shape[1])
    y2 = min(top + height, part.offset[1] + part.crop.shape[0])
    if x1 >= x2 or y1 >= y2:
        return False
    window = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
    (part_left, part_top), most = part.offset, LARGEST_PIECE * mask.area
    common = part.crop[y1 - part_top : y2 - part_top, x1 - part_left : x2 - part_left] & mask.crop[window]
    pixels = common.view(np.uint8)
    for x, y in clicks:
        column, row = int(x) - x1, int(y) - y1
        if 0 <= column < x2 - x1 and 0 <= row < y2 - y1 and pixels[row, column] == 1:
            area, *_ = cv2.floodFill(pixels, None, (column, row), 2)
            if area > most:
                cv2.floodFill(pixels, None, (column, row), 3)
    pieces = pixels == 2
    removed[window] |= pieces
    return bool(pieces.any())


def _remove_slivers(crop: BoolArray, removed: BoolArray) -> None:
    """Add to what was removed from a mask's crop the strips and islands beside it that are not worth keeping.

    They are searched in a copy of at most `SEARCH_SIDE` pixels.
    """
    step = math.ceil(max(crop.shape) / SEARCH_SIDE)
    part = removed[::step, ::step]
    rest = crop[::step, ::step] & ~part
    area = int(np.count_nonzero(part)) + int(np.count_nonzero(rest))
    width = max(3.0, SLIVER * math.sqrt(area))
    core = _distances(rest) > width / 2
    is_near = ~part & (_distances(~part, True) <= 2 * width)
    kept = rest & ((_distances(~core, True) <= width / 2) | ~is_near)
    _, islands, stats, _ = cv2.connectedComponentsWithStats(kept.view(np.uint8), connectivity=4)
    is_small = stats[:, cv2.CC_STAT_AREA] < SMALLEST_REST * area
    is_small[np.setdiff1d(np.arange(len(stats)), islands[is_near])] = False
    slivers: BoolArray = rest & (~kept | is_small[islands])
    if slivers.any():
        height, width_px = crop.shape
        removed |= crop & slivers.repeat(step, axis=0).repeat(step, axis=1)[:height, :width_px]


def _distances(area: BoolArray, beyond: bool = False) -> FloatArray:
    """Return the distance of each pixel of an area from the rest; ``beyond`` is what lies around the array."""
    framed = np.pad(area, 1, constant_values=beyond).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3), dtype=np.float32)[1:-1, 1:-1]
