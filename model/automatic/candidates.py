"""Filters the network's answer to one point down to the masks to keep.

The steps are those of segment-anything 1.0, ``SamAutomaticMaskGenerator._process_batch``, in the same order; a mask is
made of those logits alone whose predicted IoU lets them through, and kept as run lengths.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.automatic.boxes import is_near_crop_edge
from model.automatic.grids import Box, Crop
from model.automatic.settings import AutomaticSettings
from model.coco import rle as coco_rle
from model.coco.rle import Rle
from model.types import FloatArray, Mask


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that passed the filters.

    Attributes:
        rle: the mask in the picture.
        box: of its first and last pixels, x1, y1, x2, y2 in original pixels, inclusive.
        predicted_iou: the network's estimate; None without a score head.
        stability_score: see `model.automatic.masks.AutomaticMask`.
        point: (x, y) in original pixels.
        crop: the part of the image that it was found in.
    """

    rle: Rle
    box: Box
    predicted_iou: float | None
    stability_score: float
    point: tuple[float, float]
    crop: Crop

    @property
    def rank(self) -> float:
        """Rank by which one of two duplicates is kept: the higher one."""
        return self.stability_score if self.predicted_iou is None else self.predicted_iou


@dataclass(frozen=True, eq=False)
class CandidateFilter:
    """Filters the answers about one crop.

    Attributes:
        settings: with the thresholds.
        crop: the part of the picture that the network saw.
        original_size: (H, W) of the picture.
        has_score: whether the network predicts IoUs.
        interpolate: makes a mask of the crop from logits, and counts its pixels above other levels; see
            `model.transforms.mask_and_areas`.
    """

    settings: AutomaticSettings
    crop: Crop
    original_size: tuple[int, int]
    has_score: bool
    interpolate: Callable[[FloatArray, Sequence[float]], tuple[Mask, tuple[int, ...]]]

    def keep(self, logits: FloatArray, scores: FloatArray, point: tuple[float, float]) -> list[Candidate]:
        """Return the masks to keep of the answer to one point.

        Args:
            logits: (M, low_res_size, low_res_size) float32.
            scores: (M,) predicted IoU.
            point: (x, y) in original pixels.
        """
        return [
            candidate for pair in zip(logits, scores.tolist(), strict=True) for candidate in self._mask(*pair, point)
        ]

    def _mask(self, logits: FloatArray, score: float, point: tuple[float, float]) -> Iterator[Candidate]:
        settings = self.settings
        if self.has_score and settings.pred_iou_thresh > 0 and not score > np.float32(settings.pred_iou_thresh):
            return
        offset = settings.stability_score_offset
        mask, (high, low) = self.interpolate(logits, (offset, -offset))
        # In float32, as torch divides and compares. No pixel above the lower cut-off: not stable, and empty anyhow.
        stability = np.float32(high) / np.float32(low) if low else np.float32(0)
        if settings.stability_score_thresh > 0 and not stability >= np.float32(settings.stability_score_thresh):
            return
        box = mask.box
        if box is None or not settings.fits(mask.area, self.original_size):
            return
        left, top = self.crop.box[:2]
        inclusive = (box[0] + left, box[1] + top, box[2] + left - 1, box[3] + top - 1)
        if is_near_crop_edge(inclusive, self.crop.box, self.original_size):
            return
        placed = Mask(mask.crop, (mask.offset[0] + left, mask.offset[1] + top), self.original_size)
        predicted = score if self.has_score else None
        yield Candidate(coco_rle.encode(placed), inclusive, predicted, float(stability), point, self.crop)
