"""Finds boxes of masks that are duplicates, or cut off by their crop.

See segment-anything 1.0, ``utils/amg.py``, and torchvision's ``ops.nms``. Boxes are x1, y1, x2, y2 of the first and
the last pixel, both inclusive, as segment-anything has them: these numbers decide which masks stay.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.automatic.grids import Box

EDGE_PX = 20
"""How near to the edge of its crop a box is taken to be cut off by it."""


def non_maximum_suppression(boxes: Sequence[Sequence[float]], scores: Sequence[float], threshold: float) -> list[int]:
    """Return the indexes of the boxes to keep, by descending score, without those that overlap a kept one too much.

    Equal scores keep their order. Computed in float32, as torchvision does.

    Args:
        boxes: (N, 4) boxes.
        scores: (N,) scores.
        threshold: a box is dropped if its IoU with a kept one is greater than this.
    """
    order = np.argsort(-np.array(scores, dtype=np.float32), kind="stable")
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    stays = np.ones(len(order), dtype=np.bool_)
    for index in range(len(order)):
        if stays[index]:
            overlaps = _iou(corners[index], areas[index], corners[index + 1 :], areas[index + 1 :])
            stays[index + 1 :] &= ~(overlaps > threshold)
    return [int(index) for index in order[stays]]


def is_near_crop_edge(box: Box, crop: Box, original_size: tuple[int, int]) -> bool:
    """Say whether a box ends at an edge of its crop that is not one of the picture: more of the object lies beyond.

    Args:
        box: in original pixels.
        crop: x1, y1, x2, y2 in original pixels.
        original_size: (H, W) of the picture.
    """
    height, width = original_size
    return any(
        abs(side - edge) <= EDGE_PX and abs(side - end) > EDGE_PX
        for side, edge, end in zip(box, crop, (0, 0, width, height), strict=True)
    )


def _iou(
    box: npt.NDArray[np.float32], area: np.float32, others: npt.NDArray[np.float32], areas: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the IoU of a box (4,) with others (N, 4), as float64 since it is compared with a Python number."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.prod(sides.clip(min=0), axis=1)
    union = area + areas - common
    # Boxes of objects one pixel wide have no area; torchvision lets all of them stay, however often they come.
    return np.where(union > 0, common / np.where(union > 0, union, 1), (others == box).all(axis=1)).astype(np.float64)
