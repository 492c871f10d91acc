"""The wire: what recorded and broken requests are read as, and how answers are written."""

import json
import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ProtocolError, Reason
from backend.protocol import messages, rle
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, Stroke, Vector
from backend.types import Prediction, PredictRequest, Region, Task
from model.types import Mask
from tests.support.wire_bodies import BODIES, CONFIG, GOLDEN, click, encoded, recorded, rectangle, result


def parsed(*results: object) -> PredictRequest:
    return messages.parse_predict(encoded(click(*results)))


def region(**changes: object) -> Region:
    fields = {
        "id": "abcdefghijkl",
        "control": "brush",
        "type": "brushlabels",
        "to_name": "image",
        "shape": Brush(b"\x00\xff"),
        "labels": ("Cat",),
        "original_size": (600, 800),
        "score": 0.5,
    }
    return Region(**(fields | changes))


def answered(*regions: Region) -> list[dict]:
    [item] = json.loads(messages.dump_predictions([Prediction(regions, 0.5, "demo@1")]))["results"]
    return item["result"]


def body_with_saved_masks(count: int, context: object) -> bytes:
    """Return a click's body whose task holds so many saved masks of about 100 KB each."""
    code = [0, 255, 192, 63, 1, 128, 7, 33] * 3000
    saved = [{"id": number, "value": {"format": "rle", "rle": code}, "type": "brushlabels"} for number in range(count)]
    task = {"id": 1, "data": {"image": "a.jpg"}, "drafts": [{"result": saved}], "annotations": [{"result": saved[:1]}]}
    return encoded(click(tasks=[task], params={"context": context}))


# Recorded requests


def test_a_recorded_click_is_read() -> None:
    request = messages.parse_predict(encoded(recorded("keypoint")))
    assert [(task.id, task.data) for task in request.tasks] == [
        (1, {"image": "/data/upload/1/3024c2b9-plain_800x600.jpg"})
    ]
    assert request.project_id == 1
    assert request.label_config.startswith("<View>")
    [point] = request.context
    assert point.shape == KeyPoint(28.649835345773877, 28.631540431759973)
    assert (point.id, point.from_name, point.to_name) == ("dhcDaSwZB2", "tag2", "image")
    assert (point.labels, point.is_positive) == (("Cat",), True)
    assert (point.original_size, point.image_rotation, point.item_index) == ((600, 800), 0, None)


def test_a_recorded_rectangle_is_read() -> None:
    [box] = messages.parse_predict(encoded(recorded("rectangle"))).context
    assert box.shape == Rectangle(9.989023051591657, 50.000000000000014, 25.02744237102086, 34.97987559458468, 0)
    assert box.is_positive is None


def test_recorded_clicks_accumulate_oldest_first() -> None:
    context = messages.parse_predict(encoded(recorded("keypoints_with_negative"))).context
    assert [point.id for point in context] == ["3syvoXs52x", "eNRK-nzwiE", "ROCqzF2TRr"]
    assert [point.is_positive for point in context] == [True, True, False]


def test_a_recorded_click_on_a_turned_photo_has_the_browsers_size() -> None:
    [point] = messages.parse_predict(encoded(recorded("keypoint_exif6"))).context
    assert point.original_size == (800, 600)


def test_a_recorded_click_on_a_list_of_images_keeps_its_item_index() -> None:
    [point] = messages.parse_predict(encoded(recorded("keypoint_multi_image_item0"))).context
    assert point.item_index == 0


def test_opening_a_task_is_no_click() -> None:
    assert messages.parse_predict(encoded(recorded("open_task_no_context"))).context is None


def test_all_tasks_of_a_page_are_kept_in_order() -> None:
    request = messages.parse_predict(encoded(recorded("retrieve_predictions_many_tasks")))
    assert [task.id for task in request.tasks] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_recorded_setup_is_read_without_its_token() -> None:
    body = recorded("setup")
    setup = messages.parse_setup(encoded(body))
    assert (setup.project_id, setup.label_config) == (1, body["schema"])
    assert body["access_token"] == "0123456789abcdef0123456789abcdef01234567"
    assert body["access_token"] not in repr(setup)


