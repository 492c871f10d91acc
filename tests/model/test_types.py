"""The values that pass through the model refuse what they cannot be, saying what was expected and what came."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from model.types import Embedding, Mask, Masks, Prompt, as_prompts

POINT = {"point_coords": [[1, 2]], "point_labels": [1]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected points, a box or a mask, got none"),
        ({"point_coords": [[1, 2]]}, "expected both or neither, got one"),
        ({"point_labels": [1]}, "expected both or neither, got one"),
        ({"point_coords": [1, 2], "point_labels": [1]}, r"expected shape \(N, 2\), got \(2,\)"),
        ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"expected shape \(N, 2\), got \(1, 3\)"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": []}, "expected at least one point, got none"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, r"point_labels: expected shape \(1,\), got \(2,\)"),
        ({"point_coords": [[1, 2]], "point_labels": [2]}, r"expected 0 .* or 1 .*, got \[2\]"),
        ({"point_coords": [[1, 2]], "point_labels": [0.5]}, r"expected 0 .* or 1 .*, got \[0.5\]"),
        ({"point_coords": [[1, 2]], "point_labels": ["1"]}, "expected 0 .* or 1 .*, got"),
        ({"point_coords": [[1, np.nan]], "point_labels": [1]}, "expected finite numbers, got NaN"),
        ({"point_coords": "here", "point_labels": [1]}, "expected numbers of shape .*, got 'here'"),
        ({"box": [1, 2, 3]}, r"box: expected shape \(4,\), got \(3,\)"),
        ({"box": [[1, 2, 3, 4]]}, r"box: expected shape \(4,\), got \(1, 4\)"),
        ({"box": [3, 2, 1, 4]}, r"box: expected x1 <= x2 and y1 <= y2, got \[3.0, 2.0, 1.0, 4.0\]"),
        ({"box": [1, 4, 3, 2]}, "box: expected x1 <= x2 and y1 <= y2, got"),
        ({"box": [1, 2, np.inf, 4]}, "box: expected finite numbers"),
        ({"box": [1, 2, None, 4]}, "box: expected"),
        ({"mask_input": np.zeros(4)}, r"mask_input: expected shape \(h, w\), got \(4,\)"),
        ({"mask_input": np.full((4, 4), np.nan)}, "mask_input: expected finite numbers"),
        ({"rough_mask": np.zeros((4, 4))}, r"rough_mask: expected bool of shape \(H, W\), got float64 \(4, 4\)"),
        ({"rough_mask": np.zeros(4, dtype=bool)}, r"rough_mask: expected bool of shape \(H, W\), got bool \(4,\)"),
        (
            {"rough_mask": np.zeros((4, 4), dtype=bool), "mask_input": np.zeros((4, 4))},
            "expected at most one of them, got both",
        ),
    ],
)
def test_a_prompt_that_marks_nothing_or_is_malformed_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**fields)


def test_a_prompt_cannot_be_changed_nor_changes_with_what_it_was_made_of():
    box = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
    prompt = Prompt(box=box)
    box[0] = 100
    assert prompt.box.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        prompt.box[0] = 5


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt(**POINT), True),
        (Prompt(point_coords=[[1, 2]], point_labels=[0]), False),
        (Prompt(point_coords=[[1, 2], [3, 4]], point_labels=[1, 1]), False),
        (Prompt(**POINT, box=[0, 0, 4, 4]), False),
        (Prompt(**POINT, mask_input=np.zeros((4, 4))), False),
        (Prompt(**POINT, rough_mask=np.ones((4, 4), dtype=bool)), False),
        (Prompt(box=[0, 0, 4, 4]), False),
    ],
)
def test_only_one_positive_point_alone_is_a_single_point(prompt, expected):
    assert prompt.is_single_point is expected


def test_as_prompts_takes_one_or_several_and_refuses_none():
    prompt = Prompt(**POINT)
    assert tuple(as_prompts(prompt)) == (prompt,)
    assert tuple(as_prompts(iter([prompt, prompt]))) == (prompt, prompt)
    with pytest.raises(ValueError, match="expected at least one, got none"):
        as_prompts([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embedding": np.zeros((4, 4), dtype=np.float32)}, r"of shape \(C, h, w\), got float32 \(4, 4\)"),
        ({"image_embedding": np.zeros((2, 4, 4))}, "expected float32 or float16 .*, got float64"),
        ({"image_embedding": np.full((2, 4, 4), np.nan, dtype=np.float32)}, "expected finite numbers"),
        ({"image_embedding": np.full((2, 4, 4), np.inf, dtype=np.float16)}, "expected finite numbers"),
        ({"image_embedding": np.array([[[1, -np.nan]]], dtype=np.float16)}, "expected finite numbers"),
        ({"original_size": (0, 4)}, r"original_size: expected \(height, width\) of at least 1, got \(0, 4\)"),
        ({"original_size": (4, 4, 3)}, r"original_size: expected \(height, width\)"),
        ({"input_size": (4, -1)}, "input_size: expected"),
        ({"further_maps": {"fine": np.zeros((4, 4), dtype=np.float32)}}, r"fine: expected .* of shape \(C, h, w\)"),
        ({"further_maps": {"fine": np.zeros((2, 4, 4), np.float16)}}, "fine: expected float32 as image_embedding"),
        ({"further_maps": {"fine": np.full((2, 4, 4), np.nan, np.float32)}}, "fine: expected finite numbers"),
        ({"further_maps": {"image_embedding": np.zeros((2, 4, 4), np.float32)}}, "expected other names than image_em"),
    ],
)
def test_an_embedding_of_wrong_shape_dtype_or_value_is_refused(change, message):
    fields = {
        "image_embedding": np.zeros((2, 4, 4), dtype=np.float32),
        "original_size": (30, 40),
        "input_size": (96, 128),
        "model_version": "tiny@00000000",
    }
    assert Embedding(**fields).nbytes == 2 * 4 * 4 * 4
    with pytest.raises(ValueError, match=message):
        Embedding(**(fields | change))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_mask_keeps_every_pixel_through_its_crop(array):
    mask = Mask.from_array(array)
    np.testing.assert_array_equal(mask.to_array(), array)
    assert mask.area == array.sum()
    if mask.box is None:
        assert not array.any()
        assert mask.crop.shape == (0, 0)
    else:
        x1, y1, x2, y2 = mask.box
        assert array[y1:y2, x1:x2].sum() == array.sum()
        assert mask.crop.shape == (y2 - y1, x2 - x1)


@given(st.integers(0, 3), st.integers(0, 3))
def test_the_box_of_a_mask_is_tight_even_when_its_crop_is_not(above, left):
    crop = np.zeros((above + 3, left + 4), dtype=bool)
    crop[above : above + 2, left : left + 3] = True
    assert Mask(crop, (5, 6), (40, 50)).box == (5 + left, 6 + above, 8 + left, 8 + above)


@pytest.mark.parametrize(
    ("crop", "offset", "message"),
    [
        (np.zeros((2, 2)), (0, 0), r"expected bool of shape \(h, w\), got float64 \(2, 2\)"),
        (np.zeros(2, dtype=bool), (0, 0), r"expected bool of shape \(h, w\), got bool \(2,\)"),
        (np.zeros((2, 2), dtype=bool), (3, 0), r"expected to lie inside \(4, 4\), got \(2, 2\) at \(x, y\) \(3, 0\)"),
        (np.zeros((2, 2), dtype=bool), (0, -1), "expected to lie inside"),
    ],
)
def test_a_mask_that_leaves_its_photo_is_refused(crop, offset, message):
    with pytest.raises(ValueError, match=message):
        Mask(crop, offset, (4, 4))


def test_masks_with_unequal_counts_are_refused():
    mask = Mask(np.zeros((0, 0), dtype=bool), (0, 0), (4, 4))
    low_res = np.zeros((1, 4, 4), dtype=np.float32)
    assert len(Masks(((mask,),), ((0.5,),), (low_res,))) == 1
    assert len(Masks(((mask,),), None, (low_res,))) == 1
    with pytest.raises(ValueError, match="expected equal counts"):
        Masks(((mask,),), ((0.5, 0.5),), (low_res,))
    with pytest.raises(ValueError, match="expected equal counts"):
        Masks(((mask,), (mask,)), ((0.5,), (0.5,)), (low_res,))
