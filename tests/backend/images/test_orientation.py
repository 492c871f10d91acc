"""Orientation: which files are turned, and prompts and masks that lie on a picture as another browser shows it."""

import numpy as np
import pytest

from backend.images.decode import PixelLimits, decode
from model.images import orientation
from model.types import Mask, Prompt
from tests.support.orientation_files import UPRIGHT, cases, corners, encoded, plain, quarters

LIMITS = PixelLimits()
BY_NAME = {case.name: case for case in cases()}


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some of the EXIF
@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_is_turned_where_chromium_turns_it(name):
    case = BY_NAME[name]
    for stored in range(10):
        turn = stored if case.is_turned and 1 <= stored <= 8 else 1
        picture = decode(case.make(stored), LIMITS)
        assert quarters(picture.pixels) == UPRIGHT[turn], stored
        assert picture.original_size == ((48, 32) if turn > 4 else (32, 48))


@pytest.mark.parametrize("stored", range(1, 9))
def test_a_tiff_which_chromium_does_not_show_is_turned_as_its_tag_says(stored):
    picture = decode(encoded(corners(), "TIFF", exif=b"Exif\0\0" + plain(stored)), LIMITS)
    assert quarters(picture.pixels) == UPRIGHT[stored]
    assert picture.other_orientation == ({6: 8, 8: 6}.get(stored, stored) if stored > 4 else 1)


@pytest.mark.parametrize("stored", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG: SHORT", "PNG: SHORT", "WebP: SHORT"])
def test_the_other_orientation_leads_to_the_picture_that_another_browser_shows(kind, stored):
    picture = decode(BY_NAME[kind].make(stored), LIMITS)
    if stored <= 4:
        assert picture.other_orientation == 1, "its size does not tell it"
        return
    other = np.stack(
        [orientation.turned_array(picture.pixels[..., i] > 127, picture.other_orientation) for i in range(3)], axis=-1
    )
    assert quarters(other.astype(np.uint8) * 255) == UPRIGHT[stored if kind.startswith("WebP") else 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "JPEG: LONG", "JPEG: LONG, big-endian", "JPEG: BYTE", "JPEG: SSHORT", "JPEG: SLONG", "PNG: LONG",
        "PNG: after the pixels", "WebP: SHORT", "WebP: LONG",
    ],
)  # fmt: skip
def test_an_orientation_that_chromium_ignores_is_known_for_browsers_that_obey_it(name):
    for stored in range(1, 9):
        picture = decode(BY_NAME[name].make(stored), LIMITS)
        assert (quarters(picture.pixels), picture.other_orientation) == (UPRIGHT[1], stored if stored > 4 else 1)


@pytest.mark.parametrize("turn", range(1, 9))
def test_masks_and_prompts_turn_as_the_picture_does(turn):
    whole = np.zeros((20, 30), bool)
    whole[2:7, 4:6] = True
    turned = orientation.turned_mask(Mask.from_array(whole), turn)
    expected = orientation.turned_array(whole, turn)
    assert (turned.to_array() == expected).all()
    assert (orientation.turned_mask(turned, orientation.inverse(turn)).to_array() == whole).all()

    prompt = Prompt(point_coords=[[5.0, 4.5]], point_labels=[1], box=[4, 2, 6, 7], rough_mask=whole)
    moved = orientation.turned_prompt(prompt, turn, whole.shape)
    [(x, y)] = moved.point_coords
    assert expected[int(y), int(x)]
    assert tuple(moved.box) == Mask.from_array(expected).box
    assert (moved.rough_mask == expected).all()
    back = orientation.turned_prompt(moved, orientation.inverse(turn), expected.shape)
    assert (back.point_coords == prompt.point_coords).all()


def test_an_empty_mask_turns_too():
    turned = orientation.turned_mask(Mask.from_array(np.zeros((20, 30), bool)), 6)
    assert turned.box is None
    assert turned.original_size == (30, 20)