def test_recorded_webhooks_are_read() -> None:
    created = messages.parse_webhook(encoded(recorded("webhook_annotation_created")))
    assert (created.action, created.project_id) == ("ANNOTATION_CREATED", 1)
    assert [task.id for task in created.tasks] == [8]
    updated = messages.parse_webhook(encoded(recorded("webhook_project_updated")))
    assert (updated.action, updated.tasks) == ("PROJECT_UPDATED", ())
    assert updated.label_config.startswith("<View>")
    assert (created.annotations, updated.annotations) == (1, 0)


def test_the_recorded_request_of_start_training_is_read() -> None:
    event = messages.parse_webhook(encoded(recorded("webhook_start_training")))
    assert (event.action, event.project_id, event.annotations) == ("START_TRAINING", 2, 1)


@pytest.mark.parametrize("count", [None, "many", [], -3, 1e400, 2**31, 2**53, 10**30])
def test_a_number_of_annotations_that_is_none_counts_as_0(count) -> None:
    body = {"action": "ANNOTATION_CREATED", "project": {"id": 7, "total_annotations_number": count}}
    assert messages.parse_webhook(encoded(body)).annotations == 0


def test_created_tasks_come_with_their_data() -> None:
    body = {"action": "TASKS_CREATED", "project": {"id": 7}, "tasks": [{"id": 3, "data": {"image": "a.jpg"}}]}
    event = messages.parse_webhook(encoded(body))
    assert event.project_id == 7
    assert [(task.id, task.data) for task in event.tasks] == [(3, {"image": "a.jpg"})]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rectangle", Rectangle(39.956092206366634, 50.000000000000014, 15.038419319429195, 20.051225759238932, 0)),
        ("ellipse", Ellipse(80.02195389681668, 50.000000000000014, 9.989023051591673, 9.952433223563844, 0)),
        ("keypoint", KeyPoint(35.01646542261252, 80.00365898280279)),
        (
            "polygon",
            Polygon(
                (
                    (50.054884742041715, 10.043907793633371),
                    (60.04390779363338, 10.043907793633371),
                    (60.04390779363338, 24.972557628979143),
                )
            ),
        ),
    ],
)
def test_regions_that_the_editor_saved_are_read_as_prompts(name: str, shape: object) -> None:
    [entry] = json.loads((GOLDEN / "editor" / f"editor_native_{name}.json").read_text())
    [region] = parsed(entry).context
    assert region.shape == shape
    assert (region.labels, region.original_size) == (("Cat",), (600, 800))


def test_a_bitmask_that_the_editor_saved_is_read_as_a_prompt() -> None:
    [entry] = json.loads((GOLDEN / "editor" / "editor_native_bitmask.json").read_text())
    [region] = parsed(entry).context
    assert region.shape == Bitmask(entry["value"]["imageDataURL"])


# EDGE CASES 1-2: shapes of requests


@pytest.mark.parametrize("context", [None, "x", 3, []])
def test_without_a_context_it_is_no_click(context: object) -> None:
    request = messages.parse_predict(encoded(click(params={"context": context})))
    assert (request.context, request.skipped) == (None, ())
    assert len(request.tasks) == 1


@pytest.mark.parametrize("context", [{}, {"result": None}, {"result": "x"}, {"result": {}}])
def test_a_context_without_a_result_is_a_click_without_prompts(context: object) -> None:
    request = messages.parse_predict(encoded(click(params={"context": context})))
    assert (request.context, request.skipped) == ((), ())


def test_a_click_whose_prompt_was_deleted_has_an_empty_context() -> None:
    assert parsed().context == ()


@pytest.mark.parametrize("params", [None, [], "x", {}])
def test_missing_params_are_no_click(params: object) -> None:
    assert messages.parse_predict(encoded(click(params=params))).context is None


def test_a_body_of_almost_nothing_is_read() -> None:
    assert messages.parse_predict(b"{}") == PredictRequest(tasks=())
    request = messages.parse_predict(b'{"tasks": [{}], "project": null, "label_config": null}')
    assert (request.project_id, request.label_config, len(request.tasks)) == (None, "", 1)


