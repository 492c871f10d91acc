"""A Ctrl+Alt+click in an accepted mask, as Label Studio 1.23.2 sent it, is answered with the mask without the part."""

import base64

import pytest

from tests.e2e.targets import target_of_two_parts
from tests.support.scenes import iou
from tests.support.wire_bodies import encoded, recorded
from tests.support.wire_reader import checked, mask_of

GOOD = 0.8
KINDS = ("Brush", "Bitmask", "Polygon")


@pytest.fixture
def target():
    return target_of_two_parts()


def request_of(name, target, kind="Brush"):
    """A recorded request about the picture, for a labeling config with this kind of mask."""
    body = recorded(name)
    body["tasks"][0]["data"]["image"] = "data:image/png;base64," + base64.b64encode(target.data).decode()
    body["label_config"] = body["label_config"].replace("BrushLabels", f"{kind}Labels")
    return body


def ask(service, body):
    """The mask of the only region of an answer, and its id."""
    reply = service.app.test_client().post("/predict", data=encoded(body))
    [item] = checked(body, reply, service.segmenter.model_version)
    [entry] = item["result"]
    return mask_of(entry), entry["id"]


def first_click(target, kind="Brush"):
    """The click before: the same request with a positive point in the middle of the object."""
    body = request_of("corrections/negative_in_mask", target, kind)
    for entry in body["params"]["context"]["result"]:
        x, y = target.centre
        entry |= {"id": "first-click", "is_positive": True}
        entry["value"] |= {"x": 100 * x / target.size[1], "y": 100 * y / target.size[0]}
    return body


@pytest.mark.parametrize("kind", KINDS)
def test_before_a_draft_is_saved_the_mask_that_was_answered_is_carved(service, target, kind):
    before, region_id = ask(service, first_click(target, kind))
    assert iou(before, target.mask) >= GOOD > iou(before, target.carved)
    carved, carved_id = ask(service, request_of("corrections/negative_in_mask", target, kind))
    assert carved_id == region_id
    assert iou(carved, target.carved) >= GOOD


def test_the_mask_of_a_draft_is_carved_by_a_service_that_never_saw_it(service, target):
    body = request_of("corrections/negative_in_drafted_mask", target)
    [draft] = body["tasks"][0]["drafts"]
    carved, region_id = ask(service, body)
    assert {region_id} == {region["id"] for region in draft["result"]}
    assert iou(carved, target.carved) >= GOOD
