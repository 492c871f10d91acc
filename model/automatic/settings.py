"""Parameters of automatic masks: segment-anything's, and limits on the number and size of masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from model.automatic.grids import point_grid

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
Points = npt.NDArray[np.float64]

# segment-anything's thresholds were chosen for its own networks, whose logits are steeper.
_THRESHOLDS = {"demo": {"pred_iou_thresh": 0.65, "stability_score_thresh": 0.8}}

_SHARES = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "mask_nms_thresh",
    "min_area_share",
    "max_area_share",
)
_COUNTS = {"points_per_batch": 1, "crop_n_layers": 0, "crop_n_points_downscale_factor": 1, "max_masks": 1}


@dataclass(frozen=True, eq=False)
class AutomaticSettings:
    """Parameters of `AutomaticMaskGenerator`; names and defaults are those of ``SamAutomaticMaskGenerator``.

    The last four are not in segment-anything, and off unless they are set.

    Attributes:
        points_per_side: points along each side of the grid that asks; its square is the number of prompts per crop.
            None where ``point_grids`` gives them.
        points_per_batch: prompts handed to the decoder in one call, between which others get their turn.
        pred_iou_thresh: least predicted IoU, exclusive; masks of lower scores are dropped. Of no effect
            for weights without a score head.
        stability_score_thresh: least `AutomaticMask.stability_score`.
        stability_score_offset: how far the cut-off of the logits is moved up and down for it.
        box_nms_thresh: of two masks of a crop whose boxes have a greater IoU, the one of the higher score stays.
        crop_n_layers: how many times more to look, layer ``n`` at ``2ⁿ × 2ⁿ`` crops. Each crop costs an encode.
        crop_nms_thresh: the same as ``box_nms_thresh`` between crops, where the smaller crop wins.
        crop_overlap_ratio: by which share of the picture's shorter side the crops of the first layer overlap; less in
            further layers.
        crop_n_points_downscale_factor: layer ``n`` has ``points_per_side`` divided by this to the power of ``n``.
        point_grids: (N, 2) points (x, y) in [0, 1] of the crop's width and height, one array per layer; instead of
            ``points_per_side``.
        min_mask_region_area: holes and islands of fewer pixels are filled and taken away; 0 leaves masks alone.
        output_mode: what `AutomaticMask.segmentation` gives: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.
        mask_nms_thresh: of two masks that have a greater IoU themselves, not only their boxes, the one of the higher
            score stays. A speck far away gives a second mask of an object a box of its own.
        max_masks: at most so many masks per picture, those of the highest score.
        min_area_share: least share of the picture's pixels, inclusive.
        max_area_share: greatest share of the picture's pixels, inclusive.

    The defaults of both thresholds suit SAM's networks; `settings_for` knows what suits the demo model.

    Raises:
        ValueError: a number is outside of its range, or points are given in two ways or none.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Points] | None = None
    min_mask_region_area: int = 0
    output_mode: OutputMode = "binary_mask"
    mask_nms_thresh: float = 1.0
    max_masks: int | None = None
    min_area_share: float = 0.0
    max_area_share: float = 1.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
        for name in ("stability_score_offset", "min_mask_region_area"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if not (_is_whole(value) and value >= least) and not (value is None and name == "max_masks"):
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        if self.min_area_share > self.max_area_share:
            raise ValueError(
                f"min_area_share: expected at most max_area_share={self.max_area_share}, got {self.min_area_share}"
            )
        if self.output_mode not in get_args(OutputMode):
            expected = ", ".join(get_args(OutputMode))
            raise ValueError(f"output_mode: expected one of {expected}, got {self.output_mode!r}")
        self._check_points()

    def points(self, layer: int) -> Points:
        """Return the points of a crop layer, (N, 2), (x, y) in [0, 1] of the crop's width and height."""
        if self.point_grids is not None:
            return self.point_grids[layer]
        assert self.points_per_side is not None  # one of the two is there
        return point_grid(int(self.points_per_side / self.crop_n_points_downscale_factor**layer))

    def fits(self, area: int, original_size: tuple[int, int]) -> bool:
        """Say whether a mask of so many pixels of a picture of (H, W) is within the limits of size."""
        whole = original_size[0] * original_size[1]
        return self.min_area_share * whole <= area <= self.max_area_share * whole

    def _check_points(self) -> None:
        layers = self.crop_n_layers + 1
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ValueError("points_per_side and point_grids: expected exactly one of them")
        if self.point_grids is None:
            least = self.crop_n_points_downscale_factor**self.crop_n_layers
            if not _is_whole(self.points_per_side) or (self.points_per_side or 0) < least:
                raise ValueError(
                    f"points_per_side: expected a whole number of at least {least}, got {self.points_per_side!r}"
                )
            return
        grids = tuple(np.array(grid, dtype=np.float64) for grid in self.point_grids)
        if len(grids) < layers:
            raise ValueError(f"point_grids: expected one for each of the {layers} layers, got {len(grids)}")
        for grid in grids:
            if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid) or not ((grid >= 0) & (grid <= 1)).all():
                raise ValueError(f"point_grids: expected points (N, 2) from 0 to 1, got {grid.shape}")
            grid.flags.writeable = False
        object.__setattr__(self, "point_grids", grids)


def settings_for(network: str, **given: object) -> AutomaticSettings:
    """Return settings with thresholds that suit a network, where the caller states none.

    Args:
        network: the name in its configuration (`model.config.SamConfig.name`).
        given: fields of `AutomaticSettings`; None stands for the default, which with ``point_grids`` is no grid.

    Raises:
        ValueError: as `AutomaticSettings`.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    values: dict[str, Any] = {**_THRESHOLDS.get(network, {}), **stated}  # Any: checked by the constructor
    if "point_grids" in stated:
        values.setdefault("points_per_side", None)
    return AutomaticSettings(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
