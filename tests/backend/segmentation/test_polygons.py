"""From masks to rings: they decode to their masks, never cross themselves, and have as many corners as asked for."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backend.segmentation import polygons
from backend.shapes import DEFAULT_DETAIL, MOST_CORNERS, Detail
from model.types import Mask
from tests.support import costs
from tests.support.outlines import blob, covered, disc, iou, wavy

bool_arrays = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
masks = st.one_of(bool_arrays, st.builds(blob, st.just((40, 50)), st.integers(0, 10**6), st.floats(0.5, 6)))
details = st.builds(
    Detail,
    tolerance=st.none() | st.floats(0, 60),
    corners=st.none() | st.integers(4, 60),
    min_area=st.none() | st.floats(0, 100),
)
EVERY_CORNER = Detail(corners=100_000)


def rings(array: np.ndarray, detail: Detail = DEFAULT_DETAIL) -> tuple[polygons.Ring, ...]:
    return polygons.rings(Mask.from_array(array), detail)


def agreement(array: np.ndarray, detail: Detail = DEFAULT_DETAIL) -> float:
    """Return the IoU of a mask and its rings."""
    return iou(covered(rings(array, detail), array.shape), array)


# EDGE CASE 36


@pytest.mark.parametrize("radius", [0.8, 1, 1.6, 2.5, 4, 7, 12, 30, 100])
def test_a_discs_polygon_decodes_to_it(radius: float) -> None:
    array = disc((220, 260), radius)
    assert len(rings(array)) == 1
    assert agreement(array) >= 0.995


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("smoothness", [4, 12, 30])
def test_a_polygon_decodes_to_its_object_whatever_its_border(seed: int, smoothness: float) -> None:
    assert agreement(blob((240, 320), seed, smoothness), EVERY_CORNER) >= 0.995


@pytest.mark.parametrize(
    "name", ["one pixel", "one row", "diagonal", "corners touch", "cross", "whole image", "border", "comb"]
)
def test_a_thin_or_touching_mask_has_a_polygon_too(name: str) -> None:
    array = np.zeros((40, 50), dtype=bool)
    match name:
        case "one pixel":
            array[20, 30] = True
        case "one row":
            array[20, 5:40] = True
        case "diagonal":
            array[np.arange(30), np.arange(30)] = True
        case "corners touch":
            array[5:15, 5:15] = array[15:25, 15:25] = True
        case "cross":
            array[20, 5:40] = array[5:35, 20] = True
        case "whole image":
            array[:] = True
        case "border":
            array[:12] = array[:, :9] = True
        case "comb":
            array[::4] = True
            array[:, 0] = True
    assert rings(array)
    assert agreement(array) >= 0.98


def test_a_ring_is_one_polygon_around_its_hole() -> None:
    array = disc((300, 300), 120, 70)
    assert len(rings(array)) == 1
    assert not covered(rings(array), array.shape)[150, 150]
    assert agreement(array) >= 0.995


def test_several_holes_are_gone_around() -> None:
    array = np.zeros((100, 100), dtype=bool)
    array[10:90, 10:90] = True
    array[30:50, 30:50] = array[30:50, 55:70] = array[60:70, 20:80] = False
    assert len(rings(array)) == 1
    assert agreement(array) >= 0.995


def test_a_small_ring_loses_no_row_to_the_cut_into_its_hole() -> None:
    assert agreement(disc((40, 40), 12, 4)) >= 0.995


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    array = disc((300, 300), 140, 100) | disc((300, 300), 60)
    assert len(rings(array)) == 2
    assert agreement(array) >= 0.995


def test_specks_are_dropped_and_pinholes_filled() -> None:
    array = disc((300, 300), 100)
    array[10, 10] = True
    array[150, 150] = False
    assert len(rings(array)) == 1
    assert covered(rings(array), array.shape)[150, 150]


def test_specks_and_small_holes_stay_with_a_min_area_of_nothing() -> None:
    array = disc((300, 300), 100)
    array[8:10, 8:10] = True
    array[148:153, 148:153] = False
    assert len(rings(array, Detail(min_area=0))) == 2
    assert not covered(rings(array, Detail(min_area=0)), array.shape)[150, 150]
    assert len(rings(array)) == 1
    assert covered(rings(array), array.shape)[150, 150]


def test_the_largest_part_comes_first() -> None:
    array = np.zeros((60, 80), dtype=bool)
    array[2:10, 2:10] = array[20:50, 20:70] = True
    sizes = [shapely.Polygon(ring).area for ring in rings(array)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_smooth_object_takes_few_corners() -> None:
    [ring] = rings(disc((600, 800), 200))
    assert len(ring) < 60


def test_an_empty_mask_has_no_outline() -> None:
    assert rings(np.zeros((6, 8), dtype=bool)) == ()


def test_noise_gives_a_bounded_number_of_parts() -> None:
    random = np.random.default_rng(0)
    for density in (0.02, 0.5):
        noise = random.random((200, 200)) < density
        assert 0 < len(rings(noise)) <= polygons.MOST_PARTS


# Cost


def noise(side: int, share: float) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)) < share


def checkers(side: int) -> np.ndarray:
    return np.indices((side, side)).sum(axis=0) % 2 == 0


@pytest.mark.parametrize("detail", [DEFAULT_DETAIL, Detail(0, 100_000, 0)], ids=["default", "every detail"])
@pytest.mark.parametrize(
    "array",
    [noise(1500, 0.5), blob((1500, 1500), 1, 2), checkers(1500)],
    ids=["noise", "labyrinth", "checkers"],
)
def test_a_mask_of_noise_takes_no_longer_than_a_large_object(array: np.ndarray, detail: Detail) -> None:
    with costs.at_most(cpu_s=4, of_process=True):  # a minute and more where every border was followed
        outlines = rings(array, detail)
    assert 0 < len(outlines) <= polygons.MOST_PARTS


def test_a_mask_with_many_long_borders_is_followed_closely() -> None:
    """A row crosses 64 bars, but there are few corners."""
    array = np.zeros((2000, 640), dtype=bool)
    array[:, ::10] = array[:, 1::10] = array[:, 2::10] = array[:10] = True
    assert len(rings(array)) == 1
    assert agreement(array) >= 0.995


@pytest.mark.parametrize("detail", [DEFAULT_DETAIL, Detail(min_area=0)], ids=str)
def test_an_object_in_noise_keeps_its_outline(detail: Detail) -> None:
    whole = disc((1200, 1200), 400)
    assert iou(covered(rings(whole ^ noise(1200, 0.08), detail)[:1], whole.shape), whole) >= 0.98


# Detail


@settings(deadline=None)
@given(masks, details)
def test_any_ring_is_simple_inside_the_image_and_has_no_more_corners_than_asked_for(
    array: np.ndarray, detail: Detail
) -> None:
    outlines = rings(array, detail)
    assert bool(outlines) == bool(array.any())
    for ring in outlines:
        assert 3 <= len(ring) <= (detail.corners or MOST_CORNERS)
        assert (ring >= 0).all()
        assert (ring <= array.shape[::-1]).all()
        assert shapely.LinearRing(ring).is_simple
        assert not np.array_equal(ring[0], ring[-1])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), unevenness=st.floats(0, 0.2), side=st.integers(60, 300), waves=st.integers(2, 40))
def test_by_default_a_ring_loses_at_most_half_a_percent_of_its_mask(
    seed: int, unevenness: float, side: int, waves: int
) -> None:
    array = wavy((side, side + side // 3), 0.5, waves, unevenness, seed)
    if len(rings(array)[0]) < MOST_CORNERS - 40:  # else the limit of corners may have come first
        assert agreement(array, Detail(min_area=0)) >= 0.995


def test_a_ragged_object_has_400_corners_at_most() -> None:
    array = wavy((900, 1200), 0.6, 300, 0.06, 3)
    assert len(rings(array, EVERY_CORNER)[0]) > 1.5 * MOST_CORNERS
    assert 0.9 * MOST_CORNERS <= len(rings(array)[0]) <= MOST_CORNERS
    assert agreement(array) >= 0.98


@pytest.mark.parametrize("corners", [4, 8, 20, 50, 120])
def test_a_ring_has_about_as_many_corners_as_it_may_have(corners: int) -> None:
    [ring] = rings(wavy((900, 1200), 0.6, 300, 0.06, 3), Detail(corners=corners))
    assert 0.8 * corners <= len(ring) <= corners


@pytest.mark.parametrize("tolerance", [0.5, 1, 2, 4, 8, 16])
def test_a_ring_keeps_to_the_tolerance(tolerance: float) -> None:
    array = wavy((900, 1200), 0.6)
    [exact], [ring] = rings(array, Detail(tolerance=0, corners=100_000)), rings(array, Detail(tolerance=tolerance))
    # Besides the tolerance: half of it again where the whole ring is widened to keep the area, and a mitred corner.
    assert shapely.LinearRing(exact).hausdorff_distance(shapely.LinearRing(ring)) <= 2 * tolerance + 0.5


def test_a_larger_tolerance_takes_fewer_corners() -> None:
    array = wavy((900, 1200), 0.6)
    counts = [len(rings(array, Detail(tolerance=tolerance, corners=100_000))[0]) for tolerance in (0, 1, 2, 4, 8)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10 * counts[-1]


def test_a_ring_with_few_corners_goes_around_no_hole() -> None:
    [ring] = rings(disc((300, 300), 120, 70), Detail(corners=4))
    assert shapely.Polygon(ring).contains(shapely.Point(150, 150))
