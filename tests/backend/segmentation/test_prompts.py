"""From a click's context to the model's prompts: every kind of region, and every way in which one can be odd."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import Reason
from backend.protocol import bitmask, messages, rle
from backend.segmentation import prompts
from backend.segmentation.prompts import ResolvedPrompts
from backend.segmentation.shape_prompts import ROUGH_SIDE
from backend.types import ObjectPrompt
from model.types import Mask
from tests.support.wire_bodies import BODIES, GOLDEN, click, encoded, recorded, rectangle, result

SIZE = (600, 800)


def translated(*results: object) -> ResolvedPrompts:
    request = messages.parse_predict(encoded(click(*results)))
    assert request.skipped == ()
    return prompts.translate(request.context)


def only(translation: ResolvedPrompts) -> ObjectPrompt:
    [object_prompt] = translation.objects
    return object_prompt


def refused(translation: ResolvedPrompts) -> list[Reason]:
    assert translation.objects == ()
    return [skip.reason for skip in translation.skipped]


def point(x: float, y: float, is_positive: bool | None = True, label: str = "Cat", **changes: object) -> dict:
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    sign = {} if is_positive is None else {"is_positive": is_positive}
    return result(value=value, id=f"p{x}-{y}", **sign, **changes)


def shape(kind: str, **value: object) -> dict:
    return result(kind, value | {kind: ["Cat"]}, id=kind)


def drawn(translation: ResolvedPrompts) -> np.ndarray:
    """The rough mask of the only object, (H, W) bool in pixels of its image."""
    object_prompt = only(translation)
    height, width = object_prompt.original_size
    rough = object_prompt.prompt.rough_mask
    assert max(rough.shape) == min(ROUGH_SIDE, max(height, width))
    shares = rough.astype(np.float32) / (255 if rough.dtype == np.uint8 else 1)
    return cv2.resize(shares, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """The intersection over union of two masks."""
    return (first & second).sum() / (first | second).sum()


def box_of(translation: ResolvedPrompts) -> list[float]:
    return only(translation).prompt.box.tolist()


def painted(array: np.ndarray, **changes: object) -> dict:
    value = {"format": "rle", "rle": list(rle.encode(Mask.from_array(array))), "brushlabels": ["Cat"]}
    height, width = array.shape
    return result("brushlabels", value, original_width=width, original_height=height, **changes)


def disc(size: tuple[int, int] = SIZE, centre: tuple[int, int] = (400, 300), radius: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.hypot(columns - centre[0], rows - centre[1]) < radius


# Points (EDGE CASES 3, 4, 7, 9, 12, 13, 14)


def test_a_point_is_placed_in_pixels_without_rounding() -> None:
    object_prompt = only(translated(point(28.649835345773877, 28.631540431759973)))
    assert object_prompt.prompt.point_coords.tolist() == [[pytest.approx(229.19868), pytest.approx(171.78924)]]
    assert object_prompt.prompt.point_labels.tolist() == [1]
    assert object_prompt.prompt.is_single_point


def test_points_of_one_label_accumulate_into_one_object() -> None:
    body = recorded("keypoints_with_negative")
    object_prompt = only(prompts.translate(messages.parse_predict(encoded(body)).context))
    assert object_prompt.prompt.point_labels.tolist() == [1, 1, 0]
    assert object_prompt.region_ids == ("3syvoXs52x", "eNRK-nzwiE", "ROCqzF2TRr")
    assert (object_prompt.labels, object_prompt.from_name, object_prompt.to_name, object_prompt.original_size) == (
        ("Cat",),
        "tag2",
        "image",
        SIZE,
    )


def test_points_of_two_labels_are_two_objects() -> None:
    objects = translated(point(10, 10), point(50, 50, label="Dog"), point(12, 10)).objects
    assert [(prompt.labels, len(prompt.region_ids)) for prompt in objects] == [(("Cat",), 2), (("Dog",), 1)]


def test_a_point_without_a_sign_is_positive() -> None:
    assert only(translated(point(10, 10, None))).prompt.point_labels.tolist() == [1]


def test_points_drawn_by_hand_are_no_prompts_where_others_have_a_sign() -> None:
    translation = translated(point(10, 10, None), point(50, 50))
    assert only(translation).region_ids == ("p50-50",)
    assert [(skip.region_id, skip.reason) for skip in translation.skipped] == [("p10-10", Reason.NOT_A_PROMPT)]


def test_only_negative_points_mark_nothing() -> None:
    assert refused(translated(point(10, 10, False), point(20, 20, False))) == [Reason.ONLY_NEGATIVE_POINTS] * 2


def test_the_later_of_two_points_on_one_pixel_counts() -> None:
    object_prompt = only(translated(point(50, 50), point(10, 10), point(50.01, 50.01, False)))
    assert object_prompt.region_ids == ("p10-10", "p50.01-50.01")
    assert object_prompt.prompt.point_labels.tolist() == [1, 0]


def test_a_positive_point_taken_back_by_a_negative_one_marks_nothing() -> None:
    assert refused(translated(point(50, 50), point(50, 50.001, False))) == [Reason.ONLY_NEGATIVE_POINTS]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (100, 100, (np.nextafter(np.float32(800), 0), np.nextafter(np.float32(600), 0))),
        (0, 0, (0, 0)),
        (-0.5, 50, (0, 300)),
        (50, 100.9, (400, np.nextafter(np.float32(600), 0))),
    ],
)
def test_a_point_on_or_just_past_the_border_lies_inside(x: float, y: float, expected: tuple[float, float]) -> None:
    assert only(translated(point(x, y))).prompt.point_coords[0].tolist() == [float(value) for value in expected]


@pytest.mark.parametrize(("x", "y"), [(-5, 50), (50, 120), (1e300, 0), (0, -1e12)])
def test_a_point_far_outside_marks_nothing(x: float, y: float) -> None:
    assert refused(translated(point(x, y)))[0] in (Reason.OUTSIDE_IMAGE, Reason.BAD_GEOMETRY)


def test_of_very_many_points_the_newest_count_with_a_positive_one_among_them() -> None:
    dots = [point(1, 1), *(point(2 + number % 40, 2 + number // 40, False) for number in range(100))]
    translation = translated(*dots)
    object_prompt = only(translation)
    assert len(object_prompt.prompt.point_labels) == prompts.MOST_POINTS
    assert object_prompt.prompt.point_labels.tolist() == [1] + [0] * (prompts.MOST_POINTS - 1)
    assert object_prompt.region_ids[-1] == "p21-4"
    assert {skip.reason for skip in translation.skipped} == {Reason.TOO_MANY_POINTS}
    assert len(translation.skipped) + prompts.MOST_POINTS == len(dots)


# Rectangles (EDGE CASES 7, 8, 9, 10)


def test_a_rectangle_is_its_box() -> None:
    object_prompt = only(translated(rectangle(10, 50, 25, 30)))
    assert object_prompt.prompt.box.tolist() == [80, 300, 280, 480]
    assert (object_prompt.prompt.point_coords, object_prompt.from_name) == (None, "box")


@pytest.mark.parametrize(("x", "y", "width", "height"), [(35, 80, -25, -30), (35, 50, -25, 30), (10, 80, 25, -30)])
def test_a_reversed_rectangle_gives_the_same_box(x: float, y: float, width: float, height: float) -> None:
    assert box_of(translated(rectangle(x, y, width, height))) == [80, 300, 280, 480]


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0.1, 0.1), (-0.1, 0)])
def test_a_rectangle_of_no_size_is_a_point(width: float, height: float) -> None:
    object_prompt = only(translated(rectangle(50, 50, width, height)))
    assert object_prompt.prompt.is_single_point
    assert object_prompt.prompt.point_coords[0].tolist() == pytest.approx([400, 300], abs=0.5)


def test_a_rectangle_of_no_width_is_grown_to_a_pixel() -> None:
    assert box_of(translated(rectangle(50, 50, 0, 10))) == [399.5, 300, 400.5, 360]


def test_a_rectangle_over_the_border_is_clipped() -> None:
    assert box_of(translated(rectangle(-10, 90, 20, 50))) == [0, 540, 80, 600]


@pytest.mark.parametrize(
    ("x", "y", "width", "height"), [(110, 10, 5, 5), (-30, 10, 20, 20), (10, 100, 5, 5), (1e9, 0, 1, 1)]
)
def test_a_rectangle_outside_the_image_marks_nothing(x: float, y: float, width: float, height: float) -> None:
    assert refused(translated(rectangle(x, y, width, height)))[0] in (Reason.OUTSIDE_IMAGE, Reason.BAD_GEOMETRY)


def test_a_rectangle_turns_about_its_corner_in_pixels() -> None:
    """A quarter turn clockwise about (400, 300) lays 200 × 120 pixels to the lower left."""
    assert box_of(translated(rectangle(50, 50, 25, 20, 90))) == [280, 300, 400, 500]


def test_a_slanted_rectangle_gives_the_box_around_its_corners() -> None:
    side = 100 / math.sqrt(2)
    expected = [400 - side, 300, 400 + side, 300 + 2 * side]
    assert box_of(translated(rectangle(50, 50, 12.5, 100 / 6, 45))) == pytest.approx(expected, abs=0.01)


@settings(deadline=None)
@given(st.floats(-720, 720), st.floats(10, 40), st.floats(10, 40), st.floats(-30, 30), st.floats(-30, 30))
def test_a_turned_rectangles_box_holds_its_centre(
    rotation: float, x: float, y: float, width: float, height: float
) -> None:
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    across, down = width * 4, height * 3  # half the sides in pixels of 800 × 600
    centre_x, centre_y = x * 8 + across * cosine - down * sine, y * 6 + across * sine + down * cosine
    translation = translated(rectangle(x, y, width, height, rotation))
    if not (1 < centre_x < 799 and 1 < centre_y < 599) or max(abs(across), abs(down)) < 1:
        return
    x1, y1, x2, y2 = box_of(translation)
    assert x1 - 0.01 <= centre_x <= x2 + 0.01
    assert y1 - 0.01 <= centre_y <= y2 + 0.01


def test_every_rectangle_is_an_object_of_its_own_in_order() -> None:
    boxes = [rectangle(10 * number, 10, 8, 8, id=f"r{number}") for number in range(4)]
    assert [prompt.region_ids for prompt in translated(*boxes).objects] == [("r0",), ("r1",), ("r2",), ("r3",)]


def test_points_inside_a_rectangle_refine_it() -> None:
    object_prompt = only(translated(rectangle(10, 50, 25, 30, id="box"), point(20, 60), point(30, 70, False)))
    assert object_prompt.prompt.box.tolist() == [80, 300, 280, 480]
    assert object_prompt.prompt.point_labels.tolist() == [1, 0]
    assert object_prompt.region_ids == ("box", "p20-60", "p30-70")


def test_a_point_in_two_rectangles_refines_the_smaller() -> None:
    objects = translated(
        rectangle(0, 0, 90, 90, id="big"), rectangle(10, 10, 20, 20, id="small"), point(15, 15)
    ).objects
    assert [prompt.region_ids for prompt in objects] == [("big",), ("small", "p15-15")]


def test_a_point_of_another_label_does_not_refine_a_rectangle() -> None:
    objects = translated(rectangle(0, 0, 50, 50, id="box"), point(15, 15, label="Dog")).objects
    assert [prompt.region_ids for prompt in objects] == [("box",), ("p15-15",)]


def test_a_positive_point_outside_all_rectangles_is_an_object_of_its_own() -> None:
    objects = translated(rectangle(0, 0, 20, 20, id="box"), point(70, 70)).objects
    assert [prompt.region_ids for prompt in objects] == [("box",), ("p70-70",)]


def test_a_negative_point_beside_the_only_rectangle_goes_with_it() -> None:
    object_prompt = only(translated(rectangle(0, 0, 20, 20, id="box"), point(25, 10, False)))
    assert (object_prompt.region_ids, object_prompt.prompt.point_labels.tolist()) == (("box", "p25-10"), [0])


def test_a_negative_point_beside_several_rectangles_is_left_out() -> None:
    translation = translated(rectangle(0, 0, 9, 9, id="a"), rectangle(20, 0, 9, 9, id="b"), point(50, 50, False))
    assert [prompt.region_ids for prompt in translation.objects] == [("a",), ("b",)]
    assert [skip.reason for skip in translation.skipped] == [Reason.ONLY_NEGATIVE_POINTS]


def test_a_negative_rectangle_is_not_supported() -> None:
    assert refused(translated(rectangle(0, 0, 9, 9, is_positive=False))) == [Reason.UNSUPPORTED_PROMPT]


# Ellipses, polygons, masks (EDGE CASE 11)


def test_an_ellipse_is_its_box_and_its_centre() -> None:
    object_prompt = only(translated(shape("ellipselabels", x=50, y=50, radiusX=10, radiusY=20, rotation=0)))
    assert object_prompt.prompt.box.tolist() == [320, 180, 480, 420]
    assert object_prompt.prompt.point_coords.tolist() == [[400, 300]]


def test_an_ellipse_turns_about_its_centre_in_pixels() -> None:
    quarter = shape("ellipselabels", x=50, y=50, radiusX=10, radiusY=20, rotation=90)
    assert box_of(translated(quarter)) == [280, 220, 520, 380]
    slanted = shape("ellipselabels", x=50, y=50, radiusX=10, radiusY=20, rotation=30)
    contour = cv2.ellipse2Poly((400, 300), (80, 120), 30, 0, 360, 1)
    outline = [*contour.min(axis=0), *contour.max(axis=0)]
    assert box_of(translated(slanted)) == pytest.approx(outline, abs=1)


def test_an_ellipse_of_no_size_is_a_point() -> None:
    object_prompt = only(translated(shape("ellipselabels", x=50, y=50, radiusX=0, radiusY=0.01)))
    assert object_prompt.prompt.is_single_point


def test_an_ellipse_centred_outside_is_its_part_inside() -> None:
    object_prompt = only(translated(shape("ellipselabels", x=-5, y=50, radiusX=10, radiusY=10)))
    assert object_prompt.prompt.box.tolist() == [0, 240, 40, 360]
    assert object_prompt.prompt.point_coords is None


def test_a_polygon_is_its_box_its_area_and_a_point_inside() -> None:
    points = [[10, 10], [60, 10], [60, 60], [50, 60], [50, 20], [10, 20]]
    object_prompt = only(translated(shape("polygonlabels", points=points, closed=True)))
    assert object_prompt.prompt.box.tolist() == [80, 60, 480, 360]
    rough = drawn(translated(shape("polygonlabels", points=points, closed=True)))
    assert int(rough.sum()) == pytest.approx(400 * 60 + 80 * 240, rel=0.02)
    [[x, y]] = object_prompt.prompt.point_coords.astype(int)
    assert rough[y, x]


def test_a_polygon_on_a_large_photo_is_the_same_area_and_its_point_lies_inside() -> None:
    points = [[10, 10], [60, 10], [60, 60], [50, 60], [50, 20], [10, 20]]
    entry = shape("polygonlabels", points=points, closed=True) | {"original_width": 8000, "original_height": 6000}
    object_prompt = only(translated(entry))
    rough = drawn(translated(entry))
    assert int(rough.sum()) == pytest.approx(4000 * 600 + 800 * 2400, rel=0.03)
    [[x, y]] = object_prompt.prompt.point_coords.astype(int)
    assert rough[y, x]


def test_a_polygon_around_its_middle_twice_covers_it_as_the_editor_shows() -> None:
    star = [[50 + 40 * math.sin(0.8 * math.pi * n), 50 - 40 * math.cos(0.8 * math.pi * n)] for n in range(5)]
    rough = drawn(translated(shape("polygonlabels", points=star, closed=True)))
    assert rough[rough.shape[0] // 2, rough.shape[1] // 2]


def test_a_polygon_thinner_than_the_distance_of_pixels_marks_its_place() -> None:
    entry = shape("polygonlabels", points=[[10, 10.01], [60, 10.01], [60, 10.02]], closed=True)
    assert only(translated(entry)).prompt.rough_mask.any()


def test_a_polygon_outside_marks_nothing() -> None:
    outside = shape("polygonlabels", points=[[110, 10], [120, 10], [120, 20]])
    assert refused(translated(outside)) == [Reason.OUTSIDE_IMAGE]


def test_a_closed_path_is_a_polygon_and_an_open_one_is_not_supported() -> None:
    vertices = [{"x": 10, "y": 10}, {"x": 40, "y": 10}, {"x": 40, "y": 40}]
    closed = only(translated(shape("vectorlabels", vertices=vertices, closed=True)))
    assert closed.prompt.box.tolist() == [80, 60, 320, 240]
    assert refused(translated(shape("vectorlabels", vertices=vertices))) == [Reason.UNSUPPORTED_PROMPT]


def test_a_painted_mask_is_a_rough_mask_and_a_point_inside() -> None:
    object_prompt = only(translated(painted(disc())))
    assert agreement(drawn(translated(painted(disc()))), disc()) > 0.98
    assert object_prompt.prompt.point_coords[0].tolist() == pytest.approx([400.5, 300.5], abs=3)
    assert (object_prompt.prompt.point_labels.tolist(), object_prompt.prompt.box) == ([1], None)


def test_points_on_a_painted_mask_refine_it() -> None:
    object_prompt = only(translated(painted(disc(), id="paint"), point(51, 51), point(52, 45, False)))
    assert (object_prompt.region_ids, object_prompt.prompt.point_labels.tolist()) == (
        ("paint", "p51-51", "p52-45"),
        [1, 1, 0],
    )


def test_a_mask_saved_by_the_editor_is_a_prompt() -> None:
    body = recorded("webhook_annotation_created")
    [entry, *_] = [entry for entry in body["annotation"]["result"] if "rle" in entry["value"]]
    assert 0 < drawn(translated(entry)).mean() < 1


def test_strokes_of_a_brush_and_an_eraser_are_drawn() -> None:
    touches = [
        {"relativePoints": [25, 50, 75, 50], "relativeStrokeWidth": 10},
        {"relativePoints": [50, 50], "relativeStrokeWidth": 5, "compositeOperation": "destination-out"},
    ]
    rough = drawn(translated(result("brushlabels", {"touches": touches})))
    assert rough[300, 250]
    assert not rough[300, 400]
    assert rough[:, 300].sum() == pytest.approx(80, abs=2)


def test_strokes_and_an_eraser_over_a_loaded_mask_are_drawn_as_over_run_lengths() -> None:
    touches = [
        {"relativePoints": [2, 90, 20, 90], "relativeStrokeWidth": 5, "type": "add"},
        {"relativePoints": [50, 50], "relativeStrokeWidth": 5, "type": "eraser"},
    ]
    mask = Mask.from_array(disc())
    loaded = drawn(translated(result("brushlabels", {"maskDataURL": bitmask.encode(mask), "touches": touches})))
    coded = drawn(translated(result("brushlabels", {"rle": list(rle.encode(mask)), "touches": touches})))
    assert (loaded == coded).all()
    assert agreement(loaded, disc()) < 0.98


def test_a_bitmask_is_a_rough_mask() -> None:
    value = {"imageDataURL": bitmask.encode(Mask.from_array(disc())), "bitmasklabels": ["Cat"]}
    assert agreement(drawn(translated(result("bitmasklabels", value))), disc()) > 0.98


def test_a_bitmask_saved_by_the_editor_is_a_prompt() -> None:
    [entry] = json.loads((GOLDEN / "editor" / "editor_native_bitmask.json").read_text())
    assert only(translated(entry)).prompt.rough_mask.any()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"rle": [1, 2, 3]}, Reason.BAD_GEOMETRY),
        ({"rle": list(rle.encode(Mask.from_array(disc((60, 80)))))}, Reason.BAD_GEOMETRY),
        ({"rle": list(rle.encode(Mask.from_array(np.zeros(SIZE, dtype=bool))))}, Reason.NO_PROMPT),
        ({"touches": [{"relativePoints": [], "relativeStrokeWidth": 1}]}, Reason.NO_PROMPT),
        ({"maskDataURL": "https://host/mask.png"}, Reason.BAD_GEOMETRY),
        ({"maskDataURL": "data:image/png;base64,!!!"}, Reason.BAD_GEOMETRY),
        ({"maskDataURL": bitmask.encode(Mask.from_array(disc((60, 80))))}, Reason.BAD_GEOMETRY),
        ({"maskDataURL": bitmask.encode(Mask.from_array(disc()))[: 22 + 80]}, Reason.BAD_GEOMETRY),
    ],
    ids=["damaged", "other size", "empty", "no strokes", "address", "no base64", "png of other size", "png cut off"],
)
def test_a_painted_mask_that_cannot_be_used_says_why(value: dict, reason: Reason) -> None:
    assert refused(translated(result("brushlabels", value))) == [reason]


def test_a_mask_is_scaled_to_the_grid_that_the_decoder_sees() -> None:
    object_prompt = only(translated(painted(disc())))
    assert (object_prompt.original_size, object_prompt.prompt.rough_mask.shape) == (SIZE, (192, 256))
    share = object_prompt.prompt.rough_mask.sum() / 255 / object_prompt.prompt.rough_mask.size
    assert share == pytest.approx(disc().mean(), rel=0.01)


def test_a_painted_dot_has_its_point_on_it() -> None:
    dot = np.zeros(SIZE, dtype=bool)
    dot[300, 400] = True
    assert only(translated(painted(dot))).prompt.point_coords.tolist() == [[400.5, 300.5]]


def test_a_thin_line_across_a_large_photo_has_its_point_on_it() -> None:
    line = np.zeros((3000, 4000), dtype=bool)
    line[1501, 10:3990] = line[5, 5] = True
    object_prompt = only(translated(painted(line)))
    [[x, y]] = object_prompt.prompt.point_coords.astype(int)
    assert line[y, x]


# Rotation, lists, sizes (EDGE CASES 15, 16)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_view_moves_no_prompt_and_is_echoed(rotation: int) -> None:
    upright, turned = (only(translated(point(10, 30, image_rotation=angle))) for angle in (0, rotation))
    assert turned.prompt.point_coords.tolist() == upright.prompt.point_coords.tolist() == [[80, 180]]
    assert (turned.original_size, turned.image_rotation) == (SIZE, rotation)


def test_items_of_a_list_are_objects_of_their_own() -> None:
    objects = translated(point(10, 10, item_index=0), point(20, 20, item_index=2), point(30, 30, item_index=0)).objects
    assert [(prompt.item_index, len(prompt.region_ids)) for prompt in objects] == [(0, 2), (2, 1)]


def test_images_of_two_names_are_objects_of_their_own() -> None:
    objects = translated(point(10, 10), point(20, 20, to_name="other")).objects
    assert [prompt.to_name for prompt in objects] == ["image", "other"]


def test_a_region_without_a_size_marks_nothing() -> None:
    assert refused(translated(point(50, 50, original_width=...))) == [Reason.BAD_GEOMETRY]


def test_a_size_beyond_any_photo_marks_nothing() -> None:
    assert refused(translated(point(50, 50, original_width=10**9, original_height=10**9))) == [Reason.BAD_GEOMETRY]


def test_an_empty_context_marks_nothing() -> None:
    assert translated() == ResolvedPrompts(())


def test_the_same_context_gives_the_same_prompts() -> None:
    """EDGE CASE 37."""
    first, second = (only(translated(rectangle(10, 50, 25, 30), point(20, 60))) for _ in range(2))
    assert first.region_ids == second.region_ids
    assert np.array_equal(first.prompt.box, second.prompt.box)


# Anything at all


@settings(deadline=None)
@given(BODIES)
def test_any_context_gives_prompts_inside_the_image_or_reasons(body: dict) -> None:
    request = messages.parse_predict(encoded(body))
    translation = prompts.translate(request.context or ())
    used = {name for prompt in translation.objects for name in prompt.region_ids}
    for prompt in translation.objects:
        height, width = prompt.original_size
        if prompt.prompt.point_coords is not None:
            assert (prompt.prompt.point_coords >= 0).all()
            assert (prompt.prompt.point_coords < (width, height)).all()
        if prompt.prompt.box is not None:
            assert (prompt.prompt.box >= 0).all()
            assert (prompt.prompt.box <= (width, height, width, height)).all()
        if prompt.prompt.rough_mask is not None:
            assert max(prompt.prompt.rough_mask.shape) == min(ROUGH_SIDE, max(height, width))
    if request.context and not translation.objects:
        assert translation.skipped
    assert not used & {skip.region_id for skip in translation.skipped}


# Limits of a click: the newest objects count


def polygons(count: int, **size: int) -> list[dict]:
    value = {"points": [[1, 1], [99, 1], [50, 99]], "polygonlabels": ["Cat"]}
    return [result("polygonlabels", value, id=f"area-{number}", **size) for number in range(count)]


def test_of_more_areas_than_a_click_may_have_the_newest_are_drawn() -> None:
    translation = translated(*polygons(prompts.MOST_OBJECTS + 2, original_width=80, original_height=60))
    assert [prompt.region_ids[0] for prompt in translation.objects] == [f"area-{2 + n}" for n in range(256)]
    assert [(skip.region_id, skip.reason) for skip in translation.skipped] == [
        ("area-0", Reason.TOO_COMPLEX), ("area-1", Reason.TOO_COMPLEX),
    ]  # fmt: skip


def test_of_areas_that_take_more_work_than_a_click_may_the_newest_are_drawn_and_points_all_count() -> None:
    size = {"original_width": 16_000, "original_height": 12_000}
    value = {"imageDataURL": bitmask.encode(Mask.from_array(disc((12, 16), (8, 6), 4))), "bitmasklabels": ["Cat"]}
    masks = [result("bitmasklabels", value, id=f"mask-{number}", **size) for number in range(2)]
    translation = translated(point(10, 10, label="Dog", **size), *masks)
    assert [prompt.labels for prompt in translation.objects] == [("Dog",)]
    reasons = {skip.region_id: skip.reason for skip in translation.skipped}
    assert reasons == {"mask-0": Reason.TOO_COMPLEX, "mask-1": Reason.BAD_GEOMETRY}, "the newer is of another size"


@pytest.mark.parametrize("beside", [{}, {"maskDataURL": bitmask.encode(Mask.from_array(disc()))}])
def test_strokes_that_take_more_work_than_a_click_may_are_left_out(beside: dict) -> None:
    touches = [{"relativePoints": [0, 0, 100, 100] * 2000, "relativeStrokeWidth": 100}]
    [skip] = translated(result("brushlabels", {"touches": touches, **beside})).skipped
    assert skip.reason is Reason.TOO_COMPLEX


def test_a_task_may_hold_any_number_of_areas() -> None:
    context = messages.parse_predict(encoded(click(*polygons(300, original_width=80, original_height=60)))).context
    assert len(prompts.translate(context, is_click=False).objects) == 300
