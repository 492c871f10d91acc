"""The demo scenes: what a seed means, what a mask holds, and the files that tests make of them."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from demo_training.scenes import render_scene
from demo_training.shapes import HELD_OUT_SHAPES, TRAIN_SHAPES
from demo_training.textures import HELD_OUT_TEXTURES, TRAIN_TEXTURES
from tests.support.scenes import box, centre_click, iou, largest, scene_file


def test_a_seed_gives_the_same_scene_every_time() -> None:
    first, second = render_scene(5, (96, 128)), render_scene(5, (96, 128))
    assert (first.image == second.image).all()
    assert (first.ids == second.ids).all()


def test_another_seed_gives_another_scene() -> None:
    assert (render_scene(1, (96, 128)).image != render_scene(2, (96, 128)).image).any()


def test_the_families_share_no_shape_and_no_texture() -> None:
    assert not TRAIN_SHAPES.keys() & HELD_OUT_SHAPES.keys()
    assert not TRAIN_TEXTURES.keys() & HELD_OUT_TEXTURES.keys()


def test_every_object_of_the_held_out_family_has_a_held_out_shape() -> None:
    kinds = {kind for seed in range(10) for kind in render_scene(seed, (64, 96), "held_out").kinds}
    assert kinds <= HELD_OUT_SHAPES.keys()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(48, 200), st.integers(48, 200)),
    family=st.sampled_from(["train", "held_out"]),
)
def test_a_scene_holds_one_to_ten_visible_objects(seed, size, family) -> None:
    scene = render_scene(seed, size, family)
    assert scene.image.shape == (*size, 3)
    assert 1 <= len(scene.kinds) <= 10
    for mask in scene.masks:
        assert 0.003 <= mask.mean() <= 0.6


def test_masks_of_objects_that_are_no_parts_do_not_overlap() -> None:
    for seed in range(20):
        scene = render_scene(seed, (96, 128))
        wholes = [m for m, parent in zip(scene.masks, scene.parents, strict=True) if parent < 0]
        assert np.sum(wholes, axis=0).max() <= 1


def test_a_whole_contains_its_parts() -> None:
    nested = [s for s in (render_scene(seed, (96, 128)) for seed in range(40)) if max(s.parents) >= 0]
    assert nested
    for scene in nested:
        for part, whole in enumerate(scene.parents):
            if whole >= 0:
                assert (scene.masks[whole] & scene.masks[part]).sum() == scene.masks[part].sum()


def test_a_size_that_can_hold_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 20 x 64"):
        render_scene(0, (20, 64))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_read_as_its_orientation_says_shows_the_scene_upright(orientation) -> None:
    file = scene_file(3, (60, 90), orientation=orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file.data)))
    assert (np.asarray(upright) == file.scene.image).all()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_scene_can_be_had_in_any_format(image_format) -> None:
    file = scene_file(3, (60, 90), image_format=image_format)
    picture = Image.open(io.BytesIO(file.data))
    assert picture.format == image_format
    assert picture.size == (90, 60)


def test_the_click_of_an_object_lies_on_it_and_in_its_box() -> None:
    scene = render_scene(11, (96, 128))
    for index in range(len(scene.kinds)):
        x, y = centre_click(scene, index)
        left, top, right, bottom = box(scene, index)
        assert scene.own_mask(index)[y, x]
        assert left <= x < right
        assert top <= y < bottom


def test_the_largest_object_agrees_with_itself_and_with_no_other() -> None:
    scene = next(s for s in (render_scene(seed, (96, 128)) for seed in range(20)) if len(s.kinds) > 1)
    index = largest(scene)
    other = (index + 1) % len(scene.kinds)
    assert iou(scene.masks[index], scene.masks[index]) == 1.0
    assert iou(scene.own_mask(index), scene.own_mask(other)) == 0.0
