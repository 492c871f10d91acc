"""From masks to regions: each kind decodes back to its mask, and everything about it is as Label Studio wants it."""

import base64
import io
import json
import math
import re
from collections.abc import Iterable

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from backend.errors import ConfigError
from backend.labeling import config as labeling_config
from backend.labeling.config_types import Control, OutputTag
from backend.protocol import bitmask, messages, rle
from backend.segmentation import polygons, prompts, regions
from backend.shapes import Brush, Ellipse, Polygon, Rectangle, ShapeKind, Vector
from backend.types import ObjectPrompt, Prediction, Region
from model.types import Mask, Prompt
from tests.reference import sdk
from tests.support.outputs import choose_output
from tests.support.wire_bodies import BODIES, CONFIG, encoded

TAGS = {
    "BrushLabels": ShapeKind.BRUSH,
    "BitmaskLabels": ShapeKind.BITMASK,
    "PolygonLabels": ShapeKind.POLYGON,
    "VectorLabels": ShapeKind.VECTOR,
    "RectangleLabels": ShapeKind.RECTANGLE,
    "EllipseLabels": ShapeKind.ELLIPSE,
}
bool_arrays = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def output(tag: str, labels: tuple[str, ...] = ("Cat",)) -> OutputTag:
    return OutputTag(Control("out", tag, TAGS[tag], ("image",)), labels)


def prompt(size: tuple[int, int], **changes: object) -> ObjectPrompt:
    fields = {
        "prompt": Prompt(point_coords=[[1, 1]], point_labels=[1]),
        "region_ids": ("dhcDaSwZB2",),
        "labels": ("Cat",),
        "from_name": "point",
        "to_name": "image",
        "original_size": size,
    }
    return ObjectPrompt(**(fields | changes))


def drawn(array: np.ndarray, tag: str, score: float | None = 0.9, **changes: object) -> tuple[Region, ...]:
    return regions.draw(Mask.from_array(array), prompt(array.shape, **changes), output(tag), score)


def blob(size: tuple[int, int], seed: int, smoothness: float) -> np.ndarray:
    """Return one connected object with an uneven border, holes included where the noise makes them."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(size).astype(np.float32), (0, 0), smoothness)
    found = (noise > np.median(noise)).astype(np.uint8)
    _, marks, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
    return marks == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def disc(size: tuple[int, int], radius: float, hole: float = 0.0) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2 + 0.5, columns - size[1] / 2 + 0.5)
    return (distance < radius) & (distance >= hole)


def filled(points: Iterable[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres lie in a ring given in percent."""
    height, width = size
    x1, y1 = (np.array(list(points)) * (width / 100, height / 100)).T
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    mask = np.zeros(size, dtype=bool)
    for row in range(height):
        crossing = (y1 <= row + 0.5) != (y2 <= row + 0.5)
        steps = (row + 0.5 - y1[crossing]) / (y2[crossing] - y1[crossing])
        for start, end in np.sort(x1[crossing] + steps * (x2[crossing] - x1[crossing])).reshape(-1, 2):
            mask[row, math.ceil(start - 0.5) : max(0, math.ceil(end - 0.5))] ^= True
    return mask


def union(found: Iterable[Region], size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, dtype=bool)
    for region in found:
        assert isinstance(region.shape, Polygon | Vector)
        whole |= filled(region.shape.points, size)
    return whole


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


# What all kinds share (EDGE CASES 34, 35, 37)


@pytest.mark.parametrize("tag", TAGS)
def test_an_empty_mask_is_no_region(tag: str) -> None:
    assert drawn(np.zeros((6, 8), dtype=bool), tag) == ()


@pytest.mark.parametrize("tag", TAGS)
def test_what_the_prompt_says_is_echoed(tag: str) -> None:
    [region] = drawn(disc((60, 80), 20), tag, image_rotation=270, item_index=2)
    assert (region.image_rotation, region.item_index, region.original_size) == (270, 2, (60, 80))
    assert (region.control, region.type, region.to_name, region.labels) == ("out", tag.lower(), "image", ("Cat",))


