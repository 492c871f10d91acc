"""What the regions that Label Studio keeps mean: each decoded to the pixels of the upright image that it marks."""

import base64
import io
import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

BoolArray = NDArray[np.bool_]

# Label Studio's own converter, in its own environment.
DECODE_RLE = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle
sys.stdout.buffer.write(decode_rle(json.load(sys.stdin)).tobytes())
"""


class StoredMasks:
    """Decodes stored regions; painted ones with the converter of the Label Studio that kept them."""

    def __init__(self, label_studio_python: Path) -> None:
        self._python = label_studio_python

    def of(self, region: dict) -> BoolArray:
        """Return the mask of a region, bool (H, W) of the upright image."""
        size = region["original_height"], region["original_width"]
        value = region["value"]
        if "rle" in value:
            return self._painted(value["rle"], size)
        if "imageDataURL" in value:
            return _bitmask(value["imageDataURL"], size)
        if "points" in value:
            return _polygon(value["points"], size)
        raise AssertionError(f"a region of type {region['type']} with {sorted(value)} has no mask")

    def _painted(self, code: list[int], size: tuple[int, int]) -> BoolArray:
        decoded = subprocess.run(
            [self._python, "-c", DECODE_RLE], input=json.dumps(code).encode(), capture_output=True, check=True
        ).stdout
        rgba = np.frombuffer(decoded, np.uint8).reshape(*size, 4)
        return rgba[..., 3] > 0


def _bitmask(url: str, size: tuple[int, int]) -> BoolArray:
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    assert picture.size == size[::-1], f"expected {size[::-1]}, got {picture.size}"
    return np.asarray(picture.convert("RGBA"))[..., 3] > 0


def _polygon(points: list[list[float]], size: tuple[int, int]) -> BoolArray:
    scale = np.array([size[1], size[0]]) / 100
    filled = np.zeros(size, np.uint8)
    cv2.fillPoly(filled, [np.round(np.array(points) * scale).astype(np.int32)], 1)
    return filled > 0
