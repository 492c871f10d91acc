"""Converts the colours of images to 8-bit sRGB.

Embedded ICC profiles are applied, transparency is blended with white, and 16-bit, 32-bit and float values are stretched
between their 1st and 99th percentile, since scans and medical images often use a small part of their range.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_SAMPLES = 1_000_000  # pixels, enough to estimate the 1st and 99th percentile


def to_rgb(image: Image.Image, gray_range: tuple[float, float] | None = None) -> Image.Image:
    """Return an image of any of Pillow's modes in mode RGB; its pixels are loaded.

    Args:
        image: the picture, or a part of it.
        gray_range: the values that become black and white where they are deep; None looks for them in ``image``.
    """
    if is_deep(image):
        return _stretched(np.asarray(image), gray_range or find_gray_range((image,), image.width * image.height))
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(_in_srgb(image.convert("RGB"), profile), mask=image.getchannel("A"))
        return white
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return _in_srgb(image, profile)


def bands_to_rgb(bands: Callable[[], Iterable[Image.Image]], size_wh: tuple[int, int]) -> Iterator[Image.Image]:
    """Yield the bands of an image in mode RGB; the range of deep ones is found in a first pass over all bands.

    Args:
        bands: yields them from top to bottom, each time it is called.
        size_wh: (width, height) of the image.
    """
    gray_range = None
    for band in bands():
        if gray_range is None and is_deep(band):
            gray_range = find_gray_range(bands(), size_wh[0] * size_wh[1])
        yield to_rgb(band, gray_range)


def is_deep(image: Image.Image) -> bool:
    """Whether a picture holds gray values of more than 8 bits, which are stretched."""
    return image.mode.startswith("I") or image.mode == "F"


def find_gray_range(bands: Iterable[Image.Image], pixels: int) -> tuple[float, float]:
    """Return the 1st and the 99th percentile of deep gray values, or the ends where these are alike.

    Args:
        bands: the parts of the picture, from top to bottom.
        pixels: how many they have together.
    """
    step, start = max(1, pixels // _SAMPLES), 0
    samples = []
    for band in bands:
        values = np.asarray(band).ravel()
        samples.append(values[start::step].astype(np.float64))
        start = (start - len(values)) % step
    sample = np.concatenate(samples)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (1, 99)) if len(sample) else (0.0, 0.0)
    if high <= low and len(sample):
        low, high = sample.min(), sample.max()
    return float(low), float(high)


def _in_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return an 8-bit image as sRGB; by its ICC profile, or naively where it has none that fits."""
    try:
        if icc:
            transform = _to_srgb(icc, image.mode)
            if transform is not None:
                return transform.apply(image)
        elif image.mode == "LAB":
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
            return image if converted is None else converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass  # a broken profile, or one of another colour space: browsers ignore it too
    return image.convert("RGB")


@lru_cache(maxsize=4)  # a picture is converted in parts
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from this profile to sRGB; None where the profile is sRGB already."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(profile).lower():
        return None
    intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)


def _stretched(numbers: npt.NDArray[np.generic], gray_range: tuple[float, float]) -> Image.Image:
    """Return deep gray values, (H, W) of any number type, as 8-bit RGB: the range's ends black and white."""
    low, high = gray_range
    gray = np.zeros(numbers.shape, dtype=np.uint8)
    if high > low:
        for row in range(0, len(numbers), 512):  # in slices, since float64 takes eight times the room
            scaled = (numbers[row : row + 512].astype(np.float64) - low) * (255 / (high - low))
            gray[row : row + 512] = np.nan_to_num(scaled, nan=0.0).clip(0, 255).round()
    return Image.fromarray(gray).convert("RGB")
