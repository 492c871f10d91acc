"""From masks to regions: each kind decodes back to its mask, and everything about it is as Label Studio wants it."""

import base64
import io
import json
import math
import re
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from backend.errors import ConfigError
from backend.labeling import config as labeling_config
from backend.labeling.config_types import Control, OutputTag
from backend.protocol import bitmask, messages, rle
from backend.segmentation import prompts, regions
from backend.shapes import DEFAULT_DETAIL, Brush, Detail, Ellipse, Polygon, Rectangle, ShapeKind, Vector
from backend.types import ObjectPrompt, Prediction, Region
from model.types import Mask, Prompt
from tests.reference import sdk
from tests.support.outlines import blob, disc, filled, iou
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


def output(tag: str, labels: tuple[str, ...] = ("Cat",), detail: Detail = DEFAULT_DETAIL) -> OutputTag:
    return OutputTag(Control("out", tag, TAGS[tag], ("image",), detail=detail), labels)


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


def drawn(
    array: np.ndarray, tag: str, score: float | None = 0.9, detail: Detail = DEFAULT_DETAIL, **changes: object
) -> tuple[Region, ...]:
    return regions.draw(Mask.from_array(array), prompt(array.shape, **changes), output(tag), score, detail)


def union(pieces: Iterable[Region], size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, dtype=bool)
    for region in pieces:
        assert isinstance(region.shape, Polygon | Vector)
        whole |= filled(region.shape.points, size)
    return whole


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
    drawn_regions = drawn(disc((60, 80), 20), tag)
    [item] = json.loads(messages.dump_predictions([Prediction(drawn_regions, 0.9, "demo@1")]))["results"]
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
    drawn_regions = drawn(two, "PolygonLabels")
    assert len({region.id for region in drawn_regions}) == len(drawn_regions) == 2


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


# Polygons, see test_polygons.py (EDGE CASE 36)


def test_parts_of_a_mask_are_regions_of_their_own() -> None:
    array = np.zeros((60, 80), dtype=bool)
    array[2:10, 2:10] = array[20:50, 20:70] = True
    drawn_regions = drawn(array, "PolygonLabels")
    assert len(drawn_regions) == 2
    assert iou(union(drawn_regions, array.shape), array) == 1


@settings(deadline=None)
@given(bool_arrays)
def test_any_polygon_is_inside_the_image(array: np.ndarray) -> None:
    drawn_regions = drawn(array, "PolygonLabels")
    assert bool(drawn_regions) == bool(array.any())
    for region in drawn_regions:
        points = np.array(region.shape.points)
        assert len(points) >= 3
        assert (points >= 0).all()
        assert (points <= 100).all()
        assert not np.array_equal(points[0], points[-1])


def test_a_vector_is_the_polygons_path_closed() -> None:
    array = disc((220, 260), 60)
    [polygon], [vector] = drawn(array, "PolygonLabels"), drawn(array, "VectorLabels")
    assert vector.shape == Vector(polygon.shape.points, closed=True)


# Detail


def corners(array: np.ndarray, control: Detail, defaults: Detail) -> int:
    [region] = regions.draw(
        Mask.from_array(array), prompt(array.shape), output("PolygonLabels", detail=control), 0.9, defaults
    )
    return len(region.shape.points)


def test_a_control_may_ask_for_another_detail_than_the_settings() -> None:
    array = disc((220, 260), 90)
    assert corners(array, Detail(), Detail(corners=12)) <= 12
    assert 12 < corners(array, Detail(corners=20), Detail(corners=12)) <= 20
    assert corners(array, Detail(tolerance=0.5), Detail(tolerance=8)) > corners(array, Detail(), Detail(tolerance=8))


SPECKLED = disc((300, 300), 100)
SPECKLED[8:10, 8:10] = True
SPECKLED[150:152, 150:152] = False


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels"])
@pytest.mark.parametrize(("min_area", "cleaned"), [(None, False), (4, False), (5, True)])
def test_a_painted_mask_loses_specks_and_holes_below_the_min_area(
    tag: str, min_area: float | None, cleaned: bool
) -> None:
    [region] = drawn(SPECKLED, tag, detail=Detail(min_area=min_area))
    code = region.shape
    mask = rle.decode(code.rle, (300, 300)) if isinstance(code, Brush) else bitmask.decode(code.data_url, (300, 300))
    assert np.array_equal(mask.to_array(), disc((300, 300), 100) if cleaned else SPECKLED)


@pytest.mark.parametrize(("min_area", "parts"), [(None, 1), (4, 2), (5, 1)])
def test_outlines_lose_specks_by_default(min_area: float | None, parts: int) -> None:
    assert len(drawn(SPECKLED, "PolygonLabels", detail=Detail(min_area=min_area))) == parts


def test_a_box_and_an_ellipse_keep_to_the_object_without_its_specks() -> None:
    for tag in ("RectangleLabels", "EllipseLabels"):
        cleaned = drawn(SPECKLED, tag, detail=Detail(min_area=5))
        assert [region.shape for region in cleaned] == [region.shape for region in drawn(disc((300, 300), 100), tag)]


def test_the_min_area_never_drops_the_whole_object() -> None:
    for tag in TAGS:
        assert drawn(disc((60, 80), 5), tag, detail=Detail(min_area=1e9))


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
    drawn_regions: list[Region] = []
    for each in prompts.translate(request.context or ()).objects:
        try:
            output_of_prompt = choose_output(labeling_config.on_image(controls, each.to_name), each.labels)
        except ConfigError:
            continue
        drawn_regions.extend(regions.draw(Mask.from_array(disc(each.original_size, 5)), each, output_of_prompt, 0.5))
    answer = json.loads(messages.dump_predictions([Prediction(tuple(drawn_regions), 0.5, "demo@1")]))
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
        drawn_regions = regions.draw(Mask.from_array(array), prompt(array.shape), output(tag, labels), 0.9)
        config = CONFIG.replace("BrushLabels", tag).replace('name="brush"', 'name="out"')
        question.append((config, Prediction(drawn_regions, 0.9, "demo@1")))
    for tag, kind in TAGS.items():
        plain = tag.removesuffix("Labels")
        control = Control("out", plain, kind, ("image",))
        drawn_regions = regions.draw(
            Mask.from_array(array), prompt(array.shape), OutputTag(control, ("Cat",), "names"), 0.9
        )
        config = (
            f'<View><Image name="image" value="$image"/><{plain} name="out" toName="image"/>'
            '<Labels name="names" toName="image"><Label value="Cat"/></Labels></View>'
        )
        question.append((config, Prediction(drawn_regions, 0.9, "demo@1")))
    wire = [
        (config, json.loads(messages.dump_predictions([prediction]))["results"][0]) for config, prediction in question
    ]
    assert all(item["result"] for _, item in wire)
    assert sdk.run(script, wire) == [[]] * len(wire)
