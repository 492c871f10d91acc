"""What a mask means: with the demo model, a prompt about a known object gives that object, through the whole service.

The pictures are plain, two objects on an even background that no turn or mirroring maps onto themselves, so that what
is judged is where things are, not how well the model sees.
"""

import itertools

import numpy as np
import pytest

from tests.support.meaning import (
    BLOCK,
    DISC,
    FORMATS,
    GOOD,
    SIZES,
    TURNS,
    ask,
    click_and_not_the_other,
    click_on,
    config,
    ellipse_around,
    masks,
    painted,
    picture,
    polygon_around,
    rectangle_around,
    region,
    reversed_rectangle,
    slanted_rectangle,
    turned_rectangle,
    two_clicks,
)
from tests.support.scenes import iou
from tests.support.wire_bodies import encoded
from tests.support.wire_reader import checked, mask_of

PROMPTS = [
    click_on, click_and_not_the_other, two_clicks, rectangle_around, reversed_rectangle, turned_rectangle,
    slanted_rectangle, ellipse_around, polygon_around, painted,
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.__name__)
def test_every_prompt_about_an_object_gives_that_object(service, prompt, size):
    uri = picture(size)
    for wanted in masks(size):
        [entry] = ask(service, uri, prompt(wanted, size))
        assert iou(mask_of(entry), wanted) >= GOOD


FLIPPED = {2: np.fliplr, 3: lambda mask: mask[::-1, ::-1], 4: np.flipud}
"""What an orientation does that leaves width and height as they are."""


@pytest.mark.parametrize("orientation", FLIPPED)
def test_a_click_on_a_webp_gives_what_is_stored_there_since_browsers_do_not_turn_it(service, orientation):
    size = (240, 320)
    uri = picture(size, "WEBP", orientation)
    for wanted in masks(size):
        shown = FLIPPED[orientation](wanted)
        [entry] = ask(service, uri, click_on(shown, size))
        assert iou(mask_of(entry), shown) >= GOOD


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [case for case in itertools.product(FORMATS, TURNS) if case[0] != "WEBP" or case[1] not in FLIPPED],
)
def test_a_click_on_a_turned_photo_gives_what_the_browser_shows_there(service, kind, orientation):
    size = (240, 320)
    uri = picture(size, kind, orientation)
    for wanted in masks(size):
        [entry] = ask(service, uri, click_on(wanted, size))
        assert iou(mask_of(entry), wanted) >= GOOD


@pytest.mark.parametrize(("kind", "size"), list(itertools.product(FORMATS, SIZES)), ids=str)
def test_a_click_gives_its_object_in_every_format_and_size(service, kind, size):
    for wanted in masks(size):
        [entry] = ask(service, picture(size, kind), click_on(wanted, size))
        assert iou(mask_of(entry), wanted) >= GOOD


OUTPUTS = [
    ("BrushLabels", (DISC, BLOCK)), ("BitmaskLabels", (DISC, BLOCK)), ("PolygonLabels", (DISC, BLOCK)),
    ("VectorLabels", (DISC, BLOCK)), ("RectangleLabels", (BLOCK,)), ("EllipseLabels", (DISC,)),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("output", "objects"), OUTPUTS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_output_shows_the_object(service, output, objects, size):
    uri = picture(size)
    for number in objects:
        wanted = masks(size)[number]
        [entry] = ask(service, uri, rectangle_around(wanted, size), output)
        assert entry["type"] == output.lower()
        assert iou(mask_of(entry), wanted) >= GOOD


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_view_changes_nothing_but_what_is_echoed(service, rotation):
    """The editor keeps prompts and masks upright whichever way the view is turned."""
    size = (240, 320)
    for wanted in masks(size):
        [entry] = ask(service, picture(size), click_on(wanted, size, image_rotation=rotation))
        assert entry["image_rotation"] == rotation
        assert iou(mask_of(entry), wanted) >= GOOD


def test_two_rectangles_give_two_objects_each_with_its_own_label(service):
    size = (480, 640)
    disc, block = masks(size)
    context = rectangle_around(disc, size) + rectangle_around(block, size, "Block")
    entries = ask(service, picture(size), context)
    assert [entry["value"]["brushlabels"] for entry in entries] == [["Disc"], ["Block"]]
    assert [iou(mask_of(entry), wanted) >= GOOD for entry, wanted in zip(entries, (disc, block), strict=True)] == [
        True
    ] * 2


def test_clicks_of_two_labels_give_two_objects(service):
    size = (480, 640)
    disc, block = masks(size)
    [first], [second] = click_on(disc, size), click_on(block, size)
    second |= {"id": "other", "value": second["value"] | {"keypointlabels": ["Block"]}}
    entries = ask(service, picture(size), [first, second])
    assert [entry["value"]["brushlabels"] for entry in entries] == [["Disc"], ["Block"]]
    for entry, wanted in zip(entries, (disc, block), strict=True):
        assert iou(mask_of(entry), wanted) >= GOOD


@pytest.mark.parametrize("shown", [(240, 320), (960, 1280), (241, 321)], ids=str)
def test_a_browser_that_shows_a_scaled_copy_gets_the_object_at_its_size(service, shown):
    for wanted in masks(shown):
        [entry] = ask(service, picture((480, 640)), click_on(wanted, shown))
        assert iou(mask_of(entry), wanted) >= GOOD


def test_a_click_on_an_item_of_a_list_gives_the_object_on_that_item(service):
    first, second = (240, 320), (320, 240)
    body_config = config().replace('value="$image"', 'valueList="$pages"')
    for index, size in enumerate((first, second)):
        wanted = masks(size)[DISC]
        body = {
            "tasks": [{"id": 1, "data": {"pages": [picture(first), picture(second)]}}],
            "label_config": body_config,
            "params": {"context": {"result": click_on(wanted, size, item_index=index)}},
        }
        response = service.app.test_client().post("/predict", data=encoded(body))
        [entry] = checked(body, response, service.segmenter.model_version)[0]["result"]
        assert entry["item_index"] == index
        assert iou(mask_of(entry), wanted) >= GOOD


def test_a_mask_given_back_as_a_prompt_gives_the_same_object(service):
    """What is accepted, painted over and sent again does not drift."""
    size = (480, 640)
    wanted = masks(size)[DISC]
    [entry] = ask(service, picture(size), click_on(wanted, size))
    for _ in range(3):
        again = region("brush", size, {"format": "rle", "rle": entry["value"]["rle"]})
        [entry] = ask(service, picture(size), [again])
        assert iou(mask_of(entry), wanted) >= GOOD


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_click_gives_its_object_on_a_photo_of_twelve_megapixels(service, kind):
    size = (3000, 4000)
    uri = picture(size, kind, orientation=6)
    for wanted in masks(size):
        [entry] = ask(service, uri, click_on(wanted, size))
        assert iou(mask_of(entry), wanted) >= GOOD