@pytest.mark.parametrize("task", [None, 3, "x", [], True])
def test_a_task_that_is_no_object_keeps_its_place(task: object) -> None:
    request = messages.parse_predict(encoded(click(tasks=[{"id": 1}, task, {"id": "3"}])))
    assert [task.id for task in request.tasks] == [1, None, 3]


@pytest.mark.parametrize(
    ("project", "expected"),
    [("12.1795380049", 12), ("12", 12), (12, 12), ("x", None), (None, None), (True, None), ([], None), ("", None)],
)
def test_a_project_id_is_read_from_whatever_names_it(project: object, expected: int | None) -> None:
    assert messages.parse_predict(encoded(click(project=project))).project_id == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (7, 7),
        ("7", 7),
        (7.0, 7),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (1.7, None),
        (2**63, None),
        (str(2**63), None),
        ("1" * 30, None),
        (-7, None),
        ("-7", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", None),
        (1e17, None),
        (1e300, None),
    ],
    ids=repr,
)
def test_an_id_is_read_whole_or_not_at_all(written: object, expected: int | None) -> None:
    """A part of an id, or a rounded one, is another task's."""
    request = messages.parse_predict(encoded(click(project=written, tasks=[{"id": written}])))
    assert (request.project_id, request.tasks[0].id) == (expected, expected)
    event = messages.parse_webhook(encoded({"project": {"id": written}, "annotation": {"task": written}}))
    assert event.project_id == expected
    assert [task.id for task in event.tasks] == [expected] * (expected is not None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"3", b'"x"', b"null", b'{"tasks"', b"\xff\xfe", b"NaN"])
@pytest.mark.parametrize("parse", [messages.parse_predict, messages.parse_setup, messages.parse_webhook])
def test_a_body_that_is_no_json_object_is_refused_in_one_line(parse: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(body)
    assert caught.value.reason is Reason.BAD_REQUEST
    assert "\n" not in str(caught.value)


def test_a_body_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(ProtocolError):
        messages.parse_predict(b'{"tasks": [{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}")


# EDGE CASES 3, 5, 6, 8: regions


def test_a_point_without_a_sign_has_none() -> None:
    assert parsed(result()).context[0].is_positive is None


@pytest.mark.parametrize(
    ("beside", "inside", "expected"),
    [
        (True, ..., True),
        (False, ..., False),
        (..., False, False),
        (..., True, True),
        (False, False, False),
        (None, None, None),
        ("yes", 1, None),
    ],
)
def test_a_sign_counts_beside_and_inside_the_value(beside: object, inside: object, expected: bool | None) -> None:
    value = {"x": 1.0, "y": 1.0} | ({} if inside is ... else {"positive": inside})
    assert parsed(result(value=value, is_positive=beside)).context[0].is_positive is expected


def test_entries_of_one_id_are_one_region_with_the_label_of_any() -> None:
    shape = {"x": 10.0, "y": 10.0, "width": 20.0, "height": 20.0, "rotation": 0}
    request = parsed(
        result("choices", {"choices": ["big"]}, id="r"),
        result("rectangle", shape, id="r", from_name="rect"),
        result("labels", shape | {"labels": ["Dog"]}, id="r", from_name="names"),
        result("textarea", {"text": ["hm"]}, id="r"),
    )
    [region] = request.context
    assert (region.shape, region.labels, region.from_name) == (Rectangle(10, 10, 20, 20), ("Dog",), "rect")
    assert request.skipped == ()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"x": 1.0, "y": 2.0, "width": 0.3}, KeyPoint),
        ({"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0}, Rectangle),
        ({"x": 1.0, "y": 2.0, "radiusX": 3.0, "radiusY": 4.0}, Ellipse),
        ({"points": [[1, 2], [3, 4], [5, 0]]}, Polygon),
        ({"vertices": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "closed": False}, Vector),
        ({"rle": [1, 2, 3]}, Brush),
        ({"imageDataURL": "data:image/png;base64,AAAA"}, Bitmask),
    ],
)
def test_a_shape_under_a_separate_labels_tag_is_recognised_by_its_keys(value: dict, kind: type) -> None:
    [region] = parsed(result("labels", value | {"labels": ["Cat"]})).context
    assert isinstance(region.shape, kind)
    assert region.labels == ("Cat",)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"labels": ["A"], "keypointlabels": ["B"]}, ("B",)),
        ({"labels": ["A"], "keypointlabels": [], "rectanglelabels": ["C"]}, ("A",)),
        ({"labels": [], "keypointlabels": ["B"], "rectanglelabels": ["C"]}, ("B",)),
        ({"rectanglelabels": ["C"]}, ("C",)),
        ({"labels": "A"}, ("A",)),
        ({"labels": [None, 3, "A"]}, ("A",)),
        ({"labels": None}, ()),
        ({}, ()),
    ],
)
def test_labels_are_taken_from_the_own_key_then_labels_then_any(labels: dict, expected: tuple[str, ...]) -> None:
    assert parsed(result(value={"x": 1.0, "y": 1.0} | labels)).context[0].labels == expected


