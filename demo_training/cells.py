"""Scenes that the demo model is bad at: pale cells that touch, each with a dark nucleus, to fine-tune it on.

A mask is the whole cell. The model has learned that what stands out is an object, so a click in the middle of a cell
gives it the nucleus. A scene is a pure function of its seed and size.
"""

import cv2
import numpy as np

from demo_training.scenes import Image, Mask, Rng, Scene

LARGE, SMALL = "large cell", "small cell"
FEWEST, MOST = 5, 8
TRIES = 60


def render_cells(seed: int, size: tuple[int, int] = (480, 640)) -> Scene:
    """Return the scene of a seed: 5 to 8 cells, of which none covers another by more than a fifth.

    Args:
        seed: what decides everything about the scene, together with the size.
        size: (height, width) in pixels.
    """
    rng = np.random.default_rng([seed, *size, 77])
    height, width = size
    picture = np.full((height, width, 3), rng.uniform(175, 235, 3), np.float32)
    picture += 6 * _smooth(rng, size, 0.15)[..., None]
    ids, kinds = np.zeros(size, np.uint8), list[str]()
    tint, wanted = rng.uniform(-16, -6, 3), int(rng.integers(FEWEST, MOST + 1))
    for _ in range(TRIES):
        if len(kinds) == wanted:
            break
        radius = rng.uniform(0.07, 0.16) * min(size) * 1.3
        centre = rng.uniform([0.5 * radius, 0.5 * radius], [width - 0.5 * radius, height - 0.5 * radius])
        body = _blob(rng, size, centre, radius)
        if np.count_nonzero(body & (ids > 0)) > 0.2 * np.count_nonzero(body):
            continue
        body &= ids == 0
        _paint(rng, picture, body, centre, radius, tint)
        kinds.append(LARGE if radius > 0.14 * min(size) else SMALL)
        ids[body] = len(kinds)
    noisy = picture + rng.uniform(2, 6) * rng.standard_normal(picture.shape, dtype=np.float32)
    return Scene(np.clip(noisy, 0, 255).astype(np.uint8), ids, tuple(kinds), (-1,) * len(kinds))


def _paint(rng: Rng, picture: Image, body: Mask, centre: np.ndarray, radius: float, tint: np.ndarray) -> None:
    """Paint a cell: a pale body with a thin membrane, and in it a dark nucleus and a few granules."""
    size = body.shape
    picture[body] += tint + 5 * _smooth(rng, size, 0.03)[body][:, None]
    contours, _ = cv2.findContours(body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = np.zeros(size, np.uint8)
    cv2.drawContours(line, contours, -1, 255, max(1, round(radius / 30)), cv2.LINE_AA)
    picture -= (line / 255.0 * rng.uniform(12, 28))[..., None].astype(np.float32)
    inner = _blob(rng, size, centre + rng.uniform(-0.2, 0.2, 2) * radius, radius * rng.uniform(0.35, 0.5)) & body
    picture[inner] += rng.uniform(-110, -60, 3).astype(np.float32)
    for _ in range(int(rng.integers(0, 6))):
        position = centre + rng.uniform(-0.6, 0.6, 2) * radius
        grain = _blob(rng, size, position, radius * 0.07) & body
        picture[grain] -= 40


def _blob(rng: Rng, size: tuple[int, ...], centre: np.ndarray, radius: float) -> Mask:
    """Return the pixels (H, W) of a rounded shape around (x, y)."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    reach = 1 + sum(rng.uniform(-0.2, 0.2) * np.cos(n * angles + rng.uniform(0, 2 * np.pi)) for n in (1, 2, 3, 4, 5))
    corners = centre + radius * reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    canvas = np.zeros(size[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(np.bool_)


def _smooth(rng: Rng, size: tuple[int, ...], scale: float) -> np.ndarray:
    """Return a smooth random field (H, W) of unit variance or so."""
    side = max(2, round(1 / scale))
    field = rng.standard_normal((side, side)).astype(np.float32)
    return cv2.resize(field, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
