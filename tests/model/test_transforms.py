"""Photos of any shape reach the network whole, and its logits become the masks that Meta's code would make."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.modeling.blas import product
from model.transforms import (
    ROUGH_LOGIT,
    longest_side_size,
    mask_and_areas,
    mask_to_model,
    normalize,
    points_to_model,
    preprocess,
)
from tests.reference.logit_maps import KINDS, logit_map
from tests.reference.make_golden import GOLDEN, POSTPROCESS
from tests.reference.random_weights import photo
from tests.support.checkpoints import tiny

sides = st.integers(1, 6000)
sizes = st.tuples(sides, sides)
image_sizes = st.sampled_from([128, 256, 512, 1024])


@given(sizes, image_sizes)
def test_the_longest_side_becomes_the_models_and_the_other_keeps_the_ratio_within_half_a_pixel(size, image_size):
    scaled = longest_side_size(size, image_size)
    assert max(scaled) == image_size
    exact = [side * image_size / max(size) for side in size]
    assert all(
        abs(actual - ideal) <= 0.5 + 1e-6 or (actual == 1 and ideal < 0.5)
        for actual, ideal in zip(scaled, exact, strict=True)
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 5000), (1, 1024)),  # 0.2 of a pixel: Meta's code rounds it to none and fails
        ((5000, 1), (1024, 1)),
        ((1, 1), (1024, 1024)),
        ((10000, 20), (1024, 2)),
        ((1200, 1800), (683, 1024)),  # 682.67
        ((1025, 2048), (513, 1024)),  # 512.5 goes up
        ((1023, 1024), (1023, 1024)),
    ],
)
def test_sizes_round_to_the_nearest_pixel_and_never_to_none(size, expected):
    assert longest_side_size(size, 1024) == expected


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 2), (37, 500), (128, 64), (128, 128)])
def test_a_photo_of_any_shape_fills_the_input_from_its_top_left_corner(size):
    model_input = preprocess(np.full((*size, 3), 255, dtype=np.uint8), tiny(128))
    pixels, input_size = normalize(model_input.pixels, tiny(128)), model_input.pixels.shape[:2]
    assert model_input.original_size == size
    assert pixels.shape == (3, 128, 128)
    assert pixels.dtype == np.float32
    inside = np.zeros((128, 128), dtype=bool)
    inside[: input_size[0], : input_size[1]] = True
    assert (pixels[:, ~inside] == 0).all()
    white = [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    np.testing.assert_allclose(
        pixels[:, inside], np.repeat(np.float32(white)[:, None], inside.sum(), axis=1), rtol=1e-6
    )


def test_a_photo_of_the_models_size_is_only_normalised():
    image = photo(128, 96)
    resized = preprocess(image, tiny(128)).pixels
    assert np.array_equal(resized, image)
    pixels = normalize(resized, tiny(128))
    back = pixels[:, :, :96].transpose(1, 2, 0) * np.float32([58.395, 57.12, 57.375]) + np.float32(
        [123.675, 116.28, 103.53]
    )
    np.testing.assert_allclose(back, image, atol=1e-4)


def test_the_order_of_channels_is_red_green_blue():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[..., 0] = 255
    pixels = normalize(preprocess(image, tiny(128)).pixels, tiny(128))
    assert pixels[0].min() > 0 > pixels[1].max()
    assert pixels[2].max() < 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
    ids=["grey", "four channels", "floats", "no rows"],
)
def test_what_is_no_rgb_photo_is_refused_with_expected_and_got(image):
    with pytest.raises(ValueError, match=r"expected uint8 RGB of shape \(H, W, 3\), got .* \("):
        preprocess(image, tiny(128))


def test_pixels_larger_than_the_input_are_refused():
    with pytest.raises(ValueError, match=r"^pixels: expected at most 128 × 128, got 129 × 4$"):
        normalize(np.zeros((4, 129, 3), np.uint8), tiny(128))


@given(sizes, image_sizes, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_points_return_to_where_they_were_within_half_a_pixel(size, image_size, shares):
    input_size = longest_side_size(size, image_size)
    points = np.float32(shares) * np.float32([size[1], size[0]])
    in_model = points_to_model(points, size, input_size)
    assert (in_model >= 0).all()
    assert (in_model <= np.float32([input_size[1], input_size[0]]) * (1 + 1e-6)).all()
    back = in_model * np.float64([size[1] / input_size[1], size[0] / input_size[0]])
    assert np.abs(back - points).max() <= 0.5


@given(sizes, image_sizes)
def test_the_corners_of_the_photo_are_the_corners_of_its_part_of_the_input(size, image_size):
    input_size = longest_side_size(size, image_size)
    corner = points_to_model([size[1], size[0]], size, input_size)
    np.testing.assert_allclose(corner, [input_size[1], input_size[0]], rtol=1e-6)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "postprocess.npz")


@pytest.mark.parametrize("index", range(len(POSTPROCESS)))
def test_masks_equal_metas_postprocessing_to_the_pixel(golden, index):
    kind, low_res_size, image_size, original_size = POSTPROCESS[index]
    logits = logit_map(kind, low_res_size, np.random.RandomState(index))
    mask, _ = mask_and_areas(logits, longest_side_size(original_size, image_size), original_size, image_size)
    height, width = original_size
    expected = np.unpackbits(golden[str(index)], count=height * width).reshape(original_size).astype(bool)
    assert expected.any() == (kind != "empty")
    np.testing.assert_array_equal(mask.to_array(), expected)


small_sides = st.integers(1, 300)


@settings(deadline=None)
@given(st.tuples(small_sides, small_sides), st.sampled_from(KINDS), st.integers(0, 2**16), st.sampled_from([64, 128]))
def test_looking_only_where_the_object_is_changes_no_pixel(size, kind, seed, image_size):
    logits = logit_map(kind, 32, np.random.RandomState(seed))
    input_size = longest_side_size(size, image_size)
    mask, _ = mask_and_areas(logits, input_size, size, image_size)
    whole = two_steps(logits, input_size, size, image_size)
    clear = np.abs(whole) > 1e-4  # nearer to zero, float64 here and float32 there may differ
    np.testing.assert_array_equal(mask.to_array()[clear], (whole > 0)[clear])


@settings(deadline=None)
@given(
    st.tuples(small_sides, small_sides),
    st.sampled_from(KINDS),
    st.integers(0, 2**16),
    st.lists(st.floats(-3, 3), min_size=1, max_size=3),
)
def test_areas_at_other_levels_are_those_of_the_whole_photo(size, kind, seed, levels):
    logits = logit_map(kind, 32, np.random.RandomState(seed))
    input_size = longest_side_size(size, 128)
    mask, areas = mask_and_areas(logits, input_size, size, 128, levels)
    whole = two_steps(logits, input_size, size, 128)
    for level, area in zip(levels, areas, strict=True):
        assert np.count_nonzero(whole > level + 1e-4) <= area <= np.count_nonzero(whole > level - 1e-4)
    alone, _ = mask_and_areas(logits, input_size, size, 128)
    assert (mask.offset, mask.crop.shape) == (alone.offset, alone.crop.shape)
    assert np.count_nonzero(mask.crop ^ alone.crop) <= np.count_nonzero(np.abs(whole) < 1e-4)


def two_steps(logits, input_size, original_size, image_size):
    """Meta's two interpolations, written as its documentation says them, in float64 over the whole photo."""
    square = bilinear(bilinear(logits.astype(np.float64), image_size, 0), image_size, 1)
    inner = square[: input_size[0], : input_size[1]]
    return bilinear(bilinear(inner, original_size[0], 0), original_size[1], 1)