@pytest.mark.parametrize("number", ["12", None, [], True, "NaN", ...])
def test_a_coordinate_that_is_no_number_costs_only_its_region(number: object) -> None:
    value = {"x": number, "y": 3.0}
    broken = result(value={key: item for key, item in value.items() if item is not ...}, id="broken")
    request = parsed(broken, result(id="fine"))
    assert [region.id for region in request.context] == ["fine"]
    assert [(skip.region_id, skip.reason) for skip in request.skipped] == [("broken", Reason.BAD_GEOMETRY)]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_json_has_no_word_for_costs_only_its_region(word: str) -> None:
    body = encoded(click(result(id="broken", value={"x": "HERE", "y": 1.0}), result(id="fine")))
    request = messages.parse_predict(body.replace(b'"HERE"', word.encode()))
    assert [region.id for region in request.context] == ["fine"]
    assert [skip.region_id for skip in request.skipped] == ["broken"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("cuboidlabels", Reason.UNSUPPORTED_PROMPT), ("choices", Reason.NOT_A_PROMPT), (None, Reason.UNSUPPORTED_PROMPT)],
)
def test_a_type_that_is_not_read_is_skipped_with_a_reason(kind: str | None, reason: Reason) -> None:
    request = parsed(result(kind, {"what": 1}))
    assert (request.context, [skip.reason for skip in request.skipped]) == ((), [reason])


@pytest.mark.parametrize("entry", [None, 3, "x", [], {"value": 3}])
def test_an_entry_that_is_no_region_is_skipped(entry: object) -> None:
    request = parsed(entry, result())
    assert [region.id for region in request.context] == ["prompt-one"]
    assert len(request.skipped) == 1


def test_regions_without_ids_stay_apart() -> None:
    context = parsed(result(id=...), result(id=None)).context
    assert len({region.id for region in context}) == 2


def test_a_polygon_of_two_corners_is_skipped() -> None:
    request = parsed(result("polygonlabels", {"points": [[1, 2], [3, 4]]}))
    assert (request.context, request.skipped[0].reason) == ((), Reason.BAD_GEOMETRY)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("polygonlabels", {"points": 3}, "points: expected pairs of numbers, got 3"),
        ("polygonlabels", {"points": [[1, 2], [3], [4, 5]]}, "points: expected pairs of numbers"),
        ("polygonlabels", {"points": [[1, 2], ["3", 4], [4, 5]]}, "points: expected pairs of numbers, got [[1, 2]"),
        ("vectorlabels", {"vertices": [[1, 2]]}, "vertices: expected a list of objects"),
        ("vectorlabels", {"vertices": [{"x": 1}], "closed": True}, "y: expected a number, got null"),
        ("brushlabels", {"rle": [256]}, "rle: expected numbers from 0 to 255, got"),
        ("brushlabels", {"rle": "abc"}, 'rle: expected numbers from 0 to 255, got "abc"'),
        ("brushlabels", {"rle": []}, "rle: expected bytes, got none"),
        ("brushlabels", {"touches": [{"relativePoints": 3}]}, "relativePoints: expected a list of numbers, got 3"),
        ("brushlabels", {"touches": [{"relativePoints": [1, 2]}]}, "relativeStrokeWidth: expected a number, got null"),
        ("bitmasklabels", {"imageDataURL": None}, "imageDataURL: expected a data URL, got nothing"),
    ],
)
def test_a_damaged_shape_is_skipped_in_words(kind: str, value: dict, message: str) -> None:
    request = parsed(result(kind, value))
    assert request.context == ()
    [skip] = request.skipped
    assert skip.reason is Reason.BAD_GEOMETRY
    assert skip.detail.startswith(message)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"cut \ud83d"', "cut \N{REPLACEMENT CHARACTER}"),
        (rb'"\ude00 \ud83d\ude00"', "\N{REPLACEMENT CHARACTER} \N{GRINNING FACE}"),
        (b'"\xed\xa0\xbd"', "\N{REPLACEMENT CHARACTER}"),
        (b"1e999", None),
        (b"-1e999", None),
        (b"NaN", None),
        (b"1" + b"0" * 5000, None),
        (b'[1e999, 7, 0.5, -3, 1e5, "x"]', [None, 7, 0.5, -3, 1e5, "x"]),
    ],
)
def test_a_value_that_only_python_writes_does_not_cost_the_click(written: bytes, read: object, is_large: bool) -> None:
    body = json.loads(body_with_saved_masks(3 if is_large else 0, {"result": [result()]}))
    body["tasks"][0]["data"]["strange"] = "here"
    request = messages.parse_predict(encoded(body).replace(b'"here"', written))
    assert request.tasks[0].data == {"image": "a.jpg", "strange": read}
    assert [region.id for region in request.context] == ["prompt-one"]


