"""Procedural scenes with known masks: what the demo model is trained and judged on.

A scene is a pure function of its seed, size and family. The ``held_out`` family shares no shape and no texture with
``train``. Only numpy and OpenCV are used.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_training.shapes import HELD_OUT_SHAPES, TRAIN_SHAPES, Contours, enclosed_area, outline_name
from demo_training.textures import HELD_OUT_TEXTURES, TRAIN_TEXTURES

Family = Literal["train", "held_out"]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

SMALLEST_SHARE = 0.003
LARGEST_SHARE = 0.6
PART_PROBABILITY = 0.12


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    ``image`` is RGB uint8 (H, W, 3). ``ids`` uint8 (H, W) holds at each pixel the number of the topmost object, from
    1, and 0 for the background. Object ``k`` (from 0) is of ``kinds[k]``; ``parents[k]`` is the object it is a part
    of, or -1. A whole contains its parts. ``outlines[k]`` is what its outline is called, see `outline_name`.
    """

    image: Image
    ids: NDArray[np.uint8]
    kinds: tuple[str, ...]
    parents: tuple[int, ...]
    outlines: tuple[str, ...] = ()

    @property
    def masks(self) -> list[Mask]:
        """The visible pixels of each object, bool (H, W): occluders are taken out, parts belong to their whole."""
        masks = [self.ids == k + 1 for k in range(len(self.kinds))]
        for part, whole in enumerate(self.parents):
            if whole >= 0:
                masks[whole] |= masks[part]
        return masks

    def own_mask(self, index: int) -> Mask:
        """Return the visible pixels that belong to this object alone, without its parts: where a click means it."""
        return np.asarray(self.ids == index + 1)


def _colour(rng: Rng) -> NDArray[np.float64]:
    """Return an RGB colour, between grey and vivid."""
    vivid = rng.uniform(5, 250, 3)
    return np.asarray(vivid.mean() + (vivid - vivid.mean()) * min(1.0, rng.uniform(0.1, 1.3)))


