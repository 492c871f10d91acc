"""Geometry between photo and model: photos, points and boxes to the model's input, logits to masks of the photo.

Resizing follows Meta's ``ResizeLongestSide`` (PIL's antialiased bilinear filter) and ``postprocess_masks`` (bilinear
to the square, crop the padding, bilinear to the photo, > 0), and gives the same pixels. See segment-anything 1.0,
``utils/transforms.py`` and ``modeling/sam.py``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from model.config import PIXEL_MEAN, PIXEL_STD, UNIT_MEAN, UNIT_STD, SamConfig
from model.types import FloatArray, Mask, ModelInput

PREPROCESSING_VERSION = "1"
"""Changes whenever the same photo would give the encoder other numbers; part of every cache key."""

ROUGH_LOGIT = 8.0
"""Absolute logit of a drawn mask as a mask input; SAM's own logits reach about this far."""

NARROW_BYTES = 64_000_000
"""The most that an image may take whose rows, but not columns, are resized; only stretching to a square needs more."""

BANDS_AHEAD = 2
"""Bands of an image that wait in memory, decoded, while the one before them is resized."""

PIXELS_AT_ONCE = 64
"""Rows of a mask, and columns, that are computed at a time: few logits reach them, and their values stay in cache."""


def longest_side_size(original_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Return the (height, width) of a photo scaled to a longest side of ``image_size``; at least one pixel each.

    >>> longest_side_size((3000, 4000), 1024)
    (768, 1024)
    """
    height, width = original_size
    scale = image_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def input_size(original_size: tuple[int, int], image_size: int, keeps_shape: bool = True) -> tuple[int, int]:
    """Return the (height, width) that a photo has inside a square input of side ``image_size``.

    >>> input_size((3000, 4000), 1024), input_size((3000, 4000), 1024, keeps_shape=False)
    ((768, 1024), (1024, 1024))
    """
    return longest_side_size(original_size, image_size) if keeps_shape else (image_size, image_size)


def preprocess(image: npt.NDArray[np.uint8], config: SamConfig) -> ModelInput:
    """Resize a photo to the input of a network; the first half of an encode, which needs no weights.

    SAM 2 stretches every photo to the square, as its ``SAM2Transforms`` does; theirs resizes numbers that are not
    rounded, and what Pillow makes of bytes differs from it by less than one of 255. The others keep the photo's shape.

    Args:
        image: (H, W, 3) uint8, RGB, as a person sees it (EXIF orientation applied).
        config: of the network.

    Raises:
        ValueError: ``image`` is not (H, W, 3) uint8 with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: expected uint8 RGB of shape (H, W, 3), got {image.dtype} {image.shape}")
    original_size = image.shape[0], image.shape[1]
    size = input_size(original_size, config.image_size, config.keeps_shape)
    if size != original_size:
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return ModelInput(image, original_size)


def normalize(pixels: npt.NDArray[np.uint8], config: SamConfig) -> FloatArray:
    """Normalise the colours of a `ModelInput`'s pixels, and pad them with zeros to the network's square.

    Returns:
        (3, S, S) float32, zero right of and below the photo.

    Raises:
        ValueError: the pixels are larger than the square.
    """
    side, (height, width) = config.image_size, pixels.shape[:2]
    if max(height, width) > side:
        raise ValueError(f"pixels: expected at most {side} × {side}, got {width} × {height}")
    is_sam2 = config.family == "sam2"
    means, stds = (UNIT_MEAN, UNIT_STD) if is_sam2 else (PIXEL_MEAN, PIXEL_STD)
    normalized = np.zeros((3, side, side), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        values = pixels[..., channel] / np.float32(255) if is_sam2 else pixels[..., channel]
        normalized[channel, :height, :width] = (values - np.float32(mean)) / np.float32(std)
    return normalized


def resize_bands(bands: Iterable[Image.Image], height: int, size_wh: tuple[int, int]) -> Image.Image:
    """Return an image that comes in bands, resized as if it were whole.

    Rows are resized first and then columns, as Pillow does it too, but for tall images. Each row is independent, so
    only the columns need all bands. Where these would take more than `NARROW_BYTES`, columns are resized band by band.
    The order and the bands change a pixel by one of 255 at most. The rows of a band are
    resized in a thread of their own, while the next band is decoded.

    Args:
        bands: the bands from top to bottom, each RGB and of the whole width.
        height: of all bands together.
        size_wh: (width, height) of the result; no higher than ``height``.
    """
    width, rows = size_wh
    narrow = _beside(bands, lambda band: _resize(band, (width, band.height)))
    if rows < height and 4 * width * height > NARROW_BYTES:
        return _resize_columns(narrow, height, size_wh)
    return _resize(_stacked(narrow, (width, height)), size_wh)


def _resize_columns(bands: Iterable[Image.Image], height: int, size_wh: tuple[int, int]) -> Image.Image:
    """Make each row of the result from the bands around it, when they are there."""
    width, rows = size_wh
    result, kept, scale = Image.new("RGB", size_wh), Image.new("RGB", (width, 0)), height / rows
    top = done = 0  # the row of the image at which `kept` begins, and how many rows of the result are made
    for band in bands:
        kept = _stacked([kept, band], (width, kept.height + band.height))
        bottom = top + kept.height
        ready = rows if bottom == height else int(bottom / scale - 1.5)
        if ready <= done:
            continue
        box = (0, done * scale - top, width, min(ready * scale - top, kept.height))
        result.paste(kept.resize((width, ready - done), Image.Resampling.BILINEAR, box), (0, done))
        done = ready
        spent = max(0, int((done - 0.5) * scale) - 1 - top)
        kept, top = kept.crop((0, spent, width, kept.height)), top + spent
    return result


def _beside(bands: Iterable[Image.Image], work: Callable[[Image.Image], Image.Image]) -> Iterator[Image.Image]:
    """Yield what ``work`` makes of each band, in order, while those that follow are decoded."""
    with ThreadPoolExecutor(1, thread_name_prefix="bands") as thread:
        begun: deque[Future[Image.Image]] = deque()
        for band in bands:
            begun.append(thread.submit(work, band))
            if len(begun) > BANDS_AHEAD:
                yield begun.popleft().result()
        yield from (each.result() for each in begun)


def _resize(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    return image if image.size == size_wh else image.resize(size_wh, Image.Resampling.BILINEAR)


def _stacked(bands: Iterable[Image.Image], size_wh: tuple[int, int]) -> Image.Image:
    whole, top = Image.new("RGB", size_wh), 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def points_to_model(coords: npt.ArrayLike, original_size: tuple[int, int], input_size: tuple[int, int]) -> FloatArray:
    """Scale (x, y) points, shape (..., 2), from original pixels to the model's input.

    >>> points_to_model([[2000, 1500]], (3000, 4000), (768, 1024)).tolist()
    [[512.0, 384.0]]
    """
    scale = [input_size[1] / original_size[1], input_size[0] / original_size[0]]
    return np.asarray(np.asarray(coords, dtype=np.float64) * scale, dtype=np.float32)


def mask_to_model(
    mask: npt.NDArray[np.bool_ | np.uint8], input_size: tuple[int, int], image_size: int, low_res_size: int
) -> FloatArray:
    """Turn a drawn mask of the photo into a mask input.

    Args:
        mask: (h, w) of the photo or a smaller copy: bool, or uint8 with the covered share of each pixel, 255 for all.
        input_size: (height, width) of the photo within the square input.
        image_size: side of the square input.
        low_res_size: side of the mask input.

    Returns:
        (low_res_size, low_res_size) float32 logits, `ROUGH_LOGIT` where the mask covers and its negative where not.
    """
    height, width = (max(1, round(side * low_res_size / image_size)) for side in input_size)
    shrinks = height <= mask.shape[0] and width <= mask.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    drawn = mask.astype(np.float32) / (1 if mask.dtype == np.bool_ else 255)
    cover = cv2.resize(drawn, (width, height), interpolation=interpolation)
    logits = np.full((low_res_size, low_res_size), -ROUGH_LOGIT, dtype=np.float32)
    logits[:height, :width] = (2 * cover - 1) * ROUGH_LOGIT
    return logits


def mask_and_areas(
    logits: FloatArray,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    image_size: int,
    levels: Sequence[float] = (),
    product: Callable[[FloatArray, FloatArray], FloatArray] = np.matmul,
) -> tuple[Mask, tuple[int, ...]]:
    """Turn low-resolution logits into a mask of the photo, and count the pixels above other levels than zero.

    Both of Meta's bilinear steps are linear in each axis, so together they are ``rows @ logits @ columnsᵀ`` with two
    narrow-banded matrices that depend on sizes alone. Only the rows and columns that a logit above the lowest level
    reaches are computed: an interpolated value cannot be above it elsewhere. The products are taken a few columns and
    rows at a time, with the logits that these need; the photo's logits never exist as a whole.

    Args:
        logits: (low_res_size, low_res_size) float32.
        input_size: (height, width) of the photo within the square input.
        original_size: (H, W) of the photo.
        image_size: side of the square input.
        levels: logits.
        product: the matrix product of two float32 arrays.

    Returns:
        The mask, true where the interpolated logit is above zero, and for each level the pixels of the photo where it
        is above that.
    """
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    axes = [_axis_weights(logits.shape[i], image_size, input_size[i], original_size[i]) for i in (0, 1)]
    inner, lowest = _spans(axes, logits > 0), min((0.0, *levels))
    spans = _spans(axes, logits > lowest) if lowest < 0 else inner
    height, width = (span.stop - span.start for span in spans)
    if 0 in (height, width):
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), original_size), (0,) * len(levels)
    stretched = np.empty((len(logits), width), np.float32)
    for part, weights, reach in axes[1].strips(spans[1]):
        stretched[:, part] = product(logits[:, reach], weights.T)
    crop, areas = np.empty((height, width), dtype=np.bool_), [0] * len(levels)
    for part, weights, reach in axes[0].strips(spans[0]):
        values = product(weights, stretched[reach])
        np.greater(values, 0, out=crop[part])
        areas = [area + int(np.count_nonzero(values > level)) for area, level in zip(areas, levels, strict=True)]
    if lowest < 0:
        top, left = (span.start - wider.start for span, wider in zip(inner, spans, strict=True))
        crop = crop[top : top + inner[0].stop - inner[0].start, left : left + inner[1].stop - inner[1].start].copy()
    offset = (inner[1].start, inner[0].start) if crop.size else (0, 0)
    return Mask(crop if crop.size else np.zeros((0, 0), dtype=np.bool_), offset, original_size), tuple(areas)


def _spans(axes: Sequence["_AxisWeights"], reached: npt.NDArray[np.bool_]) -> list[slice]:
    """Return the runs of rows and columns of the photo that some logits (low, low) reach."""
    return [axis.span(np.flatnonzero(reached.any(axis=1 - i))) for i, axis in enumerate(axes)]


class _AxisWeights:
    """Which low-resolution logits go into each pixel along one axis of the photo, and how much of each.

    A pixel lies between two pixels of the square, and each of these between two logits: four taps, some of them alike.
    """

    def __init__(self, low: int, square: int, inner: int, original: int) -> None:
        low_index, low_weight = _taps(low, square)
        index, weight = _taps(inner, original)
        taps = []
        for square_index, share in ((index, 1 - weight), (np.minimum(index + 1, inner - 1), weight)):
            first, upper = low_index[square_index], low_weight[square_index]
            taps += [(first, share * (1 - upper)), (np.minimum(first + 1, low - 1), share * upper)]
        indexes = np.stack([tap for tap, _ in taps])
        self._weights = np.stack([weight for _, weight in taps])  # (4, original)
        counts = self._weights != 0
        self._first = np.where(counts, indexes, low).min(axis=0)
        self._last = np.where(counts, indexes, -1).max(axis=0)
        self._indexes = np.clip(indexes, self._first, self._last)  # (4, original); outside lie only taps of no weight
        self._matrices: dict[int, tuple[FloatArray, slice]] = {}

    def span(self, logits: npt.NDArray[np.intp]) -> slice:
        """Return the run of pixels that these logits, in rising order, and those between them reach."""
        if not len(logits):
            return slice(0, 0)
        pixels = np.flatnonzero((self._last >= logits[0]) & (self._first <= logits[-1]))
        return slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0, 0)

    def strips(self, pixels: slice) -> Iterator[tuple[slice, FloatArray, slice]]:
        """Yield the strips of a run of pixels: where in the run each is, its weights, and the run of logits it needs.

        The weights are (pixels, logits), most of them not zero.
        """
        start = pixels.start
        while start < pixels.stop:
            index, first = divmod(start, PIXELS_AT_ONCE)
            weights, low = self._matrix(index)
            rows = weights[first : first + pixels.stop - start]
            yield slice(start - pixels.start, start - pixels.start + len(rows)), rows, low
            start += len(rows)

    def _matrix(self, index: int) -> tuple[FloatArray, slice]:
        """Return a strip's weights (pixels, logits), and the run of logits that these need."""
        if index not in self._matrices:
            pixels = slice(index * PIXELS_AT_ONCE, (index + 1) * PIXELS_AT_ONCE)
            low = slice(int(self._first[pixels].min()), int(self._last[pixels].max()) + 1)
            indexes, weights = self._indexes[:, pixels] - low.start, self._weights[:, pixels]
            matrix = np.zeros((weights.shape[1], low.stop - low.start), np.float32)
            for taps, shares in zip(indexes, weights, strict=True):
                matrix[np.arange(len(matrix)), taps] += shares
            self._matrices[index] = matrix, low
        return self._matrices[index]


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