def test_prompts_without_ids_are_distinguished_from_others_and_not_from_themselves() -> None:
    first, second = (result(id=..., value={"x": x, "y": 50.0}) for x in (25.0, 26.0))
    ids = [
        [region.id for region in parsed(*entries).context] for entries in ((first, first), (first, first), (second,))
    ]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 3


def test_a_saved_mask_without_an_end_is_refused() -> None:
    body = body_with_saved_masks(3, {"result": [result()]})
    broken = body.replace(b'"type": "brushlabels"', b'"type": "brushlabels", "rle": [1, 2').replace(b"]", b" ")
    with pytest.raises(ProtocolError):
        messages.parse_predict(broken)


def test_brush_strokes_are_read() -> None:
    touches = [
        {"relativePoints": [1, 2, 3, 4], "relativeStrokeWidth": 5, "compositeOperation": "source-over"},
        {"relativePoints": [1, 2], "relativeStrokeWidth": 2, "compositeOperation": "destination-out"},
        {"relativePoints": [1, 2, 3, 4], "relativeStrokeWidth": 5, "type": "add"},
        {"relativePoints": [1, 2], "relativeStrokeWidth": 2, "type": "eraser", "eraserSize": 25},
    ]
    [region] = parsed(result("brushlabels", {"format": "rle", "rle": [], "touches": touches})).context
    assert region.shape == Brush(b"", 2 * (Stroke(((1, 2), (3, 4)), 5), Stroke(((1, 2),), 2, erases=True)))


@pytest.mark.parametrize("beside", [{}, {"rle": [1, 2, 3]}, {"rle": [], "touches": []}])
def test_a_brush_kept_as_an_image_is_read_rather_than_its_run_lengths_as_the_editor_draws_it(beside: dict) -> None:
    [region] = parsed(result("brushlabels", {"maskDataURL": "data:image/png;base64,AAAA", **beside})).context
    assert region.shape == Bitmask("data:image/png;base64,AAAA")


def test_strokes_over_a_brush_kept_as_an_image_are_read() -> None:
    touches = [
        {"relativePoints": [1, 2, 3, 4], "relativeStrokeWidth": 5, "type": "add"},
        {"relativePoints": [1, 2], "relativeStrokeWidth": 2, "type": "eraser"},
    ]
    value = {"format": "rle", "maskDataURL": "data:image/png;base64,AAAA", "touches": touches}
    [region] = parsed(result("brushlabels", value)).context
    strokes = (Stroke(((1, 2), (3, 4)), 5), Stroke(((1, 2),), 2, erases=True))
    assert region.shape == Bitmask("data:image/png;base64,AAAA", strokes)


@pytest.mark.parametrize("url", [None, "", 5])
def test_a_brush_whose_image_is_missing_is_read_from_its_run_lengths(url: object) -> None:
    [region] = parsed(result("brushlabels", {"maskDataURL": url, "rle": [1, 2, 3]})).context
    assert region.shape == Brush(bytes([1, 2, 3]))