@pytest.mark.parametrize("tag", TAGS)
def test_every_kind_is_written_to_the_wire(tag: str) -> None:
    found = drawn(disc((60, 80), 20), tag)
    [item] = json.loads(messages.dump_predictions([Prediction(found, 0.9, "demo@1")]))["results"]
    [entry] = item["result"]
    assert entry["value"][tag.lower()] == ["Cat"]
    assert (entry["original_width"], entry["original_height"]) == (80, 60)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.25, 0.25), (np.float32(0.5), 0.5), (1.2, 1.0), (-0.1, 0.0), (math.nan, None), (math.inf, None), (None, None)],
)
def test_a_score_is_a_plain_number_from_0_to_1_or_missing(score: float | None, expected: float | None) -> None:
    [region] = drawn(disc((6, 8), 2), "BrushLabels", score)
    assert region.score == expected
    assert type(region.score) in (float, type(None))


def test_ids_are_long_safe_and_made_of_the_prompts() -> None:
    size = (6, 8)
    ids = {
        drawn(disc(size, 2), tag, region_ids=names)[0].id
        for tag in TAGS
        for names in (("a",), ("b",), ("a", "b"), ("ab",))
    }
    assert len(ids) == 4  # the control is called the same in all
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{10,}", name) for name in ids)


def test_the_same_prompts_give_the_same_ids_whatever_the_mask() -> None:
    first, second = (drawn(disc((60, 80), radius), "BrushLabels")[0].id for radius in (10, 20))
    assert first == second


def test_parts_of_one_object_have_ids_of_their_own() -> None:
    two = np.zeros((60, 80), dtype=bool)
    two[5:25, 5:25] = two[30:50, 40:70] = True
    found = drawn(two, "PolygonLabels")
    assert len({region.id for region in found}) == len(found) == 2


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected size \(6, 8\), got \(8, 6\)"):
        regions.draw(Mask.from_array(disc((8, 6), 2)), prompt((6, 8)), output("BrushLabels"))


def test_a_control_that_holds_no_mask_is_refused() -> None:
    control = Control("point", "KeyPointLabels", ShapeKind.KEYPOINT, ("image",))
    with pytest.raises(ValueError, match="got <KeyPointLabels>"):
        regions.draw(Mask.from_array(disc((6, 8), 2)), prompt((6, 8)), OutputTag(control))


# Brush and bitmask


@settings(deadline=None)
@given(bool_arrays)
def test_a_brush_region_decodes_to_its_mask(array: np.ndarray) -> None:
    for region in drawn(array, "BrushLabels"):
        assert isinstance(region.shape, Brush)
        assert np.array_equal(rle.decode(region.shape.rle, array.shape).to_array(), array)


@settings(deadline=None)
@given(bool_arrays)
def test_a_bitmask_region_decodes_to_its_mask(array: np.ndarray) -> None:
    for region in drawn(array, "BitmaskLabels"):
        assert np.array_equal(bitmask.decode(region.shape.data_url, array.shape).to_array(), array)


@settings(deadline=None)
@given(bool_arrays)
def test_a_bitmask_is_an_rgba_png_black_with_the_mask_as_alpha(array: np.ndarray) -> None:
    head, _, payload = bitmask.encode(Mask.from_array(array)).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(payload))) as image:
        assert image.mode == "RGBA"
        pixels = np.array(image)
    assert not pixels[:, :, :3].any()
    assert np.array_equal(pixels[:, :, 3], array * np.uint8(255))


# Polygons (EDGE CASE 36)


@pytest.mark.parametrize("radius", [0.8, 1, 1.6, 2.5, 4, 7, 12, 30, 100])
def test_a_discs_polygon_decodes_to_it(radius: float) -> None:
    array = disc((220, 260), radius)
    found = drawn(array, "PolygonLabels")
    assert len(found) == 1
    assert iou(union(found, array.shape), array) >= 0.98


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("smoothness", [4, 12, 30])
def test_a_polygon_decodes_to_its_object_whatever_its_border(seed: int, smoothness: float) -> None:
    array = blob((240, 320), seed, smoothness)
    assert iou(union(drawn(array, "PolygonLabels"), array.shape), array) >= 0.98


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
    found = drawn(array, "PolygonLabels")
    assert found
    assert iou(union(found, array.shape), array) >= 0.98


