"""The boxes of a COCO file become the prompts of the tasks that show its images, or say why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import label_config
from backend.coco_prompts import CocoError, read
from backend.errors import Reason
from backend.types import Task
from tests.wire import CONFIG, JUNK

CONTROLS = label_config.parse(CONFIG)
CATEGORIES = [{"id": 1, "name": "Cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "Bird"}]


def image(number=1, file_name="photos/a.jpg", width=800, height=600, **more):
    return {"id": number, "file_name": file_name, "width": width, "height": height, **more}


def annotation(number=1, image_id=1, category_id=1, bbox=(80, 60, 160, 120), **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


@pytest.fixture
def coco(tmp_path):
    """Return a function that writes a COCO file and reads it."""

    def write(images=(), annotations=(), categories=CATEGORIES, **more):
        path = tmp_path / "boxes.json"
        file = {"images": list(images), "annotations": list(annotations), "categories": list(categories), **more}
        path.write_text(json.dumps(file))
        return read(path)

    return write


def prompts(found, uri="/data/upload/1/3024c2b9-a.jpg", config=CONTROLS, **data):
    return found.prompts(Task(1, data or {"image": uri}), config)


def reasons(found):
    return [one.reason for one in found.skipped]


def test_a_box_becomes_a_rectangle_in_percent_with_its_category_as_label(coco):
    found = prompts(coco([image()], [annotation()]))
    [region] = found.regions
    shape = region.shape
    assert (shape.x, shape.y, shape.width, shape.height, shape.rotation) == (10, 10, 20, 20, 0)
    assert (region.labels, region.to_name, region.original_size) == (("Cat",), "image", (600, 800))
    assert found.skipped == ()


def test_every_box_of_an_image_is_a_prompt_with_an_id_of_its_own(coco):
    found = prompts(coco([image()], [annotation(1), annotation(2), annotation(2), annotation(None), annotation("x")]))
    assert len({region.id for region in found.regions}) == 5


def test_boxes_of_other_images_are_not(coco):
    found = prompts(coco([image(1), image(2, "b.jpg")], [annotation(1, 2)]))
    assert (found.regions, found.skipped) == ((), ())


# Names.


@pytest.mark.parametrize("uri", [
    "/data/upload/1/3024c2b9-a.jpg", "http://host/some/photos/a.jpg?token=x/b.jpg", "s3://bucket/photos/a.jpg", "a.jpg",
    "/data/local-files/?d=sub/photos/a.jpg", "/data/local-files/?d=sub%2Fphotos%2Fa.jpg", "https://host/photos%2Fa.jpg",
    "azure-blob://box/a.jpg#x", " /data/upload/1/a.jpg ",
])  # fmt: skip
def test_an_image_is_found_by_its_file_name_wherever_it_lies(coco, uri):
    assert len(prompts(coco([image()], [annotation()]), uri).regions) == 1


@pytest.mark.parametrize(("file_name", "uri"), [
    ("local one.jpg", "/data/local-files/?d=sub/local%20one.jpg"),
    ("my photo (1).jpg", "/data/upload/1/0123abcd-my_photo_1.jpg"),
    ("größe #2.png", "/data/upload/1/0123abcd-gr%C3%B6%C3%9Fe_2.png"),
    ("win\\dows\\c.jpg", "/data/upload/1/0123abcd-c.jpg"),
    ("0123abcd-d.jpg", "/data/upload/1/0123abcd-d.jpg"),
    ("100%.jpg", "http://host/100%.jpg"),
])  # fmt: skip
def test_a_name_is_known_in_the_form_in_which_label_studio_keeps_it(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


def test_the_name_to_the_letter_goes_before_one_that_only_looks_so(coco):
    found = coco([image(1, "a b.jpg"), image(2, "a_b.jpg")], [annotation(1, 1), annotation(2, 2, 2)])
    assert [one.labels for one in prompts(found, "http://host/a%20b.jpg").regions] == [("Cat",)]
    assert [one.labels for one in prompts(found, "http://host/a_b.jpg").regions] == [("Dog",)]


def test_folders_tell_images_of_one_name_apart(coco):
    images = [image(1, "train/1/a.jpg"), image(2, "val/1/a.jpg"), image(3, "a.jpg")]
    found = coco(images, [annotation(1, 1, 1), annotation(2, 2, 2)])
    assert [one.labels for one in prompts(found, "s3://bucket/val/1/a.jpg").regions] == [("Dog",)]
    assert [one.labels for one in prompts(found, "s3://bucket/train/1/a.jpg").regions] == [("Cat",)]


@pytest.mark.parametrize(("file_name", "uri"), [
    ("train/0001.jpg", "s3://b/val/0001.jpg"), ("train/images/0001.jpg", "s3://b/val/images/0001.jpg"),
    ("train/0001.jpg", "s3://b/data/upload/0001.jpg"), ("train/0001.jpg", "/data/local-files/?d=val/0001.jpg"),
    ("d/train/0001.jpg", "http://host/val/train/0001.jpg"),
])  # fmt: skip
def test_an_image_in_another_folder_does_not_get_the_boxes_of_one_that_is_named_alike(coco, file_name, uri):
    file = coco([image(file_name=file_name)], [annotation()])
    found = prompts(file, uri)
    assert (found.regions, reasons(found)) == ((), [Reason.NOT_IN_COCO_FILE])
    assert f"{file_name} lies in other folders" in found.skipped[0].detail
    assert file.unmet == (file_name,)


@pytest.mark.parametrize(("file_name", "uri"), [
    ("0001.jpg", "s3://b/val/0001.jpg"), ("/home/me/b/val/0001.jpg", "/data/local-files/?d=b/val/0001.jpg"),
    ("../val/0001.jpg", "s3://b/data/val/0001.jpg"), ("val/0001.jpg", "s3://b/data/val/0001.jpg"),
    ("val/0001.jpg", "http://host/ls/data/upload/3/0123abcd-0001.jpg"),
])  # fmt: skip
def test_folders_that_only_one_side_has_do_not_matter(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


def test_an_image_that_may_be_several_is_told_and_gets_no_boxes(coco):
    found = prompts(coco([image(1, "train/a.jpg"), image(2, "val/a.jpg")], [annotation()]))
    assert (found.regions, reasons(found)) == ((), [Reason.AMBIGUOUS_FILE_NAME])
    assert "train/a.jpg, val/a.jpg" in found.skipped[0].detail


@pytest.mark.parametrize("uri", ["/data/upload/1/3024c2b9-z.jpg", "data:image/png;base64,a.jpg", "http://a.jpg"])
def test_an_image_that_is_not_in_the_file_is_told(coco, uri):
    found = prompts(coco([image()], [annotation()]), uri)
    assert (found.regions, reasons(found)) == ((), [Reason.NOT_IN_COCO_FILE])


def test_credentials_in_an_address_are_not_told(coco):
    skipped = prompts(coco([image()], [annotation()]), "http://me:secret@h/none.jpg").skipped[0]
    assert "secret" not in str(skipped)
    assert "http://***@h/none.jpg" in skipped.detail


def test_images_with_boxes_that_no_task_shows_are_known_in_the_end(coco):
    found = coco([image(1, "a.jpg"), image(2, "b.jpg"), image(3, "without.jpg")], [annotation(1, 1), annotation(2, 2)])
    assert found.unmet == ("a.jpg", "b.jpg")
    prompts(found, "a.jpg")
    assert found.unmet == ("b.jpg",)


# Labels.


def test_a_category_is_found_among_the_labels_whatever_its_case(coco):
    assert [one.labels for one in prompts(coco([image()], [annotation(category_id=2)])).regions] == [("Dog",)]


def test_a_category_that_is_no_label_is_left_out_with_its_reason(coco):
    found = prompts(coco([image()], [annotation(1, category_id=3), annotation(2, category_id=99), annotation(3)]))
    assert [one.labels for one in found.regions] == [("Cat",)]
    assert reasons(found) == [Reason.UNKNOWN_LABEL] * 2


def test_without_any_labels_in_the_config_every_box_counts(coco):
    config = label_config.parse('<View><Image name="image" value="$image"/><Brush name="b" toName="image"/></View>')
    assert [one.labels for one in prompts(coco([image()], [annotation()]), config=config).regions] == [()]


def test_labels_that_come_with_each_task_are_taken_as_they_are(coco):
    config = label_config.parse(
        '<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image" value="$options"/></View>'
    )
    assert [one.labels for one in prompts(coco([image()], [annotation()]), config=config).regions] == [("Cat",)]


def test_a_config_that_can_hold_no_mask_is_told(coco):
    config = label_config.parse('<View><Image name="image" value="$image"/></View>')
    assert reasons(prompts(coco([image()], [annotation()]), config=config)) == [Reason.NO_OUTPUT_CONTROL]


# Several images.


def test_each_image_of_a_task_gets_its_own_boxes(coco):
    config = label_config.parse(CONFIG.replace('value="$image"', 'valueList="$pages"'))
    found = coco([image(1, "a.jpg"), image(2, "b.jpg")], [annotation(7, 1), annotation(8, 2), annotation(9, 2)])
    task = prompts(found, config=config, pages=["x/b.jpg", "missing.jpg", "x/a.jpg", "x/b.jpg"])
    assert [one.item_index for one in task.regions] == [0, 0, 2, 3, 3]
    assert len({one.id for one in task.regions}) == 5
    assert reasons(task) == [Reason.NOT_IN_COCO_FILE]


def test_a_task_without_an_image_has_no_prompts(coco):
    found = coco([image()], [annotation()]).prompts(Task(1, {}), CONTROLS)
    assert (found.regions, found.skipped) == ((), ())


# Files.


@pytest.mark.parametrize("bbox", [None, [], [1, 2, 3], [1, 2, 3, "4"], "box", [1, 2, 3, None], [1, 2, True, 4]])
def test_a_damaged_box_is_left_out_with_its_reason_and_the_others_stay(coco, bbox):
    found = prompts(coco([image()], [annotation(1, bbox=bbox), annotation(2)]))
    assert len(found.regions) == 1
    assert reasons(found) == [Reason.BAD_GEOMETRY]


def test_boxes_around_crowds_are_left_out(coco):
    assert reasons(prompts(coco([image()], [annotation(iscrowd=1)]))) == [Reason.NOT_A_PROMPT]


def test_an_image_without_a_size_has_no_boxes_that_could_be_placed(coco):
    assert reasons(prompts(coco([image(width=None)], [annotation()]))) == [Reason.BAD_GEOMETRY]


def test_numbers_written_as_text_or_with_a_point_are_the_same_ids(coco):
    found = coco([image("1")], [annotation(image_id=1.0, category_id="1")])
    assert [one.labels for one in prompts(found).regions] == [("Cat",)]


def test_outlines_and_whatever_else_the_file_holds_do_not_matter(coco):
    more = annotation(segmentation=[[1, 2, 3, 4, 5, 6]], area=7.5, keypoints=[1, 2, 3])
    assert len(prompts(coco([image(license=3)], [more], info={"year": 2014}, licenses=[])).regions) == 1


@pytest.mark.parametrize("text", [
    "", "hello", "[]", "{}", '{"images": []}', '{"images": [], "annotations": []}', '[{"image_id": 1}]', "null",
    '{"images": {}, "annotations": []}', '{"images": [{"id": 1}], "annotations": []}',
    '{"images": [7], "annotations": []}',
])  # fmt: skip
def test_what_is_no_coco_file_is_refused_in_one_line_that_names_it(tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(CocoError, match=r"boxes\.json: expected") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(CocoError, match=r"nowhere\.json: No such file"):
        read(tmp_path / "nowhere.json")


ROWS = st.lists(
    st.fixed_dictionaries({}, optional={
        "id": JUNK, "image_id": JUNK, "category_id": JUNK, "bbox": st.one_of(JUNK, st.lists(JUNK, max_size=4)),
        "iscrowd": JUNK, "file_name": st.one_of(JUNK, st.just("a.jpg")), "width": JUNK, "height": JUNK, "name": JUNK,
    }), max_size=3,
)  # fmt: skip


@given(ROWS, ROWS, ROWS)
def test_no_file_of_the_right_shape_raises_whatever_its_rows_hold(tmp_path_factory, images, annotations, categories):
    path = tmp_path_factory.mktemp("coco") / "boxes.json"
    file = {"images": [image(), *images], "annotations": [annotation(), *annotations], "categories": categories}
    path.write_text(json.dumps(file))
    found = prompts(read(path), "a.jpg")
    assert all(region.to_name == "image" for region in found.regions)
