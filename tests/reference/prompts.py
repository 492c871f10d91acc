"""Every kind of prompt, placed on a photo of any size."""

import numpy as np

from model.types import Prompt

KINDS = (
    "box",
    "whole_box",
    "point",
    "negative_point",
    "points",
    "box_and_points",
    "mask",
    "box_and_mask",
    "points_and_mask",
)


def prompt(kind: str, original_size: tuple[int, int], low_res_size: int) -> Prompt:
    """The prompt of this kind for a photo of (height, width)."""
    height, width = original_size
    scale = np.array([width, height], dtype=np.float64)
    box = (np.array([[0.1, 0.2], [0.55, 0.7]]) * scale).ravel()
    points = np.array([[0.3, 0.4], [0.51, 0.62], [0.8, 0.15]]) * scale
    labels = np.array([1, 1, 0])
    match kind:
        case "box":
            return Prompt(box=box)
        case "whole_box":
            return Prompt(box=np.array([0, 0, width, height]))
        case "point":
            return Prompt(point_coords=points[:1], point_labels=labels[:1])
        case "negative_point":
            return Prompt(point_coords=points[2:], point_labels=labels[2:])
        case "points":
            return Prompt(point_coords=points, point_labels=labels)
        case "box_and_points":
            return Prompt(box=box, point_coords=points, point_labels=labels)
        case "mask":
            return Prompt(mask_input=blob(low_res_size))
        case "box_and_mask":
            return Prompt(box=box, mask_input=blob(low_res_size))
        case "points_and_mask":
            return Prompt(point_coords=points, point_labels=labels, mask_input=blob(low_res_size))
    raise ValueError(kind)


def blob(low_res_size: int) -> np.ndarray:
    """A mask input (low_res_size, low_res_size): a soft disc of logits within ±10."""
    rows, columns = np.mgrid[:low_res_size, :low_res_size] / low_res_size
    return (10 - 40 * np.hypot(rows - 0.4, columns - 0.35)).clip(-10, 10).astype(np.float32)