def bilinear(values, target, axis):
    source = values.shape[axis]
    at = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(source), line), axis, values)


@pytest.mark.parametrize("change", [np.fliplr, np.flipud, np.transpose, lambda x: x.astype(">f4"), np.float64])
def test_logits_of_any_memory_give_the_mask_of_a_copy_in_order(change):
    logits = change(np.random.RandomState(0).standard_normal((256, 256)).astype(np.float32))
    sizes = (768, 1024), (600, 800), 1024
    mask, _ = mask_and_areas(logits, *sizes, product=product)
    expected, _ = mask_and_areas(np.array(logits, np.float32), *sizes)
    assert np.count_nonzero(mask.to_array() ^ expected.to_array()) <= 2


def test_a_small_object_in_a_large_photo_is_held_in_a_small_crop():
    logits = np.full((256, 256), -5.0, dtype=np.float32)
    logits[100:110, 50:60] = 5
    mask, _ = mask_and_areas(logits, (768, 1024), (3000, 4000), 1024)
    assert mask.area > 0
    assert mask.crop.size < 0.01 * 3000 * 4000


def test_an_object_that_lies_in_the_padding_alone_gives_an_empty_mask():
    logits = np.full((32, 32), -1.0, dtype=np.float32)
    logits[28:, :] = 1  # the photo ends at row 16
    mask, _ = mask_and_areas(logits, (64, 128), (100, 200), 128)
    assert mask.area == 0
    assert not mask.to_array().any()


@given(st.tuples(st.integers(1, 500), st.integers(1, 500)), st.floats(0, 1), st.floats(0, 1), st.floats(0.2, 1))
def test_a_drawn_rectangle_comes_back_from_the_models_frame_at_its_place(size, x, y, share):
    height, width = size
    top, left = int(y * (1 - share) * height), int(x * (1 - share) * width)
    bottom, right = top + max(1, int(share * height)), left + max(1, int(share * width))
    drawn = np.zeros(size, dtype=bool)
    drawn[top:bottom, left:right] = True
    input_size = longest_side_size(size, 128)
    assume(min(input_size) >= 16)  # a photo thinner than a few low-resolution pixels has no places in it to speak of
    cell = max(size) / 32
    assume(min(bottom - top, right - left) >= 2 * cell)  # a thinner one may cover no cell by more than half
    back, _ = mask_and_areas(mask_to_model(drawn, input_size, 128, 32), input_size, size, 128)
    for actual, want in zip(back.box, (left, top, right, bottom), strict=True):
        assert abs(actual - want) <= cell + 1


def test_a_drawn_mask_is_sure_inside_outside_and_in_the_padding():
    drawn = np.zeros((100, 200), dtype=bool)
    drawn[:, :100] = True
    logits = mask_to_model(drawn, (64, 128), 128, 32)
    assert logits.shape == (32, 32)
    expected = np.full((32, 32), -ROUGH_LOGIT)
    expected[:16, :16] = ROUGH_LOGIT
    np.testing.assert_allclose(logits, expected, atol=1e-4)
