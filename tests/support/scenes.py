"""Pictures whose masks are known, for tests that judge what a mask means: any size, orientation and file format."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo_training.scenes import Family, Mask, Scene, render_scene

# EXIF orientation -> how the stored pixels must be turned so that a reader who obeys it sees the scene upright.
_STORED = {
    1: (),
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_90,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class SceneFile:
    """A scene and the bytes of an image file that shows it; the masks are in the frame of the upright picture."""

    scene: Scene
    data: bytes


def scene_file(
    seed: int = 0,
    size: tuple[int, int] = (480, 640),
    *,
    image_format: str = "PNG",
    orientation: int = 1,
    family: Family = "train",
) -> SceneFile:
    """Return a scene of (height, width) stored in a Pillow format, with an EXIF orientation from 1 to 8."""
    scene = render_scene(seed, size, family)
    picture = Image.fromarray(scene.image)
    for turn in _STORED[orientation]:
        picture = picture.transpose(turn)
    exif = Image.Exif()
    if orientation != 1:
        exif[_EXIF_ORIENTATION] = orientation
    buffer = io.BytesIO()
    options = {"exif": exif.tobytes()} if orientation != 1 else {}
    picture.save(buffer, image_format, **options)
    return SceneFile(scene, buffer.getvalue())


def centre_click(scene: Scene, index: int) -> tuple[int, int]:
    """Return (x, y) of the pixel of an object that is farthest from its border and on no part of it."""
    own = np.pad(scene.own_mask(index), 1).astype(np.uint8)
    inside = cv2.distanceTransform(own, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y)


def box(scene: Scene, index: int) -> tuple[int, int, int, int]:
    """Return the box of an object's visible pixels, XYXY, the far edge exclusive."""
    mask = scene.masks[index]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def largest(scene: Scene) -> int:
    """Return the index of the object with the most visible pixels of its own."""
    return int(np.argmax([scene.own_mask(k).sum() for k in range(len(scene.kinds))]))


def iou(mask: NDArray[np.generic], expected: Mask) -> float:
    """Return the intersection over union of two masks of the same shape."""
    assert mask.shape == expected.shape, f"expected {expected.shape}, got {mask.shape}"
    mask = mask.astype(bool)
    return float((mask & expected).sum() / max((mask | expected).sum(), 1))
