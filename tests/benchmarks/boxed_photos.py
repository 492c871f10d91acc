"""Photos with twenty boxes each, and segment-anything's predictor on them."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from backend.images.fetch import Fetched
from tests.benchmarks import subjects

IMAGES = 2
ACROSS, DOWN = 5, 4
BOXES = ACROSS * DOWN
SHIFT = 7


class Photos:
    """New random photos, as pixels and as files."""

    def __init__(self) -> None:
        self._number = 0
        self.files: dict[str, bytes] = {}

    def take(self) -> tuple[str, np.ndarray]:
        """Return the address and the pixels of a new photo."""
        self._number += 1
        pixels = np.roll(subjects.image(), SHIFT * self._number, axis=1)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
        address = f"{self._number}.jpg"
        self.files[address] = stream.getvalue()
        return address, pixels

    def fetch(self, ref: Any, cached: object = None) -> Fetched:
        """Return the file of a photo, as an image source does."""
        return Fetched(self.files[ref.uri], immutable=True)


def boxes() -> np.ndarray:
    """(20, 4) float32 boxes x1, y1, x2, y2 side by side on a photo."""
    height, width = subjects.PHOTO_SIZE
    step_x, step_y = width / ACROSS, height / DOWN
    corners = [(x * step_x, y * step_y) for y in range(DOWN) for x in range(ACROSS)]
    return np.array([(x + 9, y + 9, x + step_x - 9, y + step_y - 9) for x, y in corners], np.float32)


def theirs() -> Callable[[], object]:
    """Return the work of segment-anything's predictor: all boxes of as many new photos, to masks at full size."""
    import torch

    photos, predictor = Photos(), subjects.meta_predictor()

    def work() -> None:
        for _ in range(IMAGES):
            pixels = photos.take()[1]
            predictor.set_image(pixels)
            boxes_in_model = predictor.transform.apply_boxes_torch(torch.from_numpy(boxes()), pixels.shape[:2])
            masks, _, _ = predictor.predict_torch(None, None, boxes=boxes_in_model, multimask_output=False)
            if masks.shape[0] != BOXES:
                raise RuntimeError(f"expected {BOXES} masks, got {tuple(masks.shape)}")

    return work
