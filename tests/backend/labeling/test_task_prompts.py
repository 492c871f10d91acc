"""Which of the things that a task holds are prompts: whose annotation counts, whose prediction, and which regions."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Reason
from backend.labeling.task_prompts import PromptSource, is_own, read
from backend.protocol import messages
from backend.shapes import Ellipse, KeyPoint, Polygon, Rectangle, Vector
from backend.types import Task
from tests.support.wire_bodies import JUNK, RESULTS, click, encoded, rectangle, result, saved, task_with

OWN = "demo@0123abcd"
DRAWN = (PromptSource.BOXES, PromptSource.KEYPOINTS)
ANY = (*DRAWN, PromptSource.PREDICTIONS)

BRUSH = result("brushlabels", {"format": "rle", "rle": [0, 0, 0, 1] * 9, "brushlabels": ["Cat"]}, id="mask")


def task(annotations=(), predictions=(), **more):
    body = click(tasks=[task_with(list(annotations), list(predictions), **more)], params=None)
    [parsed] = messages.parse_predict(encoded(body)).tasks
    return parsed


def ids(task_prompts):
    return [region.id for region in task_prompts.regions]


def box(name, **changes):
    return rectangle(10, 10, 20, 20, id=name, **changes)


def point(name, **changes):
    return result(id=name, **changes)


def test_the_rectangles_and_points_of_an_annotation_are_prompts_with_their_labels():
    dog = rectangle(0, 0, 5, 5, id="b")
    dog["value"]["rectanglelabels"] = ["Dog"]
    task_prompts = read(task([saved(point("a"), dog)]), ANY, OWN)
    assert [(region.id, type(region.shape), region.labels) for region in task_prompts.regions] == [
        ("a", KeyPoint, ("Cat",)), ("b", Rectangle, ("Dog",)),
    ]  # fmt: skip
    assert task_prompts.skipped == ()


def test_ellipses_polygons_and_paths_are_prompts_too():
    corners = [[10, 10], [40, 10], [40, 40]]
    shapes = [
        result("ellipselabels", {"x": 50, "y": 50, "radiusX": 9, "radiusY": 5}, id="e"),
        result("polygonlabels", {"points": corners}, id="p"),
        result("vectorlabels", {"vertices": [{"x": x, "y": y} for x, y in corners], "closed": True}, id="v"),
    ]
    task_prompts = read(task([saved(*shapes)]), (PromptSource.BOXES,), OWN)
    assert [type(region.shape) for region in task_prompts.regions] == [Ellipse, Polygon, Vector]


def test_painted_masks_are_no_prompts_and_are_not_even_read():
    damaged = result("brushlabels", {"format": "rle", "rle": "not a list"}, id="mask")
    bitmask = result("bitmasklabels", {"imageDataURL": "data:,x"}, id="bits")
    task_prompts = read(task([saved(damaged, bitmask, box("b"))]), ANY, OWN)
    assert ids(task_prompts) == ["b"]
    assert {skip.region_id: skip.reason for skip in task_prompts.skipped} == {
        "mask": Reason.NOT_A_PROMPT, "bits": Reason.NOT_A_PROMPT,
    }  # fmt: skip


def test_a_damaged_region_is_left_out_with_its_reason_and_the_others_stay():
    nowhere = rectangle(None, 10, 20, 20, id="bad")
    task_prompts = read(task([saved(nowhere, 7, box("good"), {"type": "cuboid", "value": {}, "id": "cube"})]), ANY, OWN)
    assert ids(task_prompts) == ["good"]
    reasons = {skip.region_id: skip.reason for skip in task_prompts.skipped}
    assert reasons == {
        "bad": Reason.BAD_GEOMETRY, "#1": Reason.BAD_GEOMETRY, "cube": Reason.UNSUPPORTED_PROMPT,
    }  # fmt: skip


def test_choices_and_texts_about_a_region_are_left_out_without_losing_it():
    choice = result("choices", {"choices": ["big"]}, id="b", from_name="size")
    task_prompts = read(task([saved(box("b"), choice)]), ANY, OWN)
    assert ids(task_prompts) == ["b"]


# Whose annotation counts.


def test_of_two_annotators_the_one_who_changed_the_task_last_counts():
    old = saved(box("old"), id=9, updated_at="2026-11-22T20:40:49.951122Z")
    new = saved(box("new"), id=3, updated_at="2026-11-22T20:41:00Z")
    for order in ([old, new], [new, old]):
        assert ids(read(task(order), ANY, OWN)) == ["new"]


def test_times_are_compared_as_times_whatever_zone_they_are_written_in():
    early = saved(box("early"), updated_at="2026-11-22T23:00:00+03:00")
    late = saved(box("late"), updated_at="2026-11-22T21:00:00")
    assert ids(read(task([late, early]), ANY, OWN)) == ["late"]


def test_without_times_the_higher_id_counts():
    first, second = saved(box("first"), id=1, updated_at=None), saved(box("second"), id=2, updated_at="soon")
    assert ids(read(task([second, first]), ANY, OWN)) == ["second"]


def test_a_ground_truth_goes_before_what_was_changed_later():
    truth = saved(box("truth"), ground_truth=True, updated_at="2020-01-01T00:00:00Z")
    assert ids(read(task([truth, saved(box("later"))]), ANY, OWN)) == ["truth"]


def test_a_skipped_annotation_never_counts():
    skipped = saved(box("skipped"), was_cancelled=True, updated_at="2027-01-01T00:00:00Z")
    assert ids(read(task([skipped, saved(box("kept"))]), ANY, OWN)) == ["kept"]
    assert read(task([skipped]), ANY, OWN).regions == ()


@pytest.mark.parametrize("empty", [
    [], [BRUSH], [result("choices", {"choices": ["good"]}, id="c")], [point("n", is_positive=False)],
])  # fmt: skip
def test_an_annotation_that_marks_nothing_gives_way_to_one_that_does(empty):
    newest = saved(*empty, updated_at="2027-01-01T00:00:00Z")
    assert ids(read(task([newest, saved(box("b"))]), ANY, OWN)) == ["b"]


def test_drafts_are_no_prompts():
    assert read(task(drafts=[saved(box("draft"))]), ANY, OWN).regions == ()


# Which of its regions count.


def test_from_boxes_points_alone_are_no_prompts_but_stay_to_refine_a_box():
    task_prompts = read(task([saved(box("b"), point("inside"))]), (PromptSource.BOXES,), OWN)
    assert ids(task_prompts) == ["b", "inside"]
    assert task_prompts.areas_only
    assert read(task([saved(point("alone"))]), (PromptSource.BOXES,), OWN).regions == ()


def test_from_keypoints_boxes_are_no_prompts():
    task_prompts = read(task([saved(box("b"), point("p"))]), (PromptSource.KEYPOINTS,), OWN)
    assert ids(task_prompts) == ["p"]
    assert not task_prompts.areas_only


# Predictions.


def test_the_boxes_that_another_model_predicted_are_prompts():
    task_prompts = read(task([], [saved(box("d"), model_version="yolo-v8")]), ANY, OWN)
    assert ids(task_prompts) == ["d"]


@pytest.mark.parametrize("version", [OWN, "demo@ffffffff", "demo"])
def test_predictions_of_this_model_are_never_prompts_whatever_its_weights(version):
    assert read(task([], [saved(box("ours"), model_version=version)]), ANY, OWN).regions == ()


def test_only_names_that_are_the_same_to_the_end_are_this_model_s():
    assert not is_own("demo2@0123abcd", OWN)
    assert not is_own("", OWN)


def test_a_prediction_without_a_version_is_another_s():
    assert ids(read(task([], [saved(box("imported"), model_version="")]), ANY, OWN)) == ["imported"]
    assert ids(read(task([], [saved(box("imported"), model_version=None)]), ANY, OWN)) == ["imported"]


def test_what_people_drew_goes_before_what_a_model_predicted():
    both = task(
        [saved(box("drawn"))], [saved(box("predicted"), model_version="yolo", updated_at="2028-01-01T00:00:00Z")]
    )
    assert ids(read(both, ANY, OWN)) == ["drawn"]
    assert ids(read(both, (PromptSource.PREDICTIONS,), OWN)) == ["predicted"]


def test_where_annotations_mark_nothing_predictions_are_used():
    assert ids(read(task([saved(BRUSH)], [saved(point("p"), model_version="yolo")]), ANY, OWN)) == ["p"]


def test_annotations_alone_are_read_where_predictions_are_not_asked_for():
    assert read(task([], [saved(box("d"), model_version="yolo")]), DRAWN, OWN).regions == ()


# Whatever is sent.


def test_regions_on_several_images_keep_their_image():
    task_prompts = read(
        task([saved(box("a", item_index=0), box("b", item_index=2), box("c", to_name="other"))]), ANY, OWN
    )
    assert [(region.to_name, region.item_index) for region in task_prompts.regions] == [
        ("image", 0), ("image", 2), ("other", None),
    ]  # fmt: skip


@pytest.mark.parametrize("raw", [b"null", b"{}", b"7", b'"x"', b"[null, 7, [], {}]", b'[{"result": {}}]', b"not json"])
def test_what_is_no_list_of_annotations_holds_none(raw):
    odd = Task(1, {}, annotations=msgspec.Raw(raw), predictions=msgspec.Raw(raw))
    assert read(odd, ANY, OWN).regions == ()


@given(st.lists(st.one_of(JUNK, st.fixed_dictionaries({}, optional={
    "result": st.one_of(JUNK, st.lists(RESULTS, max_size=4)), "id": JUNK, "updated_at": JUNK, "created_at": JUNK,
    "was_cancelled": JUNK, "ground_truth": JUNK, "model_version": JUNK,
})), max_size=3))  # fmt: skip
def test_no_annotation_whatever_it_holds_raises(entries):
    raw = msgspec.Raw(json.dumps(entries).encode())
    task_prompts = read(Task(1, {}, annotations=raw, predictions=raw), ANY, OWN)
    assert all(region.id for region in task_prompts.regions)
