"""The outlines of the last masks: few, small, and drawn only when somebody looks."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from backend.protocol import bitmask, rle
from backend.segmentation import polygons
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, ShapeKind, Vector
from backend.types import Prediction, Region
from backend.web.status.pictures import KEPT, MOST_BYTES, Pictures, draw
from model.types import Mask

SIZE = (60, 80)


def region(shape, size=SIZE, labels=("Cat",), score=0.75):
    return Region("a" * 12, "tool", "brushlabels", "image", shape, labels, size, score=score)


def answer(*regions):
    return (Prediction(regions, 0.5, "SAM@1"),)


def disc(size=SIZE, middle=(30, 20), radius=12):
    canvas = np.zeros(size, np.uint8)
    cv2.circle(canvas, middle, radius, 1, -1)
    return Mask.from_array(canvas.astype(bool))


def pixels(picture, size=SIZE):
    """What a picture shows, as pixels of the image; even-odd, as the page fills it."""
    canvas = np.zeros(size, np.uint8)
    scale = max(size) / 100
    rings = [
        np.array([tuple(map(float, corner.split())) for corner in ring.split("L")]) * scale * 16
        for ring in re.findall(r"M([^Z]+)Z", picture.path)
    ]
    cv2.fillPoly(canvas, [np.rint(ring - 8).astype(np.int32) for ring in rings], 1, shift=4)
    return canvas.astype(bool)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("shape", [
    Brush(rle.encode(disc())),
    Bitmask(bitmask.encode(disc())),
    Polygon(tuple((x / 0.8, y / 0.6) for x, y in polygons.rings(disc())[0].tolist())),
    Vector(tuple((x / 0.8, y / 0.6) for x, y in polygons.rings(disc())[0].tolist())),
    Ellipse(30.5 / 0.8, 20.5 / 0.6, 12.5 / 0.8, 12.5 / 0.6, 77.0),
], ids=lambda shape: type(shape).__name__)  # fmt: skip
def test_a_mask_is_drawn_where_it_lies_whatever_it_was_answered_as(shape):
    picture = draw([region(shape)])
    assert (picture.width, picture.height) == (100, 75)
    assert iou(pixels(picture), disc().to_array()) > 0.8


def test_a_turned_rectangle_turns_about_its_corner_in_pixels():
    picture = draw([region(Rectangle(50, 50, 25, 10, 90))])
    corners = np.array([tuple(map(float, corner.split())) for corner in picture.path[1:-1].split("L")]) * 0.8
    assert corners == pytest.approx(np.array([(40, 30), (40, 50), (34, 50), (34, 30)]), abs=0.1)


def test_several_regions_of_an_answer_share_a_picture_with_labels_and_mean_score():
    found = [region(Brush(rle.encode(disc())), score=0.5), region(Rectangle(0, 0, 10, 10), labels=("Dog",), score=1.0)]
    picture = draw(found)
    assert picture.caption == "Cat, Dog 0.75"
    assert picture.path.count("M") == 2


def test_a_picture_without_label_or_score_has_no_caption():
    assert draw([region(Rectangle(0, 0, 10, 10), labels=(), score=None)]).caption == ""


def test_what_has_no_outline_is_no_picture():
    assert draw([region(KeyPoint(5, 5))]) is None


def test_nothing_is_drawn_before_somebody_looks_and_then_once(monkeypatch):
    drawn = []
    monkeypatch.setattr("backend.web.status.pictures.draw", lambda found: drawn.append(found) or draw(found))
    pictures = Pictures()
    pictures.add(answer(region(Brush(rle.encode(disc())))))
    assert drawn == []
    assert pictures.take() == pictures.take()
    assert len(drawn) == 1


def test_the_newest_come_first_and_old_ones_go():
    pictures = Pictures()
    for number in range(KEPT + 5):
        pictures.add(answer(region(Rectangle(0, 0, 10, 10), labels=(f"L{number}",), score=None)))
        if number == 3:
            pictures.take()
    assert [one.caption for one in pictures.take()] == [f"L{number}" for number in range(KEPT + 4, 4, -1)]


def test_empty_answers_and_answers_too_large_to_keep_leave_nothing():
    pictures = Pictures()
    pictures.add(answer())
    pictures.add(answer(region(Brush(b"x" * (MOST_BYTES + 1)))))
    pictures.add(answer(region(Bitmask("x" * (MOST_BYTES + 1)))))
    assert pictures.take() == ()


def test_a_ragged_mask_stays_a_small_picture():
    noise = Mask.from_array(np.random.default_rng(0).random((300, 300)) < 0.5)
    picture = draw([region(Brush(rle.encode(noise)), size=(300, 300))])
    assert len(picture.path) < 40_000


def test_regions_of_other_sizes_are_left_out():
    found = [region(Rectangle(0, 0, 10, 10)), replace(region(Rectangle(0, 0, 10, 10)), original_size=(10, 10))]
    assert draw(found).path.count("M") == 1


def test_every_kind_of_answer_has_an_outline():
    drawn = {type(one) for one in (Brush(), Bitmask(""), Polygon(((0, 0),) * 3), Vector(()), Rectangle(0, 0, 1, 1),
                                   Ellipse(0, 0, 1, 1))}  # fmt: skip
    assert len(drawn) == len(set(ShapeKind) - {ShapeKind.KEYPOINT})
