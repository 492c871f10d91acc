"""A click in Label Studio becomes a mask: a person in a real browser, a real Label Studio, this backend, end to end."""

import pytest

from backend.demo.project import LABEL_CONFIG
from tests.e2e.targets import Target, easy_pair, easy_target
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

LABELS = '<Label value="Object" background="#d4380d"/><Label value="Part" background="#1d39c4"/>'
SMART = (
    f'<KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels>'
    f'<RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels>'
)
IMAGE = '<Image name="image" value="$image" zoom="true" rotateControl="true"/>'
POINT, BOX = 0, 1  # which row of labels belongs to which smart control

OUTPUTS = {
    "brush": f'<BrushLabels name="mask" toName="image" smart="false">{LABELS}</BrushLabels>',
    "polygon": f'<PolygonLabels name="mask" toName="image" smart="false">{LABELS}</PolygonLabels>',
    "bitmask": f'<BitmaskLabels name="mask" toName="image" smart="false">{LABELS}</BitmaskLabels>',
}
ONE_ROW = (
    f'<View>{IMAGE}<Labels name="label" toName="image">{LABELS}</Labels>'
    '<Brush name="mask" toName="image" smart="false"/><KeyPoint name="point" toName="image" smart="true"/>'
    '<Rectangle name="box" toName="image" smart="true"/></View>'
)
GOOD = 0.8


def config(output: str, image: str = IMAGE) -> str:
    return f"<View>{image}{SMART}{OUTPUTS[output]}</View>"


@pytest.fixture
def target() -> Target:
    return easy_target((480, 640))


@pytest.fixture
def opened(studio, annotator):
    """Return a function that uploads a picture to a new project and opens its task, and returns the task."""

    def open_target(target: Target, label_config: str, name: str = "scene.png") -> int:
        project = studio.project(label_config)
        task = studio.task(project, name, target.data)
        annotator.open_task(project, task, target.size)
        return task

    return open_target


def the_only(regions: list[dict], kind: str) -> dict:
    (region,) = regions
    assert region["type"] == kind
    return region


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_click_becomes_a_mask_of_every_kind_that_label_studio_keeps(
    studio, annotator, opened, stored_masks, target, output
):
    task = opened(target, config(output))
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    annotator.photograph(f"{output}-suggested")
    annotator.accept()
    annotator.photograph(f"{output}-accepted")
    annotator.submit()
    region = the_only(studio.stored(task), f"{output}labels")
    assert region["value"][f"{output}labels"] == ["Object"]
    assert iou(stored_masks.of(region), target.mask) >= GOOD


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_smart_rectangle_becomes_a_mask_of_every_kind(studio, annotator, opened, stored_masks, target, output):
    task = opened(target, config(output))
    annotator.choose("Part", BOX, "rectangle-tool")
    left, top, right, bottom = target.box
    annotator.drag((left - 4, top - 4), (right + 4, bottom + 4))
    annotator.photograph(f"{output}-of-rectangle")
    annotator.accept()
    annotator.submit()
    region = the_only(studio.stored(task), f"{output}labels")
    assert region["value"][f"{output}labels"] == ["Part"]
    assert iou(stored_masks.of(region), target.mask) >= GOOD


@pytest.mark.parametrize("corners", [6, 12])
def test_a_polygon_is_shown_and_kept_with_the_number_of_corners_that_the_config_asks_for(
    studio, annotator, opened, stored_masks, target, corners
):
    task = opened(target, config("polygon").replace('name="mask"', f'name="mask" model_corners="{corners}"'))
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    annotator.photograph(f"polygon-of-{corners}-suggested")
    annotator.accept()
    assert annotator.corners_shown == corners
    annotator.submit()
    region = the_only(studio.stored(task), "polygonlabels")
    assert len(region["value"]["points"]) == corners
    assert iou(stored_masks.of(region), target.mask) >= 0.7  # a hexagon


def test_an_alt_click_takes_part_in_the_mask_as_a_negative_point(studio, annotator, opened, stored_masks, target):
    task = opened(target, config("brush"))
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.beside, negative=True)
    annotator.photograph("negative-suggested")
    assert [point["is_positive"] for point in annotator.clicks[-1]["result"]] == [True, False]
    annotator.accept()
    annotator.submit()
    mask = stored_masks.of(the_only(studio.stored(task), "brushlabels"))
    assert iou(mask, target.mask) >= GOOD
    assert not mask[target.beside[1], target.beside[0]]


