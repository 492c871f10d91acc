"""One mask of a picture in which everything was segmented."""

from dataclasses import dataclass
from typing import TypedDict

from model.automatic.grids import Box
from model.automatic.settings import OutputMode
from model.coco import rle as coco_rle
from model.coco.rle import Rle, RleObject
from model.types import BoolArray, Mask

Segmentation = BoolArray | RleObject


class Facts(TypedDict):
    """The fields of a mask in segment-anything's generator."""

    area: int
    bbox: list[int]
    predicted_iou: float | None
    point_coords: list[list[float]]
    stability_score: float
    crop_box: list[int]


class Record(Facts):
    """A mask as segment-anything's generator gives it."""

    segmentation: Segmentation


@dataclass(frozen=True, eq=False)
class AutomaticMask:
    """A mask with the fields of segment-anything's generator. Stored as run lengths, which take a few kilobytes.

    Attributes:
        rle: the mask.
        bbox: x, y, width and height in original pixels. As in segment-anything the far edges are the last pixels, so
            width and height are one less than those of ``rle.bbox``.
        predicted_iou: the network's own guess of the mask's IoU with the object, about 0 to 1 and sometimes a little
            more; None for weights without a score head.
        point_coords: the points that it was decoded from, here one: (x, y) in original pixels.
        stability_score: IoU of the masks that a higher and a lower cut-off of the logits give, 0 to 1.
        crop_box: x, y, width and height in original pixels of the part of the picture in which it was found.
        output_mode: what `segmentation` gives.
    """

    rle: Rle
    bbox: Box
    predicted_iou: float | None
    point_coords: tuple[tuple[float, float], ...]
    stability_score: float
    crop_box: Box
    output_mode: OutputMode = "binary_mask"

    @property
    def area(self) -> int:
        """Pixels on the object."""
        return self.rle.area

    @property
    def mask(self) -> Mask:
        """The mask cut to its object; computed at each use, since many large ones would not fit into memory."""
        return coco_rle.decode(self.rle)

    @property
    def segmentation(self) -> Segmentation:
        """The mask in the form of ``output_mode``, computed at each use.

        ``binary_mask``: (H, W) bool in original pixels; ``uncompressed_rle`` and ``coco_rle``: COCO's run lengths as a
        list and as text.
        """
        if self.output_mode == "binary_mask":
            return self.mask.to_array()
        return self.rle.to_uncompressed() if self.output_mode == "uncompressed_rle" else self.rle.to_compressed()

    @property
    def score(self) -> float:
        """The estimated quality of the mask, 0 to 1: the predicted IoU, or without one the stability."""
        return min(max(self.stability_score if self.predicted_iou is None else self.predicted_iou, 0.0), 1.0)

    def facts(self) -> Facts:
        """Return all of `to_record` but the mask itself."""
        return {
            "area": self.area,
            "bbox": list(self.bbox),
            "predicted_iou": self.predicted_iou,
            "point_coords": [list(point) for point in self.point_coords],
            "stability_score": self.stability_score,
            "crop_box": list(self.crop_box),
        }

    def to_record(self) -> Record:
        """Return the dict that segment-anything's ``generate`` gives for a mask."""
        return {"segmentation": self.segmentation, **self.facts()}
