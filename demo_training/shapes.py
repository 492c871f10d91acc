"""Outlines of the demo scenes' objects: closed contours around the origin, filled by the even-odd rule."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Contours = list[Points]
Rng = np.random.Generator


def _circle(count: int = 48, radius: float = 1.0) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polar(radius: NDArray[np.floating], angle: NDArray[np.floating]) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _tube(line: Points, half_width: float) -> Points:
    """Return the outline of a stroke of constant width along an open line."""
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.concatenate([line + half_width * normal, (line - half_width * normal)[::-1]])


def _ellipse(rng: Rng) -> Contours:
    return [_circle() * [1.0, rng.uniform(0.35, 1.0)]]


def _rectangle(rng: Rng) -> Contours:
    width, height = 1.0, rng.uniform(0.3, 1.0)
    corner = rng.uniform(0, 0.5) * height if rng.random() < 0.5 else 1e-3
    arc = _circle(32, corner).reshape(4, 8, 2)
    centres = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width - corner, height - corner]
    return [(arc + centres[:, None]).reshape(-1, 2)]


def _polygon(rng: Rng) -> Contours:
    count = int(rng.integers(3, 9))
    angle = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * np.pi / count
    return [_polar(rng.uniform(0.55, 1.0, count), angle)]


def _blob(rng: Rng) -> Contours:
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 7):
        radius += rng.uniform(0, 0.5 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return [_polar(radius, angle) * [1.0, rng.uniform(0.5, 1.0)]]


def _ring(rng: Rng) -> Contours:
    outer = _circle() * [1.0, rng.uniform(0.6, 1.0)] if rng.random() < 0.7 else _rectangle(rng)[0]
    return [outer, (outer * rng.uniform(0.4, 0.75))[::-1]]


def _star(rng: Rng) -> Contours:
    count = int(rng.integers(4, 10))
    radius = np.where(np.arange(2 * count) % 2, rng.uniform(0.35, 0.7), 1.0)
    return [_polar(radius, np.arange(2 * count) * np.pi / count)]


def _glyph(text: str, font: int, thickness: int) -> Contours:
    canvas = np.zeros((160, 160), np.uint8)
    cv2.putText(canvas, text, (30, 120), font, 4.0, 255, thickness, cv2.LINE_AA)
    outlines, _ = cv2.findContours((canvas > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = [c[:, 0].astype(np.float64) for c in outlines if len(c) > 8]
    every = np.concatenate(contours)
    middle, reach = (every.max(0) + every.min(0)) / 2, np.ptp(every, axis=0).max() / 2
    return [(c - middle) / reach for c in contours]


def _letter(rng: Rng) -> Contours:
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    return _glyph(str(rng.choice(list("ABCDEFGHJKLMNOPRSTUVXYZ"))), font, int(rng.integers(14, 24)))


def _thin(rng: Rng) -> Contours:
    along = np.linspace(-1, 1, 40)
    bend = rng.uniform(-0.6, 0.6) * along**2 + rng.uniform(0, 0.15) * np.sin(along * rng.uniform(2, 6))
    return [_tube(np.stack([along, bend], axis=1), rng.uniform(0.05, 0.14))]


def _crescent(rng: Rng) -> Contours:
    half = np.linspace(-np.pi / 2, np.pi / 2, 32)
    inner = np.stack([rng.uniform(0.1, 0.55) * np.cos(half), np.sin(half)], axis=1)
    return [np.concatenate([_polar(np.ones(32), half), inner[::-1]])]


def _cross(rng: Rng) -> Contours:
    a = rng.uniform(0.2, 0.45)
    arm = np.array([[a, a], [a, 1], [-a, 1], [-a, a]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate([arm @ turn.T for turn in turns])]


def _heart(rng: Rng) -> Contours:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([16 * np.sin(t), -y], axis=1) / 17 * [1.0, rng.uniform(0.8, 1.1)]]


def _gear(rng: Rng) -> Contours:
    count = int(rng.integers(6, 13))
    tooth = np.tile(np.repeat([1.0, rng.uniform(0.65, 0.85)], 4), count)
    body = _polar(tooth, np.linspace(0, 2 * np.pi, len(tooth), endpoint=False))
    return [body, _circle(radius=rng.uniform(0.15, 0.4))] if rng.random() < 0.5 else [body]


def _arrow(rng: Rng) -> Contours:
    shaft, head = rng.uniform(0.12, 0.3), rng.uniform(0.0, 0.4)
    upper = [[-1, shaft], [head, shaft], [head, 0.65], [1, 0]]
    lower = [[head, -0.65], [head, -shaft], [-1, -shaft]]
    return [np.array(upper + lower, dtype=np.float64)]


def _horseshoe(rng: Rng) -> Contours:
    angle = np.linspace(0, rng.uniform(1.1, 1.7) * np.pi, 48)
    return [_tube(_polar(np.full(48, 0.8), angle), rng.uniform(0.15, 0.28))]


def _cloud(rng: Rng) -> Contours:
    count = int(rng.integers(4, 8))
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 0.65 + rng.uniform(0.2, 0.35) * np.abs(np.sin(count * angle / 2))
    return [_polar(radius, angle) * [1.0, rng.uniform(0.55, 0.85)]]


def _digit(rng: Rng) -> Contours:
    return _glyph(str(rng.integers(2, 10)), cv2.FONT_HERSHEY_TRIPLEX, int(rng.integers(14, 22)))


TRAIN_SHAPES: dict[str, Callable[[Rng], Contours]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "polygon": _polygon,
    "blob": _blob,
    "ring": _ring,
    "star": _star,
    "letter": _letter,
    "thin": _thin,
}
HELD_OUT_SHAPES: dict[str, Callable[[Rng], Contours]] = {
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "gear": _gear,
    "arrow": _arrow,
    "horseshoe": _horseshoe,
    "cloud": _cloud,
    "digit": _digit,
}


OUTLINES = (*TRAIN_SHAPES, *HELD_OUT_SHAPES, "circle", "square", "triangle")
"""What `outline_name` returns."""

ROUND = 0.85
"""The least ratio of the sides of a circle's or a square's frame."""


def outline_name(kind: str, contours: Contours) -> str:
    """Return the name of an outline: of its kind, or ``circle``, ``square`` or ``triangle`` where it is one."""
    sides = np.ptp(contours[0], axis=0)
    is_even = sides.min() >= ROUND * sides.max()
    if kind == "polygon" and len(contours[0]) == 3:
        return "triangle"
    return {"ellipse": "circle", "rectangle": "square"}.get(kind, kind) if is_even else kind


def enclosed_area(contours: Contours) -> float:
    """Return the area between the outermost contour and its holes (contours that do not cross)."""
    areas = [float(cv2.contourArea(c.astype(np.float32))) for c in contours]
    return max(2 * max(areas) - sum(areas), 1e-6)
