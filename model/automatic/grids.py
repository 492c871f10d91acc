"""Where to ask: the grid of points, and the crops of a picture.

See segment-anything 1.0, ``utils/amg.py``.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """A part of a picture.

    Attributes:
        box: x1, y1, x2, y2 in original pixels, x2 and y2 exclusive.
        layer: 0 for the whole picture, then 1, 2 and so on as the crops get smaller.
    """

    box: Box
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        x1, y1, x2, y2 = self.box
        return y2 - y1, x2 - x1


def point_grid(per_side: int) -> npt.NDArray[np.float64]:
    """Return the centres of ``per_side`` × ``per_side`` cells of the unit square, (N, 2) (x, y), row by row."""
    half = 1 / (2 * per_side)
    along = np.linspace(half, 1 - half, per_side)
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def crops(original_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """Return the whole picture and, for layer ``n`` from 1 on, ``2ⁿ × 2ⁿ`` crops that overlap.

    Args:
        original_size: (H, W) of the picture.
        layers: how many layers of crops.
        overlap_ratio: by which share of the shorter side the crops of layer 1 overlap; half as much in each next layer.
    """
    height, width = original_size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        crop_width, crop_height = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for column, row in product(range(count), repeat=2):
            x, y = (crop_width - overlap) * column, (crop_height - overlap) * row
            box = (x, y, min(x + crop_width, width), min(y + crop_height, height))
            if box[0] < box[2] and box[1] < box[3]:  # a picture of a few pixels has not as many crops
                crops.append(Crop(box, layer))
    return crops
