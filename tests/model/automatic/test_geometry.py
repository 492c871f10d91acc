"""Grids, crops, boxes and small regions are what their definitions say, on every picture."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import measure

from model.automatic.boxes import is_near_crop_edge, non_maximum_suppression
from model.automatic.grids import crops, point_grid
from model.automatic.small_regions import without_small_regions
from model.types import Mask
from tests.support import costs

relaxed = settings(deadline=None)
sides = st.integers(1, 3000)
boxes = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def test_a_grid_has_the_centres_of_equal_cells_row_by_row():
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert point_grid(32).shape == (1024, 2)
    np.testing.assert_allclose(point_grid(1), [[0.5, 0.5]])


@relaxed
@given(sides, sides, st.integers(0, 3), st.floats(0, 1))
def test_the_crops_of_each_layer_lie_in_the_picture_and_cover_it(height, width, layers, overlap_ratio):
    crop_boxes = crops((height, width), layers, overlap_ratio)
    assert (crop_boxes[0].box, crop_boxes[0].layer) == ((0, 0, width, height), 0)
    for layer in range(layers + 1):
        of_layer = [crop.box for crop in crop_boxes if crop.layer == layer]
        assert len(of_layer) <= 4**layer
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in of_layer)
        for axis, side in ((0, width), (1, height)):
            spans = sorted({(box[axis], box[axis + 2]) for box in of_layer})
            assert spans[0][0] == 0
            assert max(end for _, end in spans) == side
            assert all(start <= before[1] for before, (start, _) in pairwise(spans))


def test_the_crops_of_a_photo_overlap_by_the_ratio():
    assert [crop.box for crop in crops((600, 900), 1, 0.1)] == [
        (0, 0, 900, 600),
        (0, 0, 480, 330),
        (0, 270, 480, 600),
        (420, 0, 900, 330),
        (420, 270, 900, 600),
    ]


def iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (sum(areas) - common)


@relaxed
@given(st.lists(st.tuples(boxes, st.floats(0, 1, width=32)), max_size=25), st.floats(0.05, 0.95))
def test_of_boxes_that_overlap_the_best_stays(marked, threshold):
    marked_boxes, scores = [box for box, _ in marked], [score for _, score in marked]
    stay = non_maximum_suppression(marked_boxes, scores, threshold)
    assert [scores[index] for index in stay] == sorted((scores[index] for index in stay), reverse=True)
    for index in range(len(marked)):
        rivals = [
            kept_index
            for kept_index in stay
            if kept_index != index and (scores[kept_index], -kept_index) > (scores[index], -index)
        ]
        overlaps = [iou(marked_boxes[index], marked_boxes[kept_index]) for kept_index in rivals]
        if index in stay:
            assert all(overlap <= threshold + 1e-6 for overlap in overlaps)
        else:
            assert any(overlap > threshold - 1e-6 for overlap in overlaps)


def test_equal_scores_keep_their_order():
    apart = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)]
    assert non_maximum_suppression(apart, [0.5, 0.5, 0.5], 0.7) == [0, 1, 2]
    same = [(0, 0, 10, 10)] * 3
    assert non_maximum_suppression(same, [0.5, 0.5, 0.5], 0.7) == [0]
    assert non_maximum_suppression(same, [0.5, 0.6, 0.5], 1.0) == [1, 0, 2]
    assert non_maximum_suppression([], [], 0.7) == []


def test_of_boxes_without_an_area_equal_ones_go():
    line, dot, wide = (3, 3, 3, 9), (4, 4, 4, 4), (0, 0, 9, 9)
    assert non_maximum_suppression([line, dot, line, wide, dot], [0.9, 0.8, 0.7, 0.6, 0.5], 0.1) == [0, 1, 3]


@pytest.mark.parametrize(
    ("box", "is_near"),
    [
        ((130, 130, 250, 250), False),
        ((120, 130, 250, 250), True),  # 20 pixels from the left edge of the crop
        ((121, 130, 250, 250), False),
        ((130, 5, 250, 250), False),  # the crop's upper edge is the picture's
        ((130, 130, 290, 250), True),
        ((130, 130, 250, 395), False),  # as is its lower edge
    ],
)
def test_a_box_that_ends_at_an_edge_within_the_picture_was_cut_off(box, is_near):
    assert is_near_crop_edge(box, (100, 0, 300, 400), (400, 600)) == is_near


pictures = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays(np.bool_, shape))


def over_the_whole_picture(mask, min_area):
    """segment-anything's definition, with another library's labels."""
    filled = mask.copy()
    for region in measure.regionprops(measure.label(~mask, connectivity=2)):
        if region.area < min_area:
            filled[tuple(region.coords.T)] = True
    islands = measure.regionprops(measure.label(filled, connectivity=2))
    largest = max((region.area for region in islands), default=0)
    if largest < min_area:  # then the largest stays, whichever of equal ones
        return filled, largest
    for region in islands:
        if region.area < min_area:
            filled[tuple(region.coords.T)] = False
    return filled, None


@relaxed
@given(pictures, st.integers(1, 60))
def test_small_regions_go_as_if_the_whole_picture_was_looked_at(mask, min_area):
    cleaned, changed = without_small_regions(Mask.from_array(mask), min_area)
    if not mask.any():
        assert (cleaned.area, changed) == (0, False)
        return
    expected, largest = over_the_whole_picture(mask, min_area)
    if largest is None:
        np.testing.assert_array_equal(cleaned.to_array(), expected)
    else:
        assert cleaned.area == largest
        assert not (cleaned.to_array() & ~expected).any()
    assert cleaned.original_size == mask.shape
    if not changed:
        np.testing.assert_array_equal(cleaned.to_array(), mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_small_regions_of_noise_are_found_in_the_time_of_any_mask(share):
    noise = Mask.from_array(np.random.default_rng(0).random((1500, 1500)) < share)
    with costs.at_most(cpu_s=2, of_process=True):  # a minute where every border was followed
        _, changed = without_small_regions(noise, 50)
    assert changed


def test_a_mask_without_small_regions_is_returned_as_it_is():
    mask = np.zeros((100, 200), dtype=bool)
    mask[20:60, 30:90] = True
    mask[30:40, 40:60] = False
    given_mask = Mask.from_array(mask)
    assert without_small_regions(given_mask, 200) == (given_mask, False)
    assert without_small_regions(given_mask, 201)[0].area == 40 * 60


def test_a_small_mask_in_a_photo_too_large_for_memory_is_cleaned_up():
    two_lines = np.eye(50, dtype=bool) | np.eye(50, k=3, dtype=bool)
    cleaned, changed = without_small_regions(Mask(two_lines, (1_000_000, 2_000_000), (4_000_000, 4_000_000)), 48)
    assert changed
    assert cleaned.box == (1_000_000, 2_000_000, 1_000_050, 2_000_050)
    np.testing.assert_array_equal(cleaned.crop, np.eye(50, dtype=bool))