@pytest.mark.parametrize(("rotation", "expected"), [(90, 90), (90.0, 90), (-90, 270), (360, 0), (None, 0), ("x", 0)])
def test_a_rotation_of_the_view_is_brought_into_a_full_turn(rotation: object, expected: int) -> None:
    assert parsed(result(image_rotation=rotation)).context[0].image_rotation == expected


@pytest.mark.parametrize("size", [0, -5, None, "800", 1.5])
def test_a_size_that_makes_no_sense_counts_as_missing(size: object) -> None:
    assert parsed(result(original_width=size)).context[0].original_size is None


# EDGE CASE 38: large bodies


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def test_twenty_megabytes_of_saved_masks_cost_less_than_validating_their_bytes() -> None:
    body = body_with_saved_masks(210, {"result": [result()]})
    assert len(body) > 20_000_000
    validating = milliseconds(lambda: msgspec.json.decode(body, type=msgspec.Raw))
    assert milliseconds(lambda: messages.parse_predict(body)) <= 1.2 * validating


def test_a_large_body_reads_like_a_small_one() -> None:
    context = {"result": [result(), rectangle(1, 2, 3, 4, id="box")]}
    large, small = (messages.parse_predict(body_with_saved_masks(count, context)) for count in (3, 0))
    assert (large.context, large.project_id, large.label_config) == (small.context, 1, CONFIG)
    assert [(task.id, task.data) for task in large.tasks] == [(1, {"image": "a.jpg"})]


def test_saved_regions_of_a_large_click_stay_readable_without_their_masks() -> None:
    [task] = messages.parse_predict(body_with_saved_masks(3, {"result": [result()]})).tasks
    [draft] = json.loads(bytes(task.drafts))
    assert [region["value"]["rle"] for region in draft["result"]] == [[], [], []]


def test_saved_masks_are_kept_when_no_click_asks() -> None:
    [task] = messages.parse_predict(body_with_saved_masks(3, None)).tasks
    [draft] = json.loads(bytes(task.drafts))
    assert [len(region["value"]["rle"]) for region in draft["result"]] == [24_000] * 3


@pytest.mark.parametrize("is_context_first", [False, True])
def test_a_painted_prompt_survives_in_a_large_body(is_context_first: bool) -> None:
    code = list(rle.encode(Mask.from_array(np.ones((6, 8), dtype=bool))))
    body = json.loads(body_with_saved_masks(3, {"result": [result("brushlabels", {"format": "rle", "rle": code})]}))
    if is_context_first:
        body = {"params": body.pop("params"), **body}
        body["tasks"][0]["data"]["note"] = '"context"'
        body["tasks"][0]["data"]["context"] = "a word that also stands in the data"
    [region] = messages.parse_predict(encoded(body)).context
    assert region.shape == Brush(bytes(code))


def test_task_data_that_mentions_masks_is_left_alone() -> None:
    body = json.loads(body_with_saved_masks(3, {"result": [result()]}))
    body["tasks"][0]["data"] = {"image": "a.jpg", "note": 'a text with "rle": [1, 2] in it', 'odd"rle': [3]}
    assert messages.parse_predict(encoded(body)).tasks[0].data == body["tasks"][0]["data"]


@pytest.mark.parametrize(
    "rle",
    [[[1, 2], [3]], [{"counts": [1]}], ["a]b"], ["], ["], [[]], "text", {"size": [6, 8], "counts": [1]}, [1, "]", 2]],
)
def test_a_click_on_task_data_with_codes_of_another_kind_is_answered(rle: object) -> None:
    body = json.loads(body_with_saved_masks(3, {"result": [result()]}))
    body["tasks"][0]["data"] = {"image": "a.jpg", "rle": rle, "after": [1]}
    request = messages.parse_predict(encoded(body))
    assert request.tasks[0].data == body["tasks"][0]["data"]
    assert [region.id for region in request.context] == ["prompt-one"]


# Answers


