"""A shape covers the pixels whose centres lie in it, however it lies."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import PromptError
from backend.protocol import bitmask, rle
from backend.segmentation import scanline, shape_masks
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, Vector
from model.types import Mask

SIZE = (60, 80)
PERCENT = st.floats(-50, 150)


def block(top, left, bottom, right, size=SIZE):
    array = np.zeros(size, bool)
    array[top:bottom, left:right] = True
    return array


def covered(shape, size=SIZE):
    return shape_masks.mask(shape, size).to_array()


def percent(*points):
    return tuple((100 * x / SIZE[1], 100 * y / SIZE[0]) for x, y in points)


@pytest.mark.parametrize("shape", [
    Rectangle(12.5, 20, 25, 40), Rectangle(37.5, 60, -25, -40), Rectangle(37.5, 20, 30, 100 / 3, 90),
    Polygon(percent((10, 12), (30, 12), (30, 36), (10, 36))), Vector(percent((10, 36), (30, 36), (30, 12), (10, 12))),
    Polygon(percent((9.6, 11.6), (30.4, 11.6), (30.4, 36.4), (9.6, 36.4))),
], ids=str)  # fmt: skip
def test_corners_between_pixels_cover_whole_ones(shape):
    assert np.array_equal(covered(shape), block(12, 10, 36, 30))


def test_what_passes_the_border_is_cut_there():
    assert np.array_equal(covered(Rectangle(-10, -10, 1000, 30)), block(0, 0, 12, 80))
    assert not covered(Rectangle(110, 10, 20, 20)).any()
    assert not covered(Polygon(((-1e5, 10), (-1e5, 20), (-10, 15)))).any()


def test_an_area_that_an_outline_goes_around_twice_is_covered_and_one_that_it_leaves_out_is_not():
    square = percent((10, 12), (30, 12), (30, 36), (10, 36))
    assert np.array_equal(covered(Polygon(square * 2)), block(12, 10, 36, 30))
    hole = percent((15, 20), (15, 30), (25, 30), (25, 20), (15, 20))
    ring = (*square, square[0], *hole)
    assert np.array_equal(covered(Polygon(ring)), block(12, 10, 36, 30) & ~block(20, 15, 30, 25))


@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=3, max_size=8))
def test_pixels_are_those_that_the_sum_of_angles_around_their_centres_finds(points):
    corners = np.array(points) * (SIZE[1] / 100, SIZE[0] / 100)
    ys, xs = np.indices(SIZE) + 0.5
    around = corners[:, None, None, :] - np.stack((xs, ys), axis=-1)
    angles = np.arctan2(around[..., 1], around[..., 0])
    turns = np.diff(angles, axis=0, append=angles[:1])
    winding = np.rint(((turns + np.pi) % (2 * np.pi) - np.pi).sum(axis=0) / (2 * np.pi))
    differs = covered(Polygon(tuple(points))) != (winding != 0)
    lines = np.zeros(SIZE, np.uint8)  # on the outline itself, either is right
    cv2.polylines(lines, [np.rint((corners - 0.5) * 16).astype(np.int32)], True, 1, 2, shift=4)
    assert not (differs & (lines == 0)).any()


def test_a_polygon_of_many_edges_is_filled_a_few_at_a_time(monkeypatch):
    points = tuple((n % 101, 100 * (n % 2)) for n in range(300))
    whole = covered(Polygon(points))
    monkeypatch.setattr(scanline, "CROSSINGS_AT_ONCE", 70)
    assert whole.any()
    assert np.array_equal(covered(Polygon(points)), whole)


@pytest.mark.parametrize("rotation", [0, 30, 90, 200])
def test_an_ellipse_covers_what_its_equation_says(rotation):
    ys, xs = np.indices(SIZE) + 0.5
    turn = np.radians(rotation)
    along, across = xs - 40, ys - 30
    u, v = along * np.cos(turn) + across * np.sin(turn), across * np.cos(turn) - along * np.sin(turn)
    level = (u / 20) ** 2 + (v / 9) ** 2
    area = covered(Ellipse(50, 50, 25, 15, rotation))
    assert area[level < 0.999].all()
    assert not area[level > 1.001].any()


def test_painted_masks_are_as_they_were_painted():
    mask = np.random.default_rng(0).random(SIZE) < 0.3
    assert np.array_equal(covered(Brush(rle.encode(Mask.from_array(mask)))), mask)
    assert np.array_equal(covered(Bitmask(bitmask.encode(Mask.from_array(mask)))), mask)


@pytest.mark.parametrize(
    "shape", [KeyPoint(5, 5), Vector(((1, 1), (9, 9), (1, 9)), closed=False), Vector(()), Rectangle(1, 1, 1e9, 1)]
)
def test_what_is_no_area_is_refused(shape):
    with pytest.raises(PromptError):
        shape_masks.mask(shape, SIZE)
    with pytest.raises(PromptError):
        shape_masks.rings(shape, SIZE)
