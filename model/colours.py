"""A picture's colours as a person sees them, in 8-bit sRGB.

Embedded ICC profiles are applied, transparency lies on white, and 16-bit, 32-bit and float values are stretched between
their 1st and 99th percentile, since scans and medical images often use a small part of their range.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_SAMPLES = 1_000_000  # enough pixels to know where a picture's darkest and brightest percent lie


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any mode that Pillow has in mode RGB; its pixels are loaded."""
    if image.mode.startswith("I") or image.mode == "F":
        return _stretched(np.asarray(image))
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


def _in_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return an 8-bit image as sRGB; by its ICC profile, or naively where it has none that fits."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        if icc:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if image.mode != "RGB" or "srgb" not in ImageCms.getProfileDescription(profile).lower():
                intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
                converted = ImageCms.profileToProfile(image, profile, srgb, intent, outputMode="RGB")
                return image.convert("RGB") if converted is None else converted
        elif image.mode == "LAB":
            converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
            return image if converted is None else converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass  # a broken profile, or one of another colour space: browsers ignore it too
    return image.convert("RGB")


def _stretched(values: npt.NDArray[np.generic]) -> Image.Image:
    """Return deep gray values, (H, W) of any number type, as 8-bit RGB: 1st percentile black, 99th white."""
    numbers = np.asarray(values)
    sample = numbers.ravel()[:: max(1, numbers.size // _SAMPLES)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (1, 99)) if len(sample) else (0.0, 0.0)
    if high <= low and len(sample):
        low, high = float(sample.min()), float(sample.max())
    gray = np.zeros(numbers.shape, dtype=np.uint8)
    if high > low:
        for row in range(0, len(numbers), 512):  # in slices, since float64 takes eight times the room
            scaled = (numbers[row : row + 512].astype(np.float64) - low) * (255 / (high - low))
            gray[row : row + 512] = np.nan_to_num(scaled, nan=0.0).clip(0, 255).round()
    return Image.fromarray(gray).convert("RGB")
