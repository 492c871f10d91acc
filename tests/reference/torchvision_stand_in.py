"""The five names of torchvision that segment_anything imports, so that it runs beside the CPU build of torch.

torchvision itself pulls the CUDA build. Only ``resize`` and ``to_pil_image`` are ever called here; torchvision hands
both to Pillow when the image is one of Pillow's.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

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


def _unavailable(*_: object) -> None:
    raise NotImplementedError("boxes are not part of the comparison")


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let ``import segment_anything`` succeed within; nothing named torchvision remains afterwards.

    transformers asks at its own import whether torchvision is there, and must not find this one.
    """
    if "torchvision" in sys.modules:
        yield
        return
    modules = {name: ModuleType(name) for name in _MODULES}
    functional, boxes = modules["torchvision.transforms.functional"], modules["torchvision.ops.boxes"]
    vars(functional).update(resize=resize, to_pil_image=to_pil_image)
    vars(boxes).update(batched_nms=_unavailable, box_area=_unavailable)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]
