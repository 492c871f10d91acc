"""Negative points alone take parts out of accepted masks: which mask is meant, what is cut off, what is answered."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from backend.errors import Reason, RetryLater
from backend.protocol import bitmask, messages, rle
from backend.segmentation import shape_masks
from backend.segmentation.corrections.recent_answers import LASTS_S, MOST_ON_AN_IMAGE, RecentAnswers
from backend.segmentation.pipeline import CLICK_PIXELS
from backend.segmentation.service import ClickPolicy
from backend.shapes import Brush
from backend.types import ImageRef, ObjectPrompt
from model.types import Mask, Prompt
from tests.support.fakes import png
from tests.support.service import IMAGE, SIZE_WH, FakeDecoder, Service
from tests.support.wire_bodies import CONFIG, click, encoded, result, saved

REF = ImageRef(IMAGE, task_id=1, project_id=1)
SIZE = SIZE_WH[::-1]
SIZES = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
POLYGONS = CONFIG.replace("BrushLabels", "PolygonLabels")
BITMASKS = CONFIG.replace("BrushLabels", "BitmaskLabels")


@pytest.fixture
def service():
    with Service() as service:
        yield service


LEFT, RIGHT = (12, 25), (28, 36)  # in what the fake decoder finds at (20, 30)


def point(name, x, y, is_positive=False, label="Cat", **changes):
    """A point in pixels of the image that the fake source serves, negative by default."""
    value = {"x": 100 * x / SIZE_WH[0], "y": 100 * y / SIZE_WH[1], "width": 1, "keypointlabels": [label]}
    return result(value=value, id=name, is_positive=is_positive, **(SIZES | changes))


def block(left, top, right, bottom):
    pixels = np.zeros(SIZE, bool)
    pixels[top:bottom, left:right] = True
    return pixels


def wire(pixels, kind="brush", name="painted-01", label="Cat", **changes):
    """A mask as Label Studio saves it."""
    mask = Mask.from_array(pixels)
    match kind:
        case "brush":
            value = {"format": "rle", "rle": list(rle.encode(mask))}
        case "bitmask":
            value = {"imageDataURL": bitmask.encode(mask)}
        case "polygon":
            rows, columns = np.nonzero(pixels)
            xs = [100 * x / SIZE_WH[0] for x in (columns.min(), columns.max() + 1)]
            ys = [100 * y / SIZE_WH[1] for y in (rows.min(), rows.max() + 1)]
            value = {"points": [[xs[0], ys[0]], [xs[1], ys[0]], [xs[1], ys[1]], [xs[0], ys[1]]], "closed": True}
    entry = {"from_name": "brush", "id": name} | SIZES | changes
    return result(f"{kind}labels", value | {f"{kind}labels": [label]}, **entry)


def draft(*results, at=1, number=5):
    """A draft that was saved at a second of the minute."""
    return saved(*results, id=number, updated_at=f"2026-11-22T20:40:{at:02}.000000Z", annotation=None)


def click_request(*results, drafts=(), annotations=(), config=CONFIG, task=1, uri=IMAGE, project="1.17"):
    task_json = {"id": task, "data": {"image": uri}, "drafts": list(drafts), "annotations": list(annotations)}
    return messages.parse_predict(encoded(click(*results, tasks=[task_json], label_config=config, project=project)))


def answered(service, *results, **changes):
    """The answer to a click, and the pixels of each of its regions by their ids; it takes a tenth of a second."""
    service.clock.advance(0.1)
    [answer] = service.segmenter.predict(click_request(*results, **changes))
    return answer, {region.id: shape_masks.mask(region.shape, SIZE).to_array() for region in answer.result}


def accepted(service, x=20, y=30, name="first", **changes):
    """Click; return the id and pixels of the mask, as if it was accepted."""
    [(region, pixels)] = answered(service, point(name, x, y, True), **changes)[1].items()
    return region, pixels


def around(x, y):
    """What the fake decoder finds at a point."""
    return block(x - 10, y - 7, x + 11, y + 8)


def assert_not_carved(answer, reason=Reason.ONLY_NEGATIVE_POINTS):
    assert (answer.result, answer.reasons) == ((), (reason,))


# What is cut off


def test_a_negative_point_alone_takes_the_part_at_it_out_of_the_mask_that_was_accepted(service):
    region_id, before = accepted(service)
    answer, carved = answered(service, point("second", 26, 30))
    assert list(carved) == [region_id]
    assert np.array_equal(carved[region_id], before & ~around(26, 30))
    [region] = answer.result
    assert (region.control, region.type, region.labels) == ("brush", "brushlabels", ("Cat",))
    assert answer.reasons == ()


def test_the_part_is_asked_for_with_the_click_as_positive_and_points_of_the_rest_as_negative_ones(service):
    _, before = accepted(service)
    answered(service, point("second", 26, 30))
    prompt = service.decoder.prompts[-1]
    assert prompt.point_labels.tolist() == [1, 0, 0]
    (x, y), *rest = prompt.point_coords.tolist()
    assert (x, y) == (26, 30)
    assert all(before[int(row), int(column)] for column, row in rest)
    assert prompt.mask_input is None


def test_two_points_in_a_mask_take_out_both_parts(service):
    region_id, before = accepted(service)
    _, carved = answered(service, point("one", *RIGHT), point("two", *LEFT))
    assert np.array_equal(carved[region_id], before & ~around(*RIGHT) & ~around(*LEFT))


def test_points_in_two_masks_correct_both(service):
    left, right = wire(block(0, 0, 30, 60), name="left"), wire(block(50, 0, 80, 60), name="right")
    _, carved = answered(service, point("one", 10, 20), point("two", 60, 20), drafts=[draft(left, right)])
    assert np.array_equal(carved["left"], block(0, 0, 30, 60) & ~around(10, 20))
    assert np.array_equal(carved["right"], block(50, 0, 80, 60) & ~around(60, 20))


def corrected_after(service, decodes, wait_s=10.0):
    """Put a point into each of two masks; return the ids that are answered, and the reasons.

    The mask ``right`` is corrected first. ``decodes`` is called at each decode, with the x of its first point.
    """
    service.segmenter.predict(click_request(point("earlier", 40, 30, True)))
    find = service.decoder.mask
    service.decoder.mask = lambda prompt, size: (decodes(prompt.point_coords[0][0]), find(prompt, size))[1]
    left, right = wire(block(0, 0, 30, 60), name="left"), wire(block(50, 0, 80, 60), name="right")
    request = click_request(point("one", 10, 20), point("two", 60, 20), drafts=[draft(left, right)])
    [answer] = service.segmenting(policy=ClickPolicy(wait_s)).predict(request)
    return [region.id for region in answer.result], answer.reasons


@pytest.mark.parametrize(("failing", "answered"), [("left", "right"), ("right", "left")])
@pytest.mark.parametrize(("failure", "reason"), [
    (RetryLater("full", Reason.OUT_OF_MEMORY), Reason.OUT_OF_MEMORY), (RuntimeError("broken"), Reason.DECODE_FAILED),
], ids=["no memory", "an error of the model"])  # fmt: skip
def test_a_mask_that_cannot_be_corrected_leaves_another_its_answer(service, failure, reason, failing, answered):
    def decodes(x):
        if (x < 40) == (failing == "left"):
            raise failure

    assert corrected_after(service, decodes) == ([answered], (reason,))


def test_where_time_runs_out_what_was_corrected_is_answered(service):
    """The first mask takes longer than a click may."""
    assert corrected_after(service, lambda _: time.sleep(0.3), wait_s=0.2) == (["right"], (Reason.BUDGET_EXCEEDED,))


def test_a_correction_to_which_the_annotator_added_meanwhile_is_not_answered(service):
    left, right = wire(block(0, 0, 30, 60), name="left"), wire(block(50, 0, 80, 60), name="right")
    points = [point("one", 10, 20), point("two", 60, 20), point("three", 70, 20)]
    requests = [click_request(*points[:count], drafts=[draft(left, right)]) for count in (2, 3)]
    find, later = service.decoder.mask, []

    def add_a_point(prompt, size):
        service.decoder.mask = find
        later.extend(service.segmenter.predict(requests[1]))
        return find(prompt, size)

    service.decoder.mask = add_a_point
    [answer] = service.segmenter.predict(requests[0])
    assert_not_carved(answer, Reason.SUPERSEDED)
    assert len(later[0].result) == 2


class FindsPartsByMaskOnly(FakeDecoder):
    """Finds nothing for points alone; with a mask input, what is left of column 24."""

    def mask(self, prompt, size):
        has_mask = prompt.mask_input is not None or prompt.rough_mask is not None
        if 0 in (prompt.point_labels if prompt.point_labels is not None else ()):
            return Mask.from_array(block(0, 0, 24, 60) if has_mask else np.zeros(SIZE, bool))
        return super().mask(prompt, size)


def test_where_points_find_no_part_the_mask_is_corrected_with_its_own_logits():
    with Service(decoder=FindsPartsByMaskOnly()) as service:
        region_id, before = accepted(service)
        _, carved = answered(service, point("second", 28, 30))
        prompt = service.decoder.prompts[-1]
        assert np.array_equal(carved[region_id], before & block(0, 0, 24, 60))
        assert prompt.mask_input.tolist() == np.zeros((4, 4)).tolist()
        assert prompt.point_labels.tolist() == [1, 1, 1, 0]
        assert prompt.point_coords[-1].tolist() == [28, 30]


def test_of_a_saved_mask_the_pixels_take_the_place_of_the_logits():
    with Service(decoder=FindsPartsByMaskOnly()) as service:
        before = block(10, 10, 60, 50)
        _, carved = answered(service, point("second", 40, 30), drafts=[draft(wire(before))])
        assert np.array_equal(carved["painted-01"], before & block(0, 0, 24, 60))
        assert np.array_equal(service.decoder.prompts[-1].rough_mask, before)


def test_where_the_model_finds_nothing_the_mask_stays_as_it_is(service):
    accepted(service)
    service.decoder.is_blind = True
    assert_not_carved(answered(service, point("second", 26, 30))[0], Reason.EMPTY_MASK)


def test_a_part_that_is_nearly_the_whole_mask_is_not_taken_out(service):
    answer, _ = answered(service, point("second", 20, 30), drafts=[draft(wire(around(20, 30)))])
    assert_not_carved(answer, Reason.EMPTY_MASK)


def test_of_what_the_model_finds_only_the_piece_at_the_click_is_taken_out(service):
    service.decoder.mask = lambda prompt, size: Mask.from_array(block(0, 0, 15, 60) | block(40, 0, 45, 60))
    before = block(10, 10, 70, 50)
    _, carved = answered(service, point("second", 42, 30), drafts=[draft(wire(before))])
    assert np.array_equal(carved["painted-01"], before & ~block(40, 0, 45, 60))


@pytest.mark.parametrize(("kind", "config"), [("brush", CONFIG), ("bitmask", BITMASKS), ("polygon", POLYGONS)])
def test_a_saved_mask_is_carved_in_its_own_control_and_type(service, kind, config):
    before = block(10, 10, 60, 50)
    both = config.replace(
        "</View>", '<BrushLabels name="other" toName="image"><Label value="Cat"/></BrushLabels></View>'
    )
    answer, carved = answered(service, point("second", 52, 30), drafts=[draft(wire(before, kind))], config=both)
    [region] = answer.result
    assert (region.id, region.control, region.type) == ("painted-01", "brush", f"{kind}labels")
    expected = before & ~around(52, 30)
    assert (carved["painted-01"] & expected).sum() / (carved["painted-01"] | expected).sum() > 0.98


def test_a_mask_that_a_cut_parts_in_two_keeps_its_id_on_one_polygon_and_gives_the_other_a_new_one(service):
    service.decoder.mask = lambda prompt, size: Mask.from_array(block(30, 0, 40, 60))
    ids = set()
    for name in ("second", "third"):
        answer, carved = answered(
            service, point(name, 35, 30), drafts=[draft(wire(block(10, 10, 60, 50), "polygon"))], config=POLYGONS
        )
        assert len(carved) == 2
        ids |= {region.id for region in answer.result}
        assert answer.result[0].id == "painted-01"
    assert len(ids) == 3, "a part of one cut does not replace that of another"


def test_a_brush_with_a_separate_labels_tag_keeps_both_names(service):
    config = (
        '<View><Image name="image" value="$image"/><Labels name="label" toName="image"><Label value="Cat"/></Labels>'
        '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="point" toName="image" smart="true"/></View>'
    )
    before = block(10, 10, 60, 50)
    mask = wire(before) | {"type": "brush"}
    answer, _ = answered(service, point("second", 52, 30), drafts=[draft(mask)], config=config)
    [region] = answer.result
    assert (region.type, region.labels_control, region.labels) == ("brush", "label", ("Cat",))


# Which mask is meant


@pytest.mark.parametrize("negative", [
    point("second", 60, 50), point("second", 26, 30, label="Dog"), point("second", 26, 30, item_index=1),
    point("second", 26, 30, original_width=160, original_height=120),
], ids=["beside it", "another label", "another image", "another size"])  # fmt: skip
def test_a_negative_point_that_lies_in_no_mask_of_its_label_marks_nothing(service, negative):
    accepted(service)
    before = len(service.decoder.calls)
    [answer] = service.segmenter.predict(click_request(negative))
    assert answer.result == ()
    assert len(service.decoder.calls) == before


def test_a_point_in_a_mask_is_answered_although_another_lies_beside_all(service):
    region_id, _ = accepted(service)
    answer, carved = answered(service, point("one", 70, 50), point("two", 26, 30))
    assert list(carved) == [region_id]
    assert answer.reasons == (Reason.ONLY_NEGATIVE_POINTS,)


def test_with_a_positive_point_beside_it_a_negative_one_refines_the_new_object(service):
    accepted(service)
    _, regions = answered(service, point("second", 60, 30, True), point("third", 26, 30))
    assert service.decoder.prompts[-1].point_labels.tolist() == [1, 0]
    assert np.array_equal(next(iter(regions.values())), around(60, 30))


def test_of_masks_on_top_of_each_other_the_newest_is_carved(service):
    below, above = wire(block(0, 0, 80, 60), name="below"), wire(block(10, 10, 60, 50), name="above")
    assert list(answered(service, point("second", 50, 30), drafts=[draft(below, above)])[1]) == ["above"]


def test_a_mask_that_refining_replaced_is_not_carved(service):
    accepted(service)
    service.decoder.mask = lambda prompt, size: Mask.from_array(block(50, 10, 75, 50))
    [refined] = answered(service, point("first", 20, 30, True), point("more", 60, 30, True))[1]
    assert_not_carved(answered(service, point("negative", 20, 30))[0])
    service.decoder.mask = lambda prompt, size: Mask.from_array(block(70, 10, 75, 50))
    assert list(answered(service, point("negative", 72, 30))[1]) == [refined]


def test_what_a_draft_holds_counts_as_it_was_edited(service):
    region_id, _ = accepted(service)
    edited = block(10, 10, 70, 50)
    _, carved = answered(service, point("second", 60, 30), drafts=[draft(wire(edited, name=region_id))])
    assert np.array_equal(carved[region_id], edited & ~around(60, 30))


def test_what_a_newer_draft_no_longer_holds_is_not_carved(service):
    accepted(service)
    assert_not_carved(answered(service, point("second", 26, 30), drafts=[draft(wire(block(50, 0, 80, 60)))])[0])


def test_while_no_newer_draft_is_saved_an_answer_counts_however_old_it_is(service):
    older = draft(wire(block(60, 0, 80, 20)))
    region_id, _ = accepted(service, drafts=[older])
    service.clock.advance(600)
    assert list(answered(service, point("second", 26, 30), drafts=[older])[1]) == [region_id]


def test_a_draft_that_was_saved_while_the_prompt_was_pending_says_nothing_about_its_mask(service):
    region_id, _ = accepted(service)
    service.clock.advance(600)
    pending = draft(point("first", 20, 30, True), at=9)
    assert list(answered(service, point("second", 26, 30), drafts=[pending])[1]) == [region_id]


def test_without_any_draft_an_answer_counts_until_a_draft_must_be_there(service):
    region_id, _ = accepted(service)
    service.clock.advance(8)
    assert list(answered(service, point("second", 26, 30))[1]) == [region_id]
    service.clock.advance(8)
    region_id, _ = accepted(service, name="third")
    service.clock.advance(11)
    assert_not_carved(answered(service, point("fourth", 26, 30))[0])


def test_another_annotator_of_the_image_never_gets_a_remembered_mask(service):
    """Label Studio sends each annotator their own drafts only."""
    mine, theirs = draft(wire(block(60, 0, 80, 20))), draft(wire(block(60, 0, 80, 20)), number=6)
    accepted(service, drafts=[mine])
    assert_not_carved(answered(service, point("second", 26, 30), drafts=[theirs])[0])
    assert_not_carved(answered(service, point("second", 26, 30))[0])


@pytest.mark.parametrize("changes", [{"task": 2}, {"project": "2.17"}, {"uri": "/data/upload/1/b.jpg"}], ids=str)
def test_a_mask_of_another_task_project_or_image_is_not_carved(service, changes):
    service.source.contents["/data/upload/1/b.jpg"] = png((1, 2, 3), SIZE_WH)
    accepted(service)
    assert_not_carved(answered(service, point("second", 26, 30), **changes)[0])


def test_answers_to_callers_that_name_no_prompts_are_not_remembered(service):
    service.segmenter.predict(click_request(point(..., 20, 30, True)))
    assert service.answers.on(REF) == ()


def test_a_submitted_mask_is_carved_where_one_annotator_has_annotated(service):
    before = block(10, 10, 60, 50)
    mine = saved(wire(before), completed_by=1)
    skipped = saved(wire(block(0, 0, 80, 60), name="skipped"), id=2, completed_by=2, was_cancelled=True)
    _, carved = answered(service, point("second", 52, 30), annotations=[mine, skipped])
    assert np.array_equal(carved["painted-01"], before & ~around(52, 30))


@pytest.mark.parametrize("authors", [(1, 2), (None, None), ({"id": 1}, {"id": 2}), (None, 1)])
def test_a_submitted_mask_is_not_carved_where_several_annotators_may_have_annotated(service, authors):
    masks = wire(block(10, 10, 60, 50))
    both = [saved(masks, id=number, completed_by=author) for number, author in enumerate(authors)]
    assert_not_carved(answered(service, point("second", 52, 30), annotations=both)[0])


@pytest.mark.parametrize("damaged", [
    wire(block(10, 10, 60, 50), original_width=81), {"id": "painted-01"}, {"id": "painted-01", "value": 3},
    wire(block(10, 10, 60, 50), from_name="point"), wire(block(10, 10, 60, 50), from_name="gone"),
], ids=["size", "no value", "value", "a prompt's control", "no control"])  # fmt: skip
def test_a_damaged_or_foreign_region_of_a_draft_is_not_carved(service, damaged):
    assert_not_carved(answered(service, point("second", 52, 30), drafts=[draft(damaged)])[0])


@pytest.mark.parametrize("size_wh", [SIZE_WH, (16_000, 12_000)], ids=["of a small image", "of a large image"])
def test_a_code_of_megabytes_is_left_out_and_a_mask_below_it_is_carved(service, size_wh):
    before, (width, height) = block(10, 10, 60, 50), size_wh
    code = rle.encode(Mask(np.ones((height, width), bool), (0, 0), (height, width)))
    hostile = wire(before, name="hostile", original_width=width, original_height=height)
    hostile["value"]["rle"] = [*code, *bytes(2_000_000)]
    _, carved = answered(service, point("second", 52, 30), drafts=[draft(wire(before), hostile)])
    assert np.array_equal(carved["painted-01"], before & ~around(52, 30))


# One click after another


def test_the_same_points_give_the_same_answer_whatever_was_answered_before(service):
    region_id, before = accepted(service)
    _, once = answered(service, point("second", *RIGHT))
    _, repeated = answered(service, point("second", *RIGHT))
    _, moved = answered(service, point("second", *LEFT))
    _, back = answered(service, point("second", *RIGHT))
    assert np.array_equal(moved[region_id], before & ~around(*LEFT))
    assert all(np.array_equal(once[region_id], other[region_id]) for other in (repeated, back))


@pytest.mark.parametrize("same_image", [{"to_name": ""}, {"item_index": 0}])
def test_a_mask_whose_prompt_is_still_pending_is_not_carved_however_the_prompt_names_the_image(service, same_image):
    clicks = [point("second", 26, 30), point("first", 20, 30, True) | same_image]
    for order in (clicks, clicks, clicks[::-1]):
        answer, masks = answered(service, *order)
        assert [pixels.tolist() for pixels in masks.values()] == [around(20, 30).tolist()]
        assert answer.reasons == (Reason.ONLY_NEGATIVE_POINTS,)


def test_a_second_part_is_taken_out_of_the_mask_that_was_carved_before(service):
    region_id, before = accepted(service)
    answered(service, point("second", *RIGHT))
    _, carved = answered(service, point("third", *LEFT))
    assert np.array_equal(carved[region_id], before & ~around(*RIGHT) & ~around(*LEFT))


def test_a_point_in_a_part_that_was_carved_says_that_the_carving_was_rejected(service):
    region_id, before = accepted(service)
    answered(service, point("second", *RIGHT))
    _, carved = answered(service, point("third", 25, 36))
    assert np.array_equal(carved[region_id], before & ~around(25, 36))


def test_a_draft_without_the_point_decides_whether_a_carving_was_accepted(service):
    region_id, before = accepted(service)
    _, carved = answered(service, point("second", *RIGHT))
    for pending in (before, carved[region_id]):
        after = draft(wire(pending, name=region_id), at=9)
        _, repeated = answered(service, point("third", *LEFT), drafts=[after])
        assert np.array_equal(repeated[region_id], pending & ~around(*LEFT))


# The request


def test_masks_of_a_large_body_are_read_for_a_correction_alone(service):
    before = block(10, 10, 60, 50)
    others = [wire(block(60, 0, 80, 20), name=f"other-{number}") for number in range(600)]
    task_json = {"id": 1, "data": {"image": IMAGE}, "drafts": [draft(*others, wire(before))], "annotations": []}
    body = encoded(click(point("second", 52, 30), tasks=[task_json]))
    assert len(body) > 1 << 16
    [item] = service.predict(json.loads(body))
    [region] = item["result"]
    assert region["id"] == "painted-01"
    assert region["value"]["rle"] == list(rle.encode(Mask.from_array(before & ~around(52, 30))))
    positive = messages.parse_predict(encoded(click(point("third", 52, 30, True), tasks=[task_json])))
    assert b'"rle":[]' in bytes(positive.tasks[0].drafts).replace(b" ", b"")


def test_points_without_a_sign_change_nothing_about_a_correction(service):
    region_id, _ = accepted(service)
    unsigned = point("ordinary", 70, 50)
    del unsigned["is_positive"]
    assert list(answered(service, unsigned, point("second", 26, 30))[1]) == [region_id]


def test_a_negative_point_in_no_mask_waits_for_nothing(service):
    service.source.gate.clear()
    assert_not_carved(answered(service, point("second", 52, 30))[0])


def test_a_picture_that_is_shown_smaller_is_carved_in_the_size_that_is_shown(service):
    half = {"original_width": 40, "original_height": 30}
    pixels = np.zeros((30, 40), bool)
    pixels[5:25, 5:30] = True
    mask = wire(pixels) | half
    negative = point("second", 52, 30) | half
    [answer] = service.segmenter.predict(click_request(negative, drafts=[draft(mask)]))
    [region] = answer.result
    assert region.original_size == (30, 40)
    assert isinstance(region.shape, Brush)
    assert rle.decode(region.shape.rle, (30, 40)).area < 500


def test_a_correction_of_another_pictures_mask_is_refused(service):
    mask = wire(block(10, 10, 60, 50)) | {"original_width": 60, "original_height": 80}
    pixels = np.zeros((80, 60), bool)
    pixels[10:50, 10:50] = True
    mask["value"]["rle"] = list(rle.encode(Mask.from_array(pixels)))
    negative = point("second", 26, 30) | {"original_width": 60, "original_height": 80}
    [answer] = service.segmenter.predict(click_request(negative, drafts=[draft(mask)]))
    assert_not_carved(answer, Reason.SIZE_MISMATCH)


def test_more_points_than_are_decoded_together_lose_the_oldest(service):
    region_id, _ = accepted(service)
    points = [point(f"p{number}", 12 + number, 30) for number in range(17)]
    answer, carved = answered(service, *points)
    assert set(carved) <= {region_id}
    assert Reason.TOO_MANY_POINTS in answer.reasons


def test_the_newest_answers_on_an_image_are_remembered_for_half_an_hour(service):
    for number in range(MOST_ON_AN_IMAGE + 3):
        accepted(service, name=f"p{number}")
    answers = service.answers.on(REF)
    assert [answer.prompt_ids for answer in answers] == [(f"p{number}",) for number in range(3, MOST_ON_AN_IMAGE + 3)]
    service.clock.advance(LASTS_S + 1)
    assert service.answers.on(REF) == ()


def test_answers_take_a_bounded_number_of_bytes(service):
    accepted(service)
    size = service.answers.on(REF)[0].nbytes
    small = RecentAnswers(max_bytes=2 * size)
    [region] = service.segmenter.predict(click_request(point("first", 20, 30, True)))[0].result
    prompt = ObjectPrompt(Prompt(box=[0, 0, 5, 5]), ("first",), ("Cat",), "point", "image", SIZE)
    for task in (1, 2, 3):
        small.add(replace(REF, task_id=task), [(region, prompt, np.zeros((4, 4), np.float32))], "")
    assert [len(small.on(replace(REF, task_id=task))) for task in (1, 2, 3)] == [0, 1, 1]
    small.add(REF, [(region, prompt, np.zeros((256, 256), np.float32))] * 3, "")
    assert small.on(REF) == ()


def test_many_parts_of_a_large_picture_are_decoded_in_batches_whose_masks_fit_into_memory(service):
    large = {"original_width": 4000, "original_height": 3000}
    service.segmenter.predict(click_request(point("first", 20, 30, True, **large)))
    service.decoder.calls.clear()
    negatives = [point(f"p{number}", 12 + number / 4, 30, **large) for number in range(16)]
    [answer] = service.segmenter.predict(click_request(*negatives))
    assert len(answer.result) == 1
    batches = [len(prompts) for _, prompts in service.decoder.calls]
    assert max(batches) * 4000 * 3000 <= CLICK_PIXELS
    assert sum(batches) >= 16
