"""Pictures with objects that are easy to mark, so that a weak mask means a broken path and not a hard picture."""

from functools import cache

import cv2
import numpy as np

from demo_training.scenes import Mask
from tests.support.scenes import SceneFile, box, centre_click, largest, scene_file

SIMPLE = ("rectangle", "ellipse", "polygon")
CLEAR_PX = 20
SEEDS = (
    5034,
    5075,
    5175,
    *range(5000, 6000),
)  # the first few fit the sizes asked for; the rest, should pictures change


class Target:
    """An object of a picture, for an annotator to mark; points and boxes are in pixels of the upright picture."""

    def __init__(self, scene_file: SceneFile, index: int) -> None:
        scene = scene_file.scene
        self.data = scene_file.data
        self.size: tuple[int, int] = scene.image.shape[:2]
        self.mask = scene.masks[index]
        self.centre = centre_click(scene, index)
        self.box = box(scene, index)
        self.beside = self._beside(np.any(scene.masks, axis=0))

    def _beside(self, used: np.ndarray) -> tuple[int, int]:
        """Return a pixel of the background that is near, but not on the border."""
        rows, columns = np.nonzero(~used)
        away = np.hypot(columns - self.centre[0], rows - self.centre[1])
        reach = max(self.box[2] - self.box[0], self.box[3] - self.box[1]) / 2 + CLEAR_PX
        nearest = int(np.argmin(np.where(away > reach, away, np.inf)))
        return int(columns[nearest]), int(rows[nearest])


def is_complete(mask: Mask) -> bool:
    """Say whether a convex object shows all of itself: nothing covers it, and it is in one piece."""
    (outline, *rest), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return not rest and cv2.contourArea(outline) > 0.97 * cv2.contourArea(cv2.convexHull(outline))


def _is_easy(scene_file: SceneFile, index: int, shares: tuple[float, float]) -> bool:
    scene = scene_file.scene
    (height, width), (left, top, right, bottom) = scene.image.shape[:2], box(scene, index)
    return (
        scene.kinds[index] in SIMPLE
        and min(left, top, width - right, height - bottom) > CLEAR_PX
        and shares[0] < scene.own_mask(index).mean() < shares[1]
        and index not in scene.parents
        and scene.parents[index] < 0
        and len(scene.kinds) < 6
        and is_complete(scene.masks[index])
    )


@cache
def easy_target(size: tuple[int, int], image_format: str = "PNG", orientation: int = 1) -> Target:
    """Return the largest object of a picture, which is simple, clear of the borders and without parts."""
    for seed in SEEDS:
        candidate = scene_file(seed, size, image_format=image_format, orientation=orientation)
        if _is_easy(candidate, largest(candidate.scene), (0.08, 0.35)):
            return Target(candidate, largest(candidate.scene))
    raise AssertionError("no such scene")


@cache
def easy_pair(size: tuple[int, int]) -> tuple[Target, Target]:
    """Return two such objects of one picture."""
    for seed in SEEDS:
        candidate = scene_file(seed, size)
        easy = [k for k in range(len(candidate.scene.kinds)) if _is_easy(candidate, k, (0.03, 0.35))]
        if len(easy) >= 2:
            return Target(candidate, easy[0]), Target(candidate, easy[1])
    raise AssertionError("no such scene")


@cache
def easy_targets(size: tuple[int, int], count: int) -> tuple[tuple[Target, ...], ...]:
    """Return the easy objects, large and small, of ``count`` pictures that have some."""
    targets = []
    for seed in dict.fromkeys(SEEDS):
        candidate = scene_file(seed, size)
        easy = [k for k in range(len(candidate.scene.kinds)) if _is_easy(candidate, k, (0.01, 0.35))]
        if easy:
            targets.append(tuple(Target(candidate, k) for k in easy))
        if len(targets) == count:
            return tuple(targets)
    raise AssertionError("not so many scenes")


class TargetOfTwoParts(Target):
    """An easy object whose right third has another colour: a click on the left part finds both.

    Attributes:
        part_centre: (x, y) of the pixel farthest inside the right part.
        carved: the object without that part, bool (H, W).
    """

    def __init__(self, scene_file: SceneFile, index: int) -> None:
        super().__init__(scene_file, index)
        image, (left, _, right, _) = scene_file.scene.image.copy(), self.box
        part = self.mask.copy()
        part[:, : left + (right - left) * 65 // 100] = False
        mean = image[self.mask].mean(axis=0)
        colour = np.where(mean > 127, mean - 75, mean + 75)
        image[part] = (0.35 * image[part] + 0.65 * colour).astype(np.uint8)
        self.data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        self.carved = self.mask & ~part
        self.centre, self.part_centre = _farthest_inside(self.carved), _farthest_inside(part)


def _farthest_inside(mask: Mask) -> tuple[int, int]:
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y)


@cache
def target_of_two_parts() -> TargetOfTwoParts:
    """Return such an object, on a picture of 480 × 640."""
    candidate = scene_file(SEEDS[0], (480, 640))
    return TargetOfTwoParts(candidate, largest(candidate.scene))
