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
    accepted: AcceptedMask, clicks: Sequence[Point], decode: Callable[[Sequence[Prompt]], Sequence[Mask]]
) -> Mask:
    """Return an accepted mask without the parts that the model finds at some of its points.

    Args:
        accepted: the mask.
        clicks: (x, y) in pixels of its image, all of them in the mask.
        decode: returns the mask of each prompt.

    Returns:
        The rest; empty where the model finds no part.
    """
    mask = accepted.mask
    inside = _inside(mask, clicks)
    parts = decode([_points([click], inside[:PART_NEGATIVES]) for click in clicks])
    pieces = {click: _piece(_on(mask, part), click, mask) for click, part in zip(clicks, parts, strict=True)}
    missed = [click for click in clicks if not pieces[click].any()]
    if missed:
        [corrected] = decode([_points(inside or missed, missed, accepted)])
        pieces |= {click: _piece(mask.crop & ~_on(mask, corrected), click, mask) for click in missed}
    removed = _with_slivers(mask.crop, np.logical_or.reduce(list(pieces.values())))
    full = np.zeros(mask.original_size, dtype=np.bool_)
    if removed.any():
        (x, y), (height, width) = mask.offset, mask.crop.shape
        full[y : y + height, x : x + width] = mask.crop & ~removed
    return Mask.from_array(full)


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
    room = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
    rows, columns = np.indices(crop.shape)
    (left, top), points = mask.offset, []
    taken = [((x - left) / step + 0.5, (y - top) / step + 0.5) for x, y in clicks]
    for x, y in taken[:-1]:
        room = np.minimum(room, np.hypot(columns - x, rows - y) / 2)
    for _ in range(MASK_POSITIVES):
        x, y = taken[-1]
        room = np.minimum(room, np.hypot(columns - x, rows - y) / 2)
        row, column = np.unravel_index(int(np.argmax(room)), room.shape)
        if room[row, column] < 1:
            break
        taken.append((float(column), float(row)))
        points.append((left + (int(column) - 1) * step + 0.5, top + (int(row) - 1) * step + 0.5))
    return points


def _on(mask: Mask, other: Mask) -> BoolArray:
    """Return what another mask of the same image covers of a mask, (h, w) of its crop."""
    (x, y), (height, width) = mask.offset, mask.crop.shape
    return mask.crop & other.to_array()[y : y + height, x : x + width]


def _piece(removed: BoolArray, click: Point, mask: Mask) -> BoolArray:
    """Return the connected piece of what was removed that holds a click; nothing where none does or it is too large."""
    at = int(click[0]) - mask.offset[0], int(click[1]) - mask.offset[1]
    pixels = removed.astype(np.uint8)
    if removed[at[1], at[0]]:
        cv2.floodFill(pixels, None, at, 2)
    piece: BoolArray = pixels == 2
    return piece if np.count_nonzero(piece) <= LARGEST_PIECE * mask.area else np.zeros_like(piece)


def _with_slivers(crop: BoolArray, removed: BoolArray) -> BoolArray:
    """Return what was removed from a mask's crop with the strips and islands beside it that are not worth keeping.

    They are searched in a copy of at most `SEARCH_SIDE` pixels.
    """
    if not removed.any():
        return removed
    step = math.ceil(max(crop.shape) / SEARCH_SIDE)
    part, rest = removed[::step, ::step], (crop & ~removed)[::step, ::step]
    area = int(np.count_nonzero(part)) + int(np.count_nonzero(rest))
    width = max(3.0, SLIVER * math.sqrt(area))
    core = _distances(rest) > width / 2
    is_near = ~part & (_distances(~part, True) <= 2 * width)
    kept = rest & ((_distances(~core, True) <= width / 2) | ~is_near)
    _, islands, stats, _ = cv2.connectedComponentsWithStats(kept.view(np.uint8), connectivity=4)
    is_small = stats[:, cv2.CC_STAT_AREA] < SMALLEST_REST * area
    is_small[np.setdiff1d(np.arange(len(stats)), islands[is_near])] = False
    slivers: BoolArray = rest & (~kept | is_small[islands])
    height, width_px = crop.shape
    return removed | (crop & slivers.repeat(step, axis=0).repeat(step, axis=1)[:height, :width_px])


def _distances(area: BoolArray, beyond: bool = False) -> FloatArray:
    """Return the distance of each pixel of an area from the rest; ``beyond`` is what lies around the array."""
    framed = np.pad(area, 1, constant_values=beyond).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3), dtype=np.float32)[1:-1, 1:-1]