def test_two_objects_marked_one_after_the_other_keep_a_mask_each(studio, annotator, opened, stored_masks):
    first, second = easy_pair((480, 640))
    task = opened(first, config("brush"))
    for label, target in (("Object", first), ("Part", second)):
        annotator.choose(label, POINT, "key-point-tool")
        annotator.click(target.centre)
        annotator.accept()
    annotator.photograph("two-objects")
    annotator.submit()
    regions = {region["value"]["brushlabels"][0]: region for region in studio.stored(task)}
    assert iou(stored_masks.of(regions["Object"]), first.mask) >= GOOD
    assert iou(stored_masks.of(regions["Part"]), second.mask) >= GOOD


def test_with_auto_accept_each_click_is_an_object_of_its_own(studio, annotator, opened, stored_masks):
    first, second = easy_pair((480, 640))
    task = opened(first, config("brush"))
    annotator.auto_accept(True)
    for target in (first, second):
        annotator.choose("Object", POINT, "key-point-tool")
        annotator.click(target.centre)
    annotator.photograph("auto-accepted")
    annotator.submit()
    masks = [stored_masks.of(region) for region in studio.stored(task)]
    assert len(masks) == 2
    assert iou(masks[0], first.mask) >= GOOD
    assert iou(masks[1], second.mask) >= GOOD


@pytest.mark.parametrize(("label_config", "kind"), [(LABEL_CONFIG, "brushlabels"), (ONE_ROW, "brush")])
def test_one_list_of_labels_for_all_tools_labels_the_mask_as_well(
    studio, annotator, opened, stored_masks, target, label_config, kind
):
    task = opened(target, label_config)
    annotator.choose("Part", 0, "key-point-tool")
    annotator.click(target.centre)
    annotator.accept()
    annotator.photograph("labels")
    annotator.submit()
    regions = {region["type"]: region for region in studio.stored(task)}
    assert regions.keys() == {kind, "labels"}
    assert regions["labels"]["value"]["labels"] == ["Part"]
    assert regions[kind]["value"].get("brushlabels", ["Part"]) == ["Part"]
    assert iou(stored_masks.of(regions[kind]), target.mask) >= GOOD


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_the_mask_fits_a_photo_as_the_browser_turns_it(studio, annotator, opened, stored_masks, orientation):
    target = easy_target((800, 600), "JPEG", orientation)
    task = opened(target, config("brush"), "photo.jpg")
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    annotator.photograph(f"exif-{orientation}")
    annotator.accept()
    annotator.submit()
    region = the_only(studio.stored(task), "brushlabels")
    assert (region["original_height"], region["original_width"]) == target.size
    assert iou(stored_masks.of(region), target.mask) >= GOOD


def test_the_mask_fits_a_picture_that_the_annotator_has_turned(studio, annotator, opened, stored_masks, target):
    task = opened(target, config("brush"))
    annotator.turn_right()
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    annotator.photograph("turned")
    annotator.accept()
    annotator.submit()
    region = the_only(studio.stored(task), "brushlabels")
    assert region["image_rotation"] == 90
    assert iou(stored_masks.of(region), target.mask) >= GOOD


def test_the_mask_belongs_to_the_image_of_a_series_that_was_clicked(studio, annotator, stored_masks):
    pictures = [easy_target((800, 600)), easy_target((480, 640))]
    project = studio.project(config("brush", '<Image name="image" valueList="$images"/>'))
    images = [studio.uploaded(project, f"{number}.png", target.data) for number, target in enumerate(pictures)]
    task = studio.task_of(project, {"images": images})
    annotator.open_task(project, task, pictures[0].size)
    annotator.show_image(1, pictures[1].size)
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(pictures[1].centre)
    annotator.photograph("series")
    annotator.accept()
    annotator.submit()
    region = the_only(studio.stored(task), "brushlabels")
    assert region["item_index"] == 1
    assert iou(stored_masks.of(region), pictures[1].mask) >= GOOD


def test_the_page_asks_nothing_of_other_hosts(annotator, opened, target):
    opened(target, config("brush"))
    annotator.choose("Object", POINT, "key-point-tool")
    annotator.click(target.centre)
    assert annotator.outside == []
