"""COCO's run-length code is the one of pycocotools, both ways, as counts and as text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.coco import rle as coco_rle
from model.coco.rle import Rle
from model.types import Mask
from tests.reference.make_coco_golden import GOLDEN, subjects

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(np.bool_, shape))
names = pytest.mark.parametrize("name", list(subjects()))


@pytest.fixture(scope="module")
def golden():
    """What pycocotools made of the subjects."""
    return json.loads(GOLDEN.read_text())


@names
def test_the_text_the_area_and_the_box_are_those_of_pycocotools(golden, name):
    rle = coco_rle.encode(Mask.from_array(subjects()[name]))
    code = golden[name]
    assert rle.to_compressed() == {"size": code["size"], "counts": code["counts"]}
    assert (rle.area, list(rle.bbox)) == (code["area"], code["bbox"])


@names
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_pycocotools_wrote_is_read(golden, name, as_bytes):
    code = golden[name]
    counts = code["counts"].encode() if as_bytes else code["counts"]
    rle = coco_rle.parse({"size": code["size"], "counts": counts})
    np.testing.assert_array_equal(coco_rle.decode(rle).to_array(), subjects()[name])


@settings(deadline=None)
@given(masks)
def test_counts_alternate_column_by_column_and_begin_off_the_object(mask):
    pixels, counts = mask.T.ravel().tolist(), [0]
    for before, pixel in zip([False, *pixels], pixels, strict=False):
        if pixel != before:
            counts.append(0)
        counts[-1] += 1
    assert coco_rle.encode(Mask.from_array(mask)).to_uncompressed() == {"size": list(mask.shape), "counts": counts}


@settings(deadline=None)
@given(masks)
def test_a_mask_comes_back_from_either_form(mask):
    rle = coco_rle.encode(Mask.from_array(mask))
    for code in (rle.to_uncompressed(), rle.to_compressed()):
        back = coco_rle.decode(coco_rle.parse(code))
        np.testing.assert_array_equal(back.to_array(), mask)
        assert back.box == rle.box == Mask.from_array(mask).box
        assert back.area == rle.area == np.count_nonzero(mask)


@settings(deadline=None)
@given(masks, st.integers(0, 3), st.integers(0, 3))
def test_a_crop_wider_than_its_object_has_the_code_of_the_tight_one(mask, margin, more):
    wide = np.pad(mask, ((margin, more), (more, margin)))
    whole = Mask(wide, (2, 1), (wide.shape[0] + 1, wide.shape[1] + 4))
    assert coco_rle.encode(whole).to_compressed() == coco_rle.encode(Mask.from_array(whole.to_array())).to_compressed()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=12))
def test_counts_of_any_size_come_back_from_their_text(counts):
    rle = Rle(np.array(counts), (1, sum(counts)))
    assert coco_rle.parse(rle.to_compressed()).counts.tolist() == counts


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
    )
)
def test_the_iou_of_two_codes_is_that_of_their_masks(pair):
    first, second = (coco_rle.encode(Mask.from_array(mask)) for mask in pair)
    expected = np.count_nonzero(pair[0] & pair[1]) / max(np.count_nonzero(pair[0] | pair[1]), 1)
    assert coco_rle.iou(first, second) == pytest.approx(expected, abs=1e-12)


def test_codes_of_photos_of_different_sizes_have_no_iou():
    first, second = (Rle(np.array([6]), size) for size in ((2, 3), (3, 2)))
    with pytest.raises(ValueError, match=r"iou: expected masks of one size, got \(2, 3\) and \(3, 2\)"):
        coco_rle.iou(first, second)


def test_runs_of_no_pixels_within_are_read():
    rle = coco_rle.parse({"size": [2, 3], "counts": [1, 0, 0, 2, 0, 1, 2]})
    assert rle.area == 3
    assert rle.box == (0, 0, 2, 2)
    assert coco_rle.decode(rle).to_array().tolist() == [[False, True, False], [True, True, False]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "segmentation: expected size and counts of a run-length code, got None"),
        ([[1, 2, 3, 4, 5, 6]], "segmentation: expected size and counts"),
        ({"size": [2], "counts": "04"}, "segmentation: expected size and counts"),
        ({"size": "24", "counts": "04"}, "segmentation: expected size and counts"),
        ({"size": [2, 2]}, "counts: expected whole numbers or text, got None"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "counts: expected whole numbers or text"),
        ({"size": [2, 2], "counts": [-1, 5]}, "counts: expected whole numbers or text"),
        ({"size": [2, 2], "counts": [1, 2]}, r"counts: expected runs of 2 × 2 pixels, got \(2,\) of 3"),
        ({"size": [2, 2], "counts": "05"}, r"counts: expected runs of 2 × 2 pixels, got \(2,\) of 5"),
        ({"size": [2, 2], "counts": ""}, r"counts: expected runs of 2 × 2 pixels, got \(0,\) of 0"),
        ({"size": [2, 2], "counts": "0é"}, "counts: expected COCO's run-length text"),
        ({"size": [2, 2], "counts": "0 "}, "counts: expected COCO's run-length text"),
        ({"size": [2, 2], "counts": "0P"}, "counts: expected COCO's run-length text"),
        ({"size": [2, 2], "counts": "N6"}, "counts: expected COCO's run-length text"),
        ({"size": [2, 2], "counts": "o" * 20 + "0"}, "counts: expected COCO's run-length text"),
    ],
)
def test_a_damaged_code_is_refused_with_expected_and_got(value, message):
    with pytest.raises(ValueError, match=message):
        coco_rle.parse(value)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=120), max_size=20))
def test_any_text_is_a_code_or_is_refused(text):
    try:
        rle = coco_rle.parse({"size": [4, 5], "counts": text})
    except ValueError:
        return
    assert coco_rle.decode(rle).area == rle.area <= 20


def test_a_code_cannot_be_changed():
    counts = np.array([1, 3])
    rle = Rle(counts, (2, 2))
    counts[0] = 2
    assert rle.counts.tolist() == [1, 3]
    with pytest.raises(ValueError, match="read-only"):
        rle.counts[0] = 2