def test_a_ring_is_one_polygon_around_its_hole() -> None:
    array = disc((300, 300), 120, 70)
    found = drawn(array, "PolygonLabels")
    assert len(found) == 1
    assert not filled(found[0].shape.points, array.shape)[150, 150]
    assert iou(union(found, array.shape), array) >= 0.98


def test_several_holes_are_gone_around() -> None:
    array = np.zeros((100, 100), dtype=bool)
    array[10:90, 10:90] = True
    array[30:50, 30:50] = array[30:50, 55:70] = array[60:70, 20:80] = False
    found = drawn(array, "PolygonLabels")
    assert len(found) == 1
    assert iou(union(found, array.shape), array) >= 0.98


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    array = disc((300, 300), 140, 100) | disc((300, 300), 60)
    found = drawn(array, "PolygonLabels")
    assert len(found) == 2
    assert iou(union(found, array.shape), array) >= 0.98


def test_specks_are_dropped_and_pinholes_filled() -> None:
    array = disc((300, 300), 100)
    array[10, 10] = True
    array[150, 150] = False
    found = drawn(array, "PolygonLabels")
    assert len(found) == 1
    assert filled(found[0].shape.points, array.shape)[150, 150]


def test_the_largest_part_comes_first() -> None:
    array = np.zeros((60, 80), dtype=bool)
    array[2:10, 2:10] = array[20:50, 20:70] = True
    sizes = [np.count_nonzero(filled(region.shape.points, array.shape)) for region in drawn(array, "PolygonLabels")]
    assert sizes == sorted(sizes, reverse=True)


def test_a_smooth_object_takes_few_corners() -> None:
    [region] = drawn(disc((600, 800), 200), "PolygonLabels")
    assert len(region.shape.points) < 60


def test_an_empty_mask_has_no_outline() -> None:
    assert polygons.rings(Mask.from_array(np.zeros((6, 8), dtype=bool))) == ()


def test_noise_gives_a_bounded_number_of_parts() -> None:
    random = np.random.default_rng(0)
    for density in (0.02, 0.5):
        noise = random.random((400, 400)) < density
        assert 0 < len(drawn(noise, "PolygonLabels")) <= polygons.MOST_PARTS


@settings(deadline=None)
@given(st.one_of(bool_arrays, st.builds(blob, st.just((40, 50)), st.integers(0, 10**6), st.floats(0.5, 6))))
def test_any_polygon_is_closed_simple_and_inside_the_image(array: np.ndarray) -> None:
    found = drawn(array, "PolygonLabels")
    assert bool(found) == bool(array.any())
    for region in found:
        points = np.array(region.shape.points)
        assert len(points) >= 3
        assert (points >= 0).all()
        assert (points <= 100).all()
        ring = shapely.LinearRing(points * (array.shape[1], array.shape[0]))
        assert ring.is_simple
        assert not np.array_equal(points[0], points[-1])


def test_a_vector_is_the_polygons_path_closed() -> None:
    array = disc((220, 260), 60)
    [polygon], [vector] = drawn(array, "PolygonLabels"), drawn(array, "VectorLabels")
    assert vector.shape == Vector(polygon.shape.points, closed=True)


# Rectangles and ellipses


@settings(deadline=None)
@given(bool_arrays)
def test_a_rectangle_is_the_tight_box(array: np.ndarray) -> None:
    for region in drawn(array, "RectangleLabels"):
        assert isinstance(region.shape, Rectangle)
        rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
        box = region.shape
        assert box.x * array.shape[1] / 100 == pytest.approx(columns[0])
        assert box.y * array.shape[0] / 100 == pytest.approx(rows[0])
        assert (box.x + box.width) * array.shape[1] / 100 == pytest.approx(columns[-1] + 1)
        assert (box.y + box.height) * array.shape[0] / 100 == pytest.approx(rows[-1] + 1)


