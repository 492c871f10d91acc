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
    """An object of a picture that is to be marked; points and boxes are in pixels of the upright picture."""

    def __init__(self, made: SceneFile, index: int) -> None:
        scene = made.scene
        self.data = made.data
        self.size: tuple[int, int] = scene.image.shape[:2]
        self.mask = scene.masks[index]
        self.centre = centre_click(scene, index)
        self.box = box(scene, index)
        self.beside = self._beside(np.any(scene.masks, axis=0))

    def _beside(self, taken: np.ndarray) -> tuple[int, int]:
        """Return a pixel of the background that is near, but not on the border."""
        rows, columns = np.nonzero(~taken)
        away = np.hypot(columns - self.centre[0], rows - self.centre[1])
        reach = max(self.box[2] - self.box[0], self.box[3] - self.box[1]) / 2 + CLEAR_PX
        nearest = int(np.argmin(np.where(away > reach, away, np.inf)))
        return int(columns[nearest]), int(rows[nearest])


def is_complete(mask: Mask) -> bool:
    """Say whether a convex object shows all of itself: nothing covers it, and it is in one piece."""
    (outline, *rest), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return not rest and cv2.contourArea(outline) > 0.97 * cv2.contourArea(cv2.convexHull(outline))


def _is_easy(made: SceneFile, index: int, shares: tuple[float, float]) -> bool:
    scene = made.scene
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
        made = scene_file(seed, size, image_format=image_format, orientation=orientation)
        if _is_easy(made, largest(made.scene), (0.08, 0.35)):
            return Target(made, largest(made.scene))
    raise AssertionError("no such scene")


@cache
def easy_pair(size: tuple[int, int]) -> tuple[Target, Target]:
    """Return two such objects of one picture."""
    for seed in SEEDS:
        made = scene_file(seed, size)
        easy = [k for k in range(len(made.scene.kinds)) if _is_easy(made, k, (0.03, 0.35))]
        if len(easy) >= 2:
            return Target(made, easy[0]), Target(made, easy[1])
    raise AssertionError("no such scene")


@cache
def easy_targets(size: tuple[int, int], count: int) -> tuple[tuple[Target, ...], ...]:
    """Return the easy objects, large and small, of ``count`` pictures that have some."""
    found = []
    for seed in dict.fromkeys(SEEDS):
        made = scene_file(seed, size)
        easy = [k for k in range(len(made.scene.kinds)) if _is_easy(made, k, (0.01, 0.35))]
        if easy:
            found.append(tuple(Target(made, k) for k in easy))
        if len(found) == count:
            return tuple(found)
    raise AssertionError("not so many scenes")
