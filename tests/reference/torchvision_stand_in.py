"""The five names of torchvision that segment_anything imports, so that it runs beside the CPU build of torch.

torchvision itself pulls the CUDA build. ``resize`` and ``to_pil_image`` it hands to Pillow when the image is one of
Pillow's; ``batched_nms`` and ``box_area`` are written from its documentation.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

_MODULES = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.ops",
    "torchvision.ops.boxes",
)


def to_pil_image(image: np.ndarray) -> Image.Image:
    """What torchvision does for (H, W, 3) uint8."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """What torchvision does for one of Pillow's images: bilinear, antialiased. ``size`` is (height, width)."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def box_area(boxes: Any) -> Any:
    """Areas (N,) of boxes (N, 4), ``x1, y1, x2, y2``."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float) -> Any:
    """Indices of the boxes that stay, int64, by falling score.

    "NMS iteratively removes lower scoring boxes which have an IoU greater than iou_threshold with another (higher
    scoring) box"; boxes of different categories ``idxs`` leave each other alone.
    """
    import torch

    left = scores.sort(descending=True, stable=True).indices
    indices = []
    while len(left):
        best, left = left[0], left[1:]
        indices.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        sides = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0)
        common = sides[:, 0] * sides[:, 1]
        iou = common / (box_area(boxes[best : best + 1]) + box_area(boxes[left]) - common)
        left = left[~((iou > iou_threshold) & (idxs[left] == idxs[best]))]
    return torch.stack(indices) if indices else torch.zeros(0, dtype=torch.int64)


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let ``import segment_anything`` succeed within; nothing named torchvision remains afterwards.

    transformers asks at its own import whether torchvision is there, and must not find this one. Where
    `demo_training.network` came first, segment_anything is there already, without what it would need of torchvision.
    """
    if "torchvision" in sys.modules:
        yield
        return
    modules = {name: ModuleType(name) for name in _MODULES}
    functional, boxes = modules["torchvision.transforms.functional"], modules["torchvision.ops.boxes"]
    vars(functional).update(resize=resize, to_pil_image=to_pil_image)
    vars(boxes).update(batched_nms=batched_nms, box_area=box_area)
    for user, source in (("utils.transforms", functional), ("automatic_mask_generator", boxes)):
        if imported := sys.modules.get(f"segment_anything.{user}"):
            vars(imported).update({name: value for name, value in vars(source).items() if name[0] != "_"})
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]
