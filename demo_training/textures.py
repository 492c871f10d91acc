"""Patterns of the demo scenes: fields in 0..1 that mix two colours over a surface."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Rng = np.random.Generator


def _grid(height: int, width: int, angle: float) -> tuple[Field, Field]:
    """Return coordinates in pixels along and across a direction."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def _period(rng: Rng, unit: float) -> float:
    """Return a wavelength in pixels: between 2 and 12 hundredths of the image's longest side."""
    return float(np.exp(rng.uniform(np.log(0.02), np.log(0.12))) * unit)


def _noise(rng: Rng, height: int, width: int, cell: float) -> Field:
    small = rng.random((max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)), dtype=np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _flat(rng: Rng, height: int, width: int, unit: float) -> Field:
    return np.zeros((height, width), np.float32)


def _gradient(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, _ = _grid(height, width, rng.uniform(0, 2 * np.pi))
    low, high = along.min(), along.max()
    return np.asarray((along - low) / max(high - low, 1e-3), np.float32)


def _clouds(rng: Rng, height: int, width: int, unit: float) -> Field:
    cell = _period(rng, unit) * 2
    coarse, fine = _noise(rng, height, width, cell), _noise(rng, height, width, cell / 2.5)
    return np.asarray(0.65 * coarse + 0.35 * fine, np.float32)


def _grain(rng: Rng, height: int, width: int, unit: float) -> Field:
    return _noise(rng, height, width, max(1.0, 0.004 * unit))


def _stripes(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, _ = _grid(height, width, rng.uniform(0, np.pi))
    wave = np.sin(along * np.float32(2 * np.pi / _period(rng, unit)))
    return np.asarray(np.clip(wave * rng.choice([1.0, 8.0]) / 2 + 0.5, 0, 1), np.float32)


def _blotches(rng: Rng, height: int, width: int, unit: float) -> Field:
    return np.clip((_noise(rng, height, width, _period(rng, unit)) - 0.5) * 6 + 0.5, 0, 1)


def _hatch(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, across = _grid(height, width, rng.uniform(0, np.pi))
    step, share = _period(rng, unit), rng.uniform(0.15, 0.35)
    lines = (along % step < share * step) | (across % step < share * step)
    return lines.astype(np.float32)


def _checker(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, across = _grid(height, width, rng.uniform(0, np.pi))
    step = _period(rng, unit)
    return ((along // step + across // step) % 2).astype(np.float32)


def _dots(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, across = _grid(height, width, rng.uniform(0, np.pi))
    step, radius = _period(rng, unit), rng.uniform(0.2, 0.4)
    inside = (along / step % 1 - 0.5) ** 2 + (across / step % 1 - 0.5) ** 2 < radius**2
    return inside.astype(np.float32)


def _rings(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, across = _grid(height, width, 0.0)
    away = np.hypot(along - rng.uniform(0, width), across - rng.uniform(0, height))
    return np.asarray(np.sin(away * (2 * np.pi / _period(rng, unit))) / 2 + 0.5, np.float32)


def _marble(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, _ = _grid(height, width, rng.uniform(0, np.pi))
    step = _period(rng, unit)
    warp = _noise(rng, height, width, 2 * step) * 9
    return np.asarray(np.abs(np.sin(along * (np.pi / step) + warp)), np.float32)


def _bricks(rng: Rng, height: int, width: int, unit: float) -> Field:
    along, across = _grid(height, width, rng.uniform(0, np.pi))
    step = _period(rng, unit)
    row = across // step
    gaps = (across % step < 0.15 * step) | ((along + row % 2 * step) % (2 * step) < 0.15 * step)
    return gaps.astype(np.float32)


TRAIN_TEXTURES: dict[str, Callable[[Rng, int, int, float], Field]] = {
    "flat": _flat,
    "gradient": _gradient,
    "clouds": _clouds,
    "grain": _grain,
    "stripes": _stripes,
    "blotches": _blotches,
    "hatch": _hatch,
}
HELD_OUT_TEXTURES: dict[str, Callable[[Rng, int, int, float], Field]] = {
    "checker": _checker,
    "dots": _dots,
    "rings": _rings,
    "marble": _marble,
    "bricks": _bricks,
}