class _Canvas:
    """The picture while it is painted."""

    def __init__(self, rng: Rng, height: int, width: int, family: Family) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.unit = float(max(height, width))
        self.shapes = TRAIN_SHAPES if family == "train" else HELD_OUT_SHAPES
        self.textures = TRAIN_TEXTURES if family == "train" else HELD_OUT_TEXTURES
        self.ids = np.zeros((height, width), np.uint8)
        self.kinds: list[str] = []
        self.outlines: list[str] = []
        self.parents: list[int] = []
        self.areas: list[int] = []
        self.shadow = rng.uniform(0.25, 0.6) if rng.random() < 0.3 else 0.0
        self.shadow_offset = rng.uniform(-0.025, 0.025, 2) * self.unit
        first = _colour(rng)
        second = np.clip(first + rng.normal(0, 40, 3) * rng.random(), 0, 255)
        self.image = self._surface(height, width, first, second)

    def _surface(
        self, height: int, width: int, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        name = str(self.rng.choice(list(self.textures)))
        field = self.textures[name](self.rng, height, width, self.unit)[..., None]
        return (first * (1 - field) + second * field).astype(np.float32)

    def place(self, share: float, parent: int = -1) -> bool:
        """Try to paint one object that covers about ``share`` of the picture; say whether it was painted."""
        kind = str(self.rng.choice(list(self.shapes)))
        share = min(share, 0.04) if kind == "thin" else share
        outline = self.shapes[kind](self.rng)
        contours = self._position(outline, share, parent)
        every = np.concatenate(contours)
        left, top = np.maximum(np.floor(every.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(every.max(0)).astype(int) + 2, [self.width, self.height])
        if right - left < 3 or bottom - top < 3:
            return False
        alpha = np.zeros((bottom - top, right - left), np.uint8)
        fixed = [np.round((c - [left, top]) * 16).astype(np.int32) for c in contours]
        cv2.fillPoly(alpha, fixed, 255, cv2.LINE_AA, 4)
        window = (slice(top, bottom), slice(left, right))
        if not self._fits(alpha > 127, window, parent):
            return False
        self._paint(alpha, fixed, window, cast_shadow=parent < 0)
        ids = self.ids[window]
        ids[alpha > 127] = len(self.kinds) + 1
        self.kinds.append(kind)
        self.outlines.append(outline_name(kind, outline))
        self.parents.append(parent)
        self.areas.append(int((alpha > 127).sum()))
        return True

    def _position(self, contours: Contours, share: float, parent: int) -> Contours:
        """Scale, turn and move an outline so that it covers ``share`` of the picture, or lies inside its whole."""
        scale = np.sqrt(share * self.height * self.width / enclosed_area(contours))
        angle = self.rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = [c @ turn.T * scale for c in contours]
        every = np.concatenate(turned)
        room = 1.15 * np.array([self.width, self.height]) / np.maximum(np.ptp(every, axis=0), 1e-6)
        turned = [c * min(1.0, float(room.min())) for c in turned]
        if parent < 0:
            centre = self.rng.uniform(0.05, 0.95, 2) * [self.width, self.height]
        else:
            inside = cv2.distanceTransform((self.ids == parent + 1).astype(np.uint8), cv2.DIST_L2, 3)
            y, x = np.unravel_index(int(inside.argmax()), inside.shape)
            centre = np.array([x, y], dtype=np.float64)
        return [c + centre for c in turned]

    def _fits(self, mask: Mask, window: tuple[slice, slice], parent: int) -> bool:
        """Say whether the object is large enough and leaves enough of those below it."""
        if not SMALLEST_SHARE * self.ids.size <= mask.sum() <= LARGEST_SHARE * self.ids.size:
            return False
        under = self.ids[window]
        if parent >= 0:
            own = self.ids == parent + 1
            return bool((under[mask] == parent + 1).all() and mask.sum() < 0.5 * own.sum())
        covered = np.bincount(under[mask], minlength=len(self.kinds) + 1)
        left = np.bincount(self.ids.ravel(), minlength=len(self.kinds) + 1) - covered
        floor = np.maximum(0.4 * np.array(self.areas, dtype=float), SMALLEST_SHARE * self.ids.size)
        return bool((left[1:] >= floor).all())

    def _paint(
        self, alpha: Image, fixed: list[NDArray[np.int32]], window: tuple[slice, slice], *, cast_shadow: bool
    ) -> None:
        if cast_shadow and self.shadow:
            self._darken_behind(alpha, window)
        target = self.image[window]
        first, second = self._colours(target[alpha > 127].mean(0))
        surface = self._surface(alpha.shape[0], alpha.shape[1], first, second)
        if self.rng.random() < 0.3:
            start, stop = (float(v) for v in self.rng.uniform(0.7, 1.2, 2))
            ramp = np.linspace(start, stop, alpha.shape[1], dtype=np.float32)
            surface *= ramp[None, :, None]
        if self.rng.random() < 0.15:
            thickness = max(1, round(self.rng.uniform(0.003, 0.01) * self.unit))
            colour = (first * self.rng.uniform(0.1, 0.5)).tolist()
            cv2.polylines(surface, fixed, True, colour, thickness, cv2.LINE_8, 4)
        weight = alpha[..., None].astype(np.float32) / 255
        target += (np.clip(surface, 0, 255) - target) * weight

    def _colours(self, below: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return two colours for a surface; the first stands out from the mean colour below it."""
        contrast = self.rng.uniform(40, 120)
        for _ in range(20):
            first = _colour(self.rng)
            if np.linalg.norm(first - below) > contrast:
                break
        spread = 70 * self.rng.random() ** 2
        return first, np.clip(first + self.rng.normal(0, spread + 4, 3), 0, 255)

    def _darken_behind(self, alpha: Image, window: tuple[slice, slice]) -> None:
        reach = max(1, round(0.008 * self.unit))
        full = np.zeros(self.ids.shape, np.uint8)
        full[window] = alpha
        shift = np.array([[1, 0, self.shadow_offset[0]], [0, 1, self.shadow_offset[1]]], dtype=np.float64)
        moved = cv2.warpAffine(full, shift, (self.width, self.height))
        soft = cv2.blur(moved, (2 * reach + 1, 2 * reach + 1)).astype(np.float32)
        self.image *= 1 - self.shadow / 255 * soft[..., None]


def _photograph(rng: Rng, image: NDArray[np.float32]) -> Image:
    """Return the picture as a camera might have left it: uneven light, blur, noise, compression."""
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        light = cv2.resize(rng.uniform(0.7, 1.15, (2, 2)).astype(np.float32), (width, height))
        image = image * light[..., None]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.0005, 0.003) * max(height, width))
    if rng.random() < 0.4:
        image = image + rng.uniform(2, 14) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        compressed = cv2.imencode(".jpg", pixels, quality)[1]
        pixels = np.asarray(cv2.imdecode(compressed, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def render_scene(seed: int, size: tuple[int, int] = (480, 640), family: Family = "train") -> Scene:
    """Return the scene of a seed: 1 to 10 objects that each cover 0.3 % to 60 % of the picture.

    Args:
        seed: what decides everything about the scene, together with the size and the family.
        size: (height, width) in pixels, each at least 32.
        family: ``held_out`` takes shapes and textures that ``train`` never shows.

    Raises:
        ValueError: the size is too small to hold an object.
    """
    height, width = size
    if min(height, width) < 32:
        raise ValueError(f"expected a size of at least 32 x 32 pixels, got {height} x {width}")
    rng = np.random.default_rng([seed, height, width, family == "held_out"])
    canvas = _Canvas(rng, height, width, family)
    count = int(rng.integers(1, 11))
    largest = min(0.55, 1.6 / count)
    shares = np.exp(rng.uniform(np.log(0.0045), np.log(largest), count))
    shares = shares[np.argsort(-shares * rng.lognormal(0, 0.5, count))]
    for share in shares:
        if len(canvas.kinds) >= 10 or not any(canvas.place(float(share)) for _ in range(4)):
            continue
        whole = len(canvas.kinds) - 1
        if rng.random() < PART_PROBABILITY and len(canvas.kinds) < 10:
            canvas.place(float(share * rng.uniform(0.05, 0.25)), parent=whole)
    while not canvas.kinds:
        canvas.place(float(rng.uniform(0.02, 0.2)))
    image = _photograph(rng, canvas.image)
    return Scene(image, canvas.ids, tuple(canvas.kinds), tuple(canvas.parents), tuple(canvas.outlines))