def ellipse_pixels(shape: Ellipse, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    dx, dy = columns - shape.x * width / 100, rows - shape.y * height / 100
    cosine, sine = math.cos(math.radians(shape.rotation)), math.sin(math.radians(shape.rotation))
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    return np.hypot(along / (shape.radius_x * width / 100), across / (shape.radius_y * height / 100)) < 1


@pytest.mark.parametrize("rotation", [0, 20, 45, 70, 90, 110, 160, 300])
@pytest.mark.parametrize(("radius_x", "radius_y"), [(20, 10), (10, 20), (15, 15)])
def test_an_ellipse_is_found_again(rotation: float, radius_x: float, radius_y: float) -> None:
    size = (300, 400)
    array = ellipse_pixels(Ellipse(50, 45, radius_x, radius_y, rotation), size)
    [region] = drawn(array, "EllipseLabels")
    assert iou(ellipse_pixels(region.shape, size), array) >= 0.98
    assert 0 <= region.shape.rotation < 360


@settings(deadline=None)
@given(bool_arrays)
def test_any_ellipse_keeps_to_what_the_sdk_allows(array: np.ndarray) -> None:
    for region in drawn(array, "EllipseLabels"):
        shape = region.shape
        assert 0 <= shape.x <= 100
        assert 0 <= shape.y <= 100
        assert 0 < shape.radius_x <= 50
        assert 0 < shape.radius_y <= 50


# All the way


@settings(deadline=None)
@given(BODIES)
def test_any_request_comes_out_as_a_well_formed_answer(body: dict) -> None:
    """What the service does with a click, with a mask of every box's or image's middle in the decoder's place."""
    request = messages.parse_predict(encoded(body))
    try:
        controls = labeling_config.parse(request.label_config)
    except ConfigError:
        return
    found: list[Region] = []
    for each in prompts.translate(request.context or ()).objects:
        try:
            here = choose_output(labeling_config.on_image(controls, each.to_name), each.labels)
        except ConfigError:
            continue
        found.extend(regions.draw(Mask.from_array(disc(each.original_size, 5)), each, here, 0.5))
    answer = json.loads(messages.dump_predictions([Prediction(tuple(found), 0.5, "demo@1")]))
    for entry in answer["results"][0]["result"]:
        assert entry["type"] == "brushlabels"
        assert set(entry["value"]["brushlabels"]) <= {"Cat", "Dog"}
        assert entry["value"]["rle"]


@pytest.mark.reference
@pytest.mark.parametrize("labels", [("Cat",), ()])
def test_every_answer_passes_the_sdks_own_checks(labels: tuple[str, ...]) -> None:
    script = """
from label_studio_sdk.label_interface import LabelInterface
answer = [LabelInterface(config).validate_prediction(item, return_errors=True) for config, item in question]
"""
    array = blob((120, 160), 3, 12)
    question = []
    for tag in TAGS:
        found = regions.draw(Mask.from_array(array), prompt(array.shape), output(tag, labels), 0.9)
        config = CONFIG.replace("BrushLabels", tag).replace('name="brush"', 'name="out"')
        question.append((config, Prediction(found, 0.9, "demo@1")))
    for tag, kind in TAGS.items():
        plain = tag.removesuffix("Labels")
        control = Control("out", plain, kind, ("image",))
        found = regions.draw(Mask.from_array(array), prompt(array.shape), OutputTag(control, ("Cat",), "names"), 0.9)
        config = (
            f'<View><Image name="image" value="$image"/><{plain} name="out" toName="image"/>'
            '<Labels name="names" toName="image"><Label value="Cat"/></Labels></View>'
        )
        question.append((config, Prediction(found, 0.9, "demo@1")))
    wire = [
        (config, json.loads(messages.dump_predictions([prediction]))["results"][0]) for config, prediction in question
    ]
    assert all(item["result"] for _, item in wire)
    assert sdk.run(script, wire) == [[]] * len(wire)