def test_an_answer_has_one_item_per_task_in_order() -> None:
    predictions = [Prediction((), 0.0, "demo@1"), Prediction((region(),), 0.5, "demo@1")]
    results = json.loads(messages.dump_predictions(predictions))["results"]
    assert results[0] == {"result": [], "score": 0.0, "model_version": "demo@1"}
    assert [len(item["result"]) for item in results] == [0, 1]


def test_a_brush_region_is_written_as_the_editor_reads_it() -> None:
    assert answered(region()) == [
        {
            "id": "abcdefghijkl",
            "type": "brushlabels",
            "from_name": "brush",
            "to_name": "image",
            "original_width": 800,
            "original_height": 600,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": [0, 255], "brushlabels": ["Cat"]},
            "origin": "manual",
            "score": 0.5,
        }
    ]


def test_item_index_and_rotation_are_written_where_the_prompt_had_them() -> None:
    [entry] = answered(region(item_index=0, image_rotation=90))
    assert (entry["item_index"], entry["image_rotation"]) == (0, 90)
    [entry] = answered(region(score=None))
    assert not {"item_index", "score"} & entry.keys()


@pytest.mark.parametrize(
    ("kind", "shape", "value"),
    [
        ("bitmasklabels", Bitmask("data:image/png;base64,AAAA"), {"imageDataURL": "data:image/png;base64,AAAA"}),
        (
            "polygonlabels",
            Polygon(((0, 0), (1, 0), (1, 1))),
            {"points": [[0, 0], [1, 0], [1, 1]], "closed": True},
        ),
        ("rectanglelabels", Rectangle(1, 2, 3, 4), {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0}),
        ("ellipselabels", Ellipse(1, 2, 3, 4, 5), {"x": 1, "y": 2, "radiusX": 3, "radiusY": 4, "rotation": 5}),
        ("keypointlabels", KeyPoint(1, 2), {"x": 1, "y": 2, "width": 0.5}),
        (
            "vectorlabels",
            Vector(((1, 2), (3, 4))),
            {
                "vertices": [
                    {"id": "p0", "x": 1, "y": 2, "prevPointId": None, "isBezier": False},
                    {"id": "p1", "x": 3, "y": 4, "prevPointId": "p0", "isBezier": False},
                ],
                "closed": True,
            },
        ),
    ],
)
def test_every_shape_is_written_and_read_back(kind: str, shape: object, value: dict) -> None:
    [entry] = answered(region(type=kind, shape=shape))
    assert entry["value"] == value | {kind: ["Cat"]}
    [back] = parsed(entry).context
    assert back.shape == shape


def test_labels_of_a_separate_tag_are_written_as_a_second_entry_of_the_same_id() -> None:
    shape, labels = answered(region(type="brush", labels_control="names"))
    assert (shape["type"], shape["from_name"], "labels" in shape["value"]) == ("brush", "brush", False)
    assert (labels["type"], labels["from_name"], labels["value"]["labels"]) == ("labels", "names", ["Cat"])
    assert shape["id"] == labels["id"]


def test_other_answers_have_the_shape_label_studio_expects() -> None:
    assert json.loads(messages.dump_setup("demo@1")) == {"model_version": "demo@1"}
    assert json.loads(messages.dump_versions(["demo@1"])) == {"versions": ["demo@1"]}
    assert json.loads(messages.dump_health("SAM")) == {"status": "UP", "model_class": "SAM"}
    assert json.loads(messages.dump_error("two\nlines")) == {"error": "two lines"}


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan")])
def test_a_score_outside_0_to_1_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="score: expected a number from 0 to 1"):
        region(score=score)
    with pytest.raises(ValueError, match="score: expected a number from 0 to 1"):
        Prediction((), score, "demo@1")


def test_a_region_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="original_size: expected"):
        region(original_size=(0, 800))


# Anything at all


@settings(deadline=None)
@given(BODIES)
def test_any_body_is_read_and_keeps_every_tasks_place(body: dict) -> None:
    request = messages.parse_predict(encoded(body))
    assert len(request.tasks) == len(body.get("tasks", []))
    assert all(isinstance(task, Task) for task in request.tasks)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for parse in (messages.parse_predict, messages.parse_setup, messages.parse_webhook):
        try:
            parse(body)
        except ProtocolError:
            continue
        assert body.lstrip().startswith(b"{")
