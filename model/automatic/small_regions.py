"""Small holes are filled, small islands taken away.

See segment-anything 1.0, ``remove_small_regions`` of ``utils/amg.py``; regions touch at corners too.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from model.types import BoolArray, Mask

MOST_BORDERS = 1000
"""Borders that are measured; where there are more, counting pixels is quicker."""

MOST_BENDS = 50_000
"""Bends of borders that are followed: the time to do so grows with the square of the borders' number."""


def without_small_regions(mask: Mask, min_area: float) -> tuple[Mask, bool]:
    """Return a mask without holes and islands of fewer than ``min_area`` pixels, and whether it had any.

    >>> mask = Mask.from_array(np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]], dtype=np.bool_))
    >>> without_small_regions(mask, 2)[0].area
    9

    An island stays if all are smaller and it is the largest. A piece of the background that is cut off by the object
    and the picture's edge is a hole, too.
    """
    if not mask.crop.size or min_area <= 1:
        return mask, False
    part, offset = _with_margin(mask, min_area)
    filled, had_holes = _without(part, min_area, holes=True)
    cleaned, had_islands = _without(filled, min_area, holes=False)
    if not had_holes and not had_islands:
        return mask, False
    tight = Mask.from_array(cleaned)
    (x, y), (left, top) = tight.offset, offset
    return Mask(tight.crop.copy(), (x + left, y + top) if tight.crop.size else (0, 0), mask.original_size), True


def _with_margin(mask: Mask, min_area: float) -> tuple[BoolArray, tuple[int, int]]:
    """Return the crop with so much around it that what counts as small there does so in the whole picture.

    Beyond a side of the crop lies background as long as that side: where it reaches deep enough to have ``min_area``
    pixels, more of it changes nothing, and where the picture ends before, all of it is there.
    """
    (x, y), (height, width), (crop_height, crop_width) = mask.offset, mask.original_size, mask.crop.shape
    rows, columns = math.ceil(min_area / crop_width), math.ceil(min_area / crop_height)
    top, left = min(rows, y), min(columns, x)
    bottom, right = min(rows, height - y - crop_height), min(columns, width - x - crop_width)
    part = np.zeros((top + crop_height + bottom, left + crop_width + right), dtype=np.bool_)
    part[top : top + crop_height, left : left + crop_width] = mask.crop
    return part, (x - left, y - top)


def _without(mask: BoolArray, min_area: float, holes: bool) -> tuple[BoolArray, bool]:
    """Return a mask (H, W) without small holes, or without small islands, and whether it had any."""
    looked_at = (~mask if holes else mask).view(np.uint8)
    if not _may_have_small(looked_at, min_area):
        return mask, False
    _, labels, stats, _ = cv2.connectedComponentsWithStats(looked_at, connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    is_small = sizes < min_area
    if not is_small.any():
        return mask, False
    if not holes and is_small.all():
        is_small[int(sizes.argmax())] = False
    # Label 0 is the mask itself where holes are looked for, and what lies around it where islands are.
    return np.concatenate([[holes], is_small if holes else ~is_small])[labels], True


def is_noise(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether the borders in a mask (H, W) have more than `MOST_BENDS` bends, as `cv2.findContours` takes seconds for.

    >>> noise = np.random.default_rng(0).integers(2, size=(400, 400), dtype=np.uint8)
    >>> is_noise(noise), is_noise(np.tile(np.arange(400, dtype=np.uint8) % 2, (400, 1)))
    (True, False)
    """
    across = pixels[:, 1:] != pixels[:, :-1]
    if np.count_nonzero(across) <= MOST_BENDS:
        return False
    down = pixels[1:] != pixels[:-1]
    return np.count_nonzero((across[1:] | across[:-1]) & (down[:, 1:] | down[:, :-1])) > MOST_BENDS


def pixels_within(border: npt.NDArray[np.number], sign: int = 1) -> float:
    """Return how many pixels the closed path (N, 2) of a border encloses, by Pick's theorem.

    Args:
        border: (x, y) of its pixels' centres, as `cv2.findContours` gives them.
        sign: 1 counts the pixels of the border as well, -1 leaves them out.

    >>> pixels_within(np.array([[0, 0], [3, 0], [3, 2], [0, 2]])), pixels_within(np.array([[0, 0], [3, 0]]))
    (12.0, 4.0)
    """
    steps = np.abs(np.diff(border, axis=0, append=border[:1])).max(axis=1).sum()
    return cv2.contourArea(border.astype(np.float32)) + sign * float(steps) / 2 + 1


def _may_have_small(pixels: npt.NDArray[np.uint8], min_area: float) -> bool:
    """Whether one of the regions (8-connected) may have fewer than ``min_area`` pixels."""
    if is_noise(pixels):
        return True
    borders, tree = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not borders or len(borders) > MOST_BORDERS:
        return bool(borders)
    sizes = dict.fromkeys(range(len(borders)), 0.0)
    for number, (_, _, _, parent) in enumerate(tree[0]):
        border = borders[number][:, 0]
        sizes[number if parent < 0 else parent] += pixels_within(border) if parent < 0 else -pixels_within(border, -1)
    return any(sizes[number] < min_area for number, (_, _, _, parent) in enumerate(tree[0]) if parent < 0)
