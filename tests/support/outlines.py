"""Masks with borders of every kind, and the pixels inside polygons, for tests and figures of outlines."""

import math
from collections.abc import Iterable

import cv2
import numpy as np

BoolArray = np.ndarray


def blob(size: tuple[int, int], seed: int, smoothness: float) -> BoolArray:
    """Return one connected object with an uneven border, holes included where the noise makes them."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(size).astype(np.float32), (0, 0), smoothness)
    area = (noise > np.median(noise)).astype(np.uint8)
    _, marks, stats, _ = cv2.connectedComponentsWithStats(area, connectivity=4)
    return marks == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def disc(size: tuple[int, int], radius: float, hole: float = 0.0) -> BoolArray:
    """Return a disc in the middle of an image, or a ring where ``hole`` is the inner radius."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2 + 0.5, columns - size[1] / 2 + 0.5)
    return (distance < radius) & (distance >= hole)


def wavy(size: tuple[int, int], share: float, waves: int = 8, unevenness: float = 0.1, seed: int = 1) -> BoolArray:
    """Return an object of one part whose radius is about ``share`` of the image's half height and width.

    Its border has waves of 2 to ``waves`` periods: few make it smooth, hundreds ragged.
    """
    random = np.random.default_rng(seed)
    angles = np.linspace(-np.pi, np.pi, 4096)
    radius = np.full_like(angles, share)
    for period in range(2, waves + 1):
        radius += share * random.normal() * unevenness / period**0.7 * np.cos(period * angles + random.uniform(0, 6.28))
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return np.hypot(y[:, None], x) < np.interp(np.arctan2(y[:, None], x), angles, radius)


def filled(points: Iterable[tuple[float, float]], size: tuple[int, int]) -> BoolArray:
    """Return the pixels whose centres lie in a ring given in percent."""
    height, width = size
    x1, y1 = (np.array(list(points)) * (width / 100, height / 100)).T
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    mask = np.zeros(size, dtype=bool)
    for row in range(height):
        crossing = (y1 <= row + 0.5) != (y2 <= row + 0.5)
        steps = (row + 0.5 - y1[crossing]) / (y2[crossing] - y1[crossing])
        for start, end in np.sort(x1[crossing] + steps * (x2[crossing] - x1[crossing])).reshape(-1, 2):
            mask[row, math.ceil(start - 0.5) : max(0, math.ceil(end - 0.5))] ^= True
    return mask


def covered(rings: Iterable[np.ndarray], size: tuple[int, int]) -> BoolArray:
    """Return the pixels whose centres lie in any of some rings (N, 2) in pixels."""
    mask = np.zeros(size, dtype=bool)
    for ring in rings:
        mask |= filled(ring * (100 / size[1], 100 / size[0]), size)
    return mask


def iou(first: BoolArray, second: BoolArray) -> float:
    """Return the intersection over union."""
    return float(np.count_nonzero(first & second) / np.count_nonzero(first | second))
