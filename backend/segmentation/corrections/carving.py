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
from model.types import BoolArray, Mask, Prompt

Point: TypeAlias = tuple[float, float]

SEARCH_SIDE = 256
"""Longer side in pixels of the copy of a mask in which points inside it are searched."""

PART_NEGATIVES, MASK_POSITIVES = 2, 3
"""Points in the rest of the mask: negative ones about a part, positive ones about the mask."""

LARGEST_PIECE = 0.9
"""Share of a mask that is taken out at most; a larger part is not what a click inside it means."""


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
    removed = np.logical_or.reduce(list(pieces.values()))
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
    (left, top), found = mask.offset, []
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
        found.append((left + (int(column) - 1) * step + 0.5, top + (int(row) - 1) * step + 0.5))
    return found


def _on(mask: Mask, other: Mask) -> BoolArray:
    """Return what another mask of the same image covers of a mask, (h, w) of its crop."""
    (x, y), (height, width) = mask.offset, mask.crop.shape
    return mask.crop & other.to_array()[y : y + height, x : x + width]


def _piece(removed: BoolArray, click: Point, mask: Mask) -> BoolArray:
    """Return the connected piece of what was removed that holds a click; nothing where none does or it is too large."""
    x, y = int(click[0]) - mask.offset[0], int(click[1]) - mask.offset[1]
    _, pieces = cv2.connectedComponents(removed.view(np.uint8), connectivity=4)
    piece = np.asarray(pieces == pieces[y, x]) & removed[y, x]
    return piece if np.count_nonzero(piece) <= LARGEST_PIECE * mask.area else np.zeros_like(piece)
