"""The only pixel geometry: photo to model input, points and boxes with it, and logits back to masks of the photo.

Resizing follows Meta's ``ResizeLongestSide`` (PIL's antialiased bilinear filter) and ``postprocess_masks`` (bilinear
to the square, crop the padding, bilinear to the photo, > 0), and gives the same pixels. See segment-anything 1.0,
``utils/transforms.py`` and ``modeling/sam.py``.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from model.config import PIXEL_MEAN, PIXEL_STD
from model.types import BoolArray, FloatArray, Mask

PREPROCESSING_VERSION = "1"
"""Changes whenever the same photo would give the encoder other numbers; part of every cache key."""

ROUGH_LOGIT = 8.0
"""How sure of itself a drawn mask is when it becomes a mask input; SAM's own logits reach about this far."""


def longest_side_size(original_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Return the (height, width) of a photo scaled to a longest side of ``image_size``; at least one pixel each."""
    height, width = original_size
    scale = image_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def to_model_input(image: npt.NDArray[np.uint8], image_size: int) -> tuple[FloatArray, tuple[int, int]]:
    """Scale, normalise and pad a photo.

    Args:
        image: (H, W, 3) uint8, RGB.
        image_size: side S of the model's square input.

    Returns:
        (3, S, S) float32, zero right of and below the photo, and the (height, width) of the photo within.

    Raises:
        ValueError: ``image`` is not (H, W, 3) uint8 with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: expected uint8 RGB of shape (H, W, 3), got {image.dtype} {image.shape}")
    height, width = longest_side_size((image.shape[0], image.shape[1]), image_size)
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = np.zeros((3, image_size, image_size), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
        pixels[channel, :height, :width] = (image[..., channel] - np.float32(mean)) / np.float32(std)
    return pixels, (height, width)


def points_to_model(coords: npt.ArrayLike, original_size: tuple[int, int], input_size: tuple[int, int]) -> FloatArray:
    """Carry (x, y) points, shape (..., 2), from original pixels to the model's input."""
    scale = [input_size[1] / original_size[1], input_size[0] / original_size[0]]
    return np.asarray(np.asarray(coords, dtype=np.float64) * scale, dtype=np.float32)


def points_from_model(coords: npt.ArrayLike, original_size: tuple[int, int], input_size: tuple[int, int]) -> FloatArray:
    """Carry (x, y) points, shape (..., 2), from the model's input back to original pixels."""
    scale = [original_size[1] / input_size[1], original_size[0] / input_size[0]]
    return np.asarray(np.asarray(coords, dtype=np.float64) * scale, dtype=np.float32)


def mask_to_model(mask: BoolArray, input_size: tuple[int, int], image_size: int, low_res_size: int) -> FloatArray:
    """Turn a drawn mask of the photo into a mask input.

    Args:
        mask: (H, W) bool in original pixels.
        input_size: (height, width) of the photo within the square input.
        image_size: side of the square input.
        low_res_size: side of the mask input.

    Returns:
        (low_res_size, low_res_size) float32 logits, `ROUGH_LOGIT` where the mask covers and its negative where not.
    """
    height, width = (max(1, round(side * low_res_size / image_size)) for side in input_size)
    shrinks = height <= mask.shape[0] and width <= mask.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=interpolation)
    logits = np.full((low_res_size, low_res_size), -ROUGH_LOGIT, dtype=np.float32)
    logits[:height, :width] = (2 * cover - 1) * ROUGH_LOGIT
    return logits


def mask_from_logits(
    logits: FloatArray, input_size: tuple[int, int], original_size: tuple[int, int], image_size: int
) -> Mask:
    """Turn low-resolution logits into a mask of the photo.

    Both of Meta's bilinear steps are linear in each axis, so together they are ``rows @ logits @ columnsᵀ`` with two
    narrow-banded matrices that depend on sizes alone. Only the rows and columns that a positive logit reaches are
    computed: an interpolated value cannot be positive elsewhere.

    Args:
        logits: (low_res_size, low_res_size) float32.
        input_size: (height, width) of the photo within the square input.
        original_size: (H, W) of the photo.
        image_size: side of the square input.

    Returns:
        The mask, true where the interpolated logit is above zero.
    """
    positive = logits > 0
    spans = []
    for axis in (0, 1):
        reached = np.flatnonzero(positive.any(axis=1 - axis))
        weights = _axis_weights(logits.shape[axis], image_size, input_size[axis], original_size[axis])
        spans.append(weights.span(int(reached[0]), int(reached[-1])) if len(reached) else None)
    if spans[0] is None or spans[1] is None or 0 in (len(spans[0][0]), len(spans[1][0])):
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), original_size)
    (rows, low_rows, top), (columns, low_columns, left) = spans[0], spans[1]
    part = np.ascontiguousarray(logits[low_rows, low_columns], dtype=np.float32)
    crop = (rows @ part) @ columns.T > 0
    return Mask(crop, (left, top), original_size)


class _AxisWeights:
    """How much of each low-resolution logit goes into each pixel along one axis of the photo, (pixels, logits)."""

    def __init__(self, low: int, square: int, inner: int, original: int) -> None:
        first = _bilinear(low, square)[:inner]  # (inner, low): to the square, padding cropped
        index, weight = _taps(inner, original)
        lower, upper = first[index], first[np.minimum(index + 1, inner - 1)]
        self._matrix = ((1 - weight)[:, None] * lower + weight[:, None] * upper).astype(np.float32)
        taken = self._matrix != 0
        self._first = taken.argmax(axis=1)
        self._last = low - 1 - taken[:, ::-1].argmax(axis=1)

    def span(self, low_first: int, low_last: int) -> tuple[FloatArray, slice, int]:
        """Return the weights of the pixels that logits ``low_first..low_last`` reach, those logits, the first pixel."""
        pixels = np.flatnonzero((self._last >= low_first) & (self._first <= low_last))
        if not len(pixels):
            return self._matrix[:0], slice(0, 0), 0
        start, stop = int(pixels[0]), int(pixels[-1]) + 1
        low = slice(int(self._first[start:stop].min()), int(self._last[start:stop].max()) + 1)
        return self._matrix[start:stop, low], low, start


@lru_cache(maxsize=64)
def _axis_weights(low: int, square: int, inner: int, original: int) -> _AxisWeights:
    return _AxisWeights(low, square, inner, original)


def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return, per target pixel, the lower source pixel and the weight of the one above it (half-pixel centres).

    In float32, as torch's ``interpolate(align_corners=False)`` computes them: at 4000 pixels the rounding shows.
    """
    scale = np.float32(source) / np.float32(target)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    index = np.minimum(position.astype(np.intp), source - 1)
    return index, np.asarray(position - index.astype(np.float32), dtype=np.float32)


def _bilinear(source: int, target: int) -> npt.NDArray[np.float32]:
    """Return the (target, source) matrix of bilinear interpolation along one axis."""
    index, weight = _taps(source, target)
    matrix = np.zeros((target, source), dtype=np.float32)
    rows = np.arange(target)
    matrix[rows, index] = 1 - weight
    np.add.at(matrix, (rows, np.minimum(index + 1, source - 1)), weight)
    return matrix
