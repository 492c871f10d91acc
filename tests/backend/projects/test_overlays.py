"""Regions of every kind drawn where they are."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.labeling.config_types import Control, OutputTag
from backend.projects import overlays
from backend.segmentation import regions
from backend.shapes import KeyPoint, Rectangle, Shape, ShapeKind
from backend.types import ObjectPrompt, Region
from model.types import Mask, Prompt
from tests.support.scenes import iou

SIZE = (60, 80)
KINDS = {
    ShapeKind.BRUSH: "BrushLabels",
    ShapeKind.BITMASK: "BitmaskLabels",
    ShapeKind.POLYGON: "PolygonLabels",
    ShapeKind.VECTOR: "VectorLabels",
    ShapeKind.RECTANGLE: "RectangleLabels",
    ShapeKind.ELLIPSE: "EllipseLabels",
}


def drawn(kind, mask):
    """The only region of a mask drawn as a kind."""
    marked = ObjectPrompt(Prompt(box=np.array([0, 0, 9, 9], np.float32)), ("a",), (), "in", "image", mask.shape)
    output = OutputTag(Control("out", KINDS[kind], kind, ("image",)))
    [region] = regions.draw(Mask.from_array(mask), marked, output)
    return region


def shown(shape: Shape, size=SIZE):
    return Region("a", "out", "rectangle", "image", shape, (), size)


def block(size=SIZE):
    mask = np.zeros(size, bool)
    mask[20:40, 10:50] = True
    return mask


def disc(size=SIZE):
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (40, 30), (25, 12), 30, 0, 360, 1, -1)
    return mask > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_covers_what_its_mask_did(kind):
    mask = disc() if kind is ShapeKind.ELLIPSE else block()
    assert iou(overlays.area(drawn(kind, mask), SIZE).to_array(), mask) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_fits_an_image_that_was_decoded_smaller(kind):
    big = np.kron(disc() if kind is ShapeKind.ELLIPSE else block(), np.ones((4, 4), bool))
    small = big[::4, ::4]
    assert iou(overlays.area(drawn(kind, big), SIZE).to_array(), small) > 0.85


def test_a_rectangle_turns_about_its_corner():
    area = overlays.area(shown(Rectangle(50, 50, 25, 10, 90)), SIZE).to_array()
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    assert (columns[0], columns[-1]) == pytest.approx((34, 40), abs=1)
    assert (rows[0], rows[-1]) == pytest.approx((30, 50), abs=1)


def test_what_covers_nothing_draws_nothing():
    assert overlays.area(shown(KeyPoint(50, 50)), SIZE).area == 0


def test_large_images_are_shown_smaller_in_their_proportions():
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    picture = overlays.over(pixels, (drawn(ShapeKind.BRUSH, block()),))
    assert picture.shape == (1200, 1600, 3)
    assert not np.array_equal(picture, np.zeros_like(picture))


def test_the_image_itself_is_left_as_it_is():
    pixels = np.full((*SIZE, 3), 90, np.uint8)
    overlays.over(pixels, (drawn(ShapeKind.BRUSH, block()),))
    assert (pixels == 90).all()


def test_a_file_holds_the_colours_in_their_order():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 0] = 200  # red
    data = np.frombuffer(overlays.jpeg(pixels), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR)[8, 8, 2] > 150


def test_a_file_says_what_it_is_even_where_half_of_it_is_there(tmp_path):
    data = overlays.jpeg(np.zeros((60, 80, 3), np.uint8))
    path = tmp_path / "a.jpg"
    for part in (data, data[: len(data) // 2]):
        path.write_bytes(part)
        assert overlays.is_overlay(path)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["comment"] == overlays.COMMENT
    _, plain = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))
    for content in (plain.tobytes(), b"", b"\x89PNG"):
        path.write_bytes(content)
        assert not overlays.is_overlay(path)
