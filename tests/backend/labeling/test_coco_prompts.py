"""The boxes of a COCO file become the prompts of the tasks that show its images, or say why not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Reason
from backend.labeling import config as labeling_config
from backend.labeling.coco_file import CocoError
from backend.labeling.coco_prompts import read
from backend.types import Task
from model.coco import rle
from model.types import Mask
from tests.support.wire_bodies import CONFIG, JUNK

CONTROLS = labeling_config.parse(CONFIG)
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


def prompts(source, uri="/data/upload/1/3024c2b9-a.jpg", config=CONTROLS, **data):
    return source.prompts(Task(1, data or {"image": uri}), config)


def reasons(task_prompts):
    return [skip.reason for skip in task_prompts.skipped]


def test_a_box_becomes_a_rectangle_in_percent_with_its_category_as_label(coco):
    task_prompts = prompts(coco([image()], [annotation()]))
    [region] = task_prompts.regions
    shape = region.shape
    assert (shape.x, shape.y, shape.width, shape.height, shape.rotation) == (10, 10, 20, 20, 0)
    assert (region.labels, region.to_name, region.original_size) == (("Cat",), "image", (600, 800))
    assert task_prompts.skipped == ()


def test_every_box_of_an_image_is_a_prompt_with_an_id_of_its_own(coco):
    task_prompts = prompts(
        coco([image()], [annotation(1), annotation(2), annotation(2), annotation(None), annotation("x")])
    )
    assert len({region.id for region in task_prompts.regions}) == 5


def test_boxes_of_other_images_are_not(coco):
    task_prompts = prompts(coco([image(1), image(2, "b.jpg")], [annotation(1, 2)]))
    assert (task_prompts.regions, task_prompts.skipped) == ((), ())


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
    source = coco([image(1, "a b.jpg"), image(2, "a_b.jpg")], [annotation(1, 1), annotation(2, 2, 2)])
    assert [region.labels for region in prompts(source, "http://host/a%20b.jpg").regions] == [("Cat",)]
    assert [region.labels for region in prompts(source, "http://host/a_b.jpg").regions] == [("Dog",)]


def test_folders_tell_images_of_one_name_apart(coco):
    images = [image(1, "train/1/a.jpg"), image(2, "val/1/a.jpg"), image(3, "a.jpg")]
    source = coco(images, [annotation(1, 1, 1), annotation(2, 2, 2)])
    assert [region.labels for region in prompts(source, "s3://bucket/val/1/a.jpg").regions] == [("Dog",)]
    assert [region.labels for region in prompts(source, "s3://bucket/train/1/a.jpg").regions] == [("Cat",)]


@pytest.mark.parametrize(("file_name", "uri"), [
    ("train/0001.jpg", "s3://b/val/0001.jpg"), ("train/images/0001.jpg", "s3://b/val/images/0001.jpg"),
    ("train/0001.jpg", "s3://b/data/upload/0001.jpg"), ("train/0001.jpg", "/data/local-files/?d=val/0001.jpg"),
    ("d/train/0001.jpg", "http://host/val/train/0001.jpg"),
])  # fmt: skip
def test_an_image_in_another_folder_does_not_get_the_boxes_of_one_that_is_named_alike(coco, file_name, uri):
    file = coco([image(file_name=file_name)], [annotation()])
    task_prompts = prompts(file, uri)
    assert (task_prompts.regions, reasons(task_prompts)) == ((), [Reason.NOT_IN_COCO_FILE])
    assert f"{file_name} lies in other folders" in task_prompts.skipped[0].detail
    assert file.images_without_task == (file_name,)


@pytest.mark.parametrize(("file_name", "uri"), [
    ("0001.jpg", "s3://b/val/0001.jpg"), ("/home/me/b/val/0001.jpg", "/data/local-files/?d=b/val/0001.jpg"),
    ("../val/0001.jpg", "s3://b/data/val/0001.jpg"), ("val/0001.jpg", "s3://b/data/val/0001.jpg"),
    ("val/0001.jpg", "http://host/ls/data/upload/3/0123abcd-0001.jpg"),
])  # fmt: skip
def test_folders_that_only_one_side_has_do_not_matter(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


def test_an_image_that_may_be_several_is_reported_and_gets_no_boxes(coco):
    task_prompts = prompts(coco([image(1, "train/a.jpg"), image(2, "val/a.jpg")], [annotation()]))
    assert (task_prompts.regions, reasons(task_prompts)) == ((), [Reason.AMBIGUOUS_FILE_NAME])
    assert "train/a.jpg, val/a.jpg" in task_prompts.skipped[0].detail


@pytest.mark.parametrize("uri", ["/data/upload/1/3024c2b9-z.jpg", "data:image/png;base64,a.jpg", "http://a.jpg"])
def test_an_image_that_is_not_in_the_file_is_reported(coco, uri):
    task_prompts = prompts(coco([image()], [annotation()]), uri)
    assert (task_prompts.regions, reasons(task_prompts)) == ((), [Reason.NOT_IN_COCO_FILE])


def test_credentials_in_an_address_are_not_shown(coco):
    skipped = prompts(coco([image()], [annotation()]), "http://me:secret@h/none.jpg").skipped[0]
    assert "secret" not in str(skipped)
    assert "http://***@h/none.jpg" in skipped.detail


def test_images_with_boxes_that_no_task_shows_are_known_in_the_end(coco):
    source = coco([image(1, "a.jpg"), image(2, "b.jpg"), image(3, "without.jpg")], [annotation(1, 1), annotation(2, 2)])
    assert source.images_without_task == ("a.jpg", "b.jpg")
    prompts(source, "a.jpg")
    assert source.images_without_task == ("b.jpg",)


NFC, NFD = "caf\u00e9.jpg", "cafe\u0301.jpg"


@pytest.mark.parametrize(("file_name", "uri"), [
    *((name, f"http://host/{other}") for name in (NFC, NFD) for other in (NFC, NFD)),
    (NFC, "http://host/cafe%CC%81.jpg"), (NFD, "/data/local-files/?d=sub%2Fcaf%C3%A9.jpg"),
    (NFC, "/data/upload/1/0123abcd-cafe.jpg"), (NFD, "/data/upload/1/0123abcd-cafe.jpg"),  # uploaded from macOS
    (NFD, "/data/upload/1/0123abcd-caf%C3%A9.jpg"), (f"e\u0301t\u00e9/{NFD}", f"s3://b/\u00e9te\u0301/{NFC}"),
])  # fmt: skip
def test_accents_count_in_either_of_unicodes_forms(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


def test_a_name_with_an_accent_is_not_that_of_a_file_without(coco):
    source = coco([image(1, "cafe.jpg"), image(2, NFD)], [annotation(1, 1, 1), annotation(2, 2, 2)])
    assert [region.labels for region in prompts(source, "http://host/cafe.jpg").regions] == [("Cat",)]
    assert [region.labels for region in prompts(source, f"http://host/{NFC}").regions] == [("Dog",)]
    assert reasons(prompts(coco([image(1, "cafe.jpg")]), f"http://host/{NFC}")) == [Reason.NOT_IN_COCO_FILE]


@pytest.mark.parametrize(("file_name", "uri"), [
    ("my%20photo.jpg", "http://host/my%20photo.jpg"), ("my%20photo.jpg", "/data/upload/1/0123abcd-my_photo.jpg"),
    ("photos%2Fa.jpg", "s3://b/photos/a.jpg"), ("photos%5Ca.jpg", "s3://b/photos/a.jpg"),
    ("https://host/photos/a%20b.jpg?sig=x/y.jpg", "s3://b/photos/a b.jpg"), ("s3://b/photos/a.jpg", "s3://c/photos/a.jpg"),
    ("/data/local-files/?d=photos/a.jpg", "/data/local-files/?d=photos%2Fa.jpg"),
    ("/data/upload/3/0123abcd-a.jpg", "/data/upload/3/0123abcd-a.jpg"), ("C:\\a.jpg", "s3://b/photos/a.jpg"),
    (".\\photos\\a.jpg", "s3://b/photos/a.jpg"), ("/photos//a.jpg", "http://[::1/photos/a.jpg"),
])  # fmt: skip
def test_a_file_may_spell_names_as_addresses_and_other_systems_do(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


@pytest.mark.parametrize(("file_name", "uri"), [
    ("images/3024c2b9-a.jpg", "/data/upload/9/0123abcd-a.jpg"), ("3024c2b9-a.jpg", "s3://b/a.jpg"),
    ("/data/upload/1/30240219-a.jpg", "/data/upload/9/01230123-a.jpg"), ("upload/1/30240219-a.jpg", "a.jpg"),
])  # fmt: skip
def test_an_export_of_label_studio_names_uploads_as_they_are_stored_in_its_project(coco, file_name, uri):
    assert len(prompts(coco([image(file_name=file_name)], [annotation()]), uri).regions) == 1


@pytest.mark.parametrize(("file_name", "uri"), [
    ("20230101-cam.jpg", "s3://b/20230102-cam.jpg"), ("20230101-cam.jpg", "/data/upload/1/0123abcd-20230102-cam.jpg"),
    ("20230101-cam.jpg", "/data/upload/1/0123abcd-cam.jpg"), ("20230101-cam.jpg", "s3://b/cam.jpg"),
    ("deadbeef-a.jpg", "s3://b/cafebabe-a.jpg"),
])  # fmt: skip
def test_names_that_begin_with_a_date_or_digits_of_their_own_are_not_taken_for_one_another(coco, file_name, uri):
    assert reasons(prompts(coco([image(file_name=file_name)], [annotation()]), uri)) == [Reason.NOT_IN_COCO_FILE]


def test_the_name_as_it_is_goes_before_one_that_is_spelled_otherwise(coco):
    images = [image(1, "a%20b.jpg"), image(2, "a b.jpg"), image(3, "3024c2b9-c.jpg"), image(4, "c.jpg")]
    source = coco(images, [annotation(number, number, 1 + number % 2) for number in range(1, 5)])
    assert [region.labels for region in prompts(source, "s3://b/a b.jpg").regions] == [("Cat",)]
    assert [region.labels for region in prompts(source, "s3://b/c.jpg").regions] == [("Cat",)]


# Labels.


def test_a_category_is_found_among_the_labels_whatever_its_case(coco):
    assert [region.labels for region in prompts(coco([image()], [annotation(category_id=2)])).regions] == [("Dog",)]


def test_a_category_that_is_no_label_is_left_out_with_its_reason(coco):
    task_prompts = prompts(
        coco([image()], [annotation(1, category_id=3), annotation(2, category_id=99), annotation(3)])
    )
    assert [region.labels for region in task_prompts.regions] == [("Cat",)]
    assert reasons(task_prompts) == [Reason.UNKNOWN_LABEL] * 2


def test_without_any_labels_in_the_config_every_box_counts(coco):
    config = labeling_config.parse('<View><Image name="image" value="$image"/><Brush name="b" toName="image"/></View>')
    assert [region.labels for region in prompts(coco([image()], [annotation()]), config=config).regions] == [()]


def test_labels_that_come_with_each_task_are_taken_as_they_are(coco):
    config = labeling_config.parse(
        '<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image" value="$options"/></View>'
    )
    assert [region.labels for region in prompts(coco([image()], [annotation()]), config=config).regions] == [("Cat",)]


def test_a_config_that_can_hold_no_mask_is_reported(coco):
    config = labeling_config.parse('<View><Image name="image" value="$image"/></View>')
    assert reasons(prompts(coco([image()], [annotation()]), config=config)) == [Reason.NO_OUTPUT_CONTROL]


# Several images.


def test_each_image_of_a_task_gets_its_own_boxes(coco):
    config = labeling_config.parse(CONFIG.replace('value="$image"', 'valueList="$pages"'))
    source = coco([image(1, "a.jpg"), image(2, "b.jpg")], [annotation(7, 1), annotation(8, 2), annotation(9, 2)])
    task = prompts(source, config=config, pages=["x/b.jpg", "missing.jpg", "x/a.jpg", "x/b.jpg"])
    assert [region.item_index for region in task.regions] == [0, 0, 2, 3, 3]
    assert len({region.id for region in task.regions}) == 5
    assert reasons(task) == [Reason.NOT_IN_COCO_FILE]


def test_a_task_without_an_image_has_no_prompts(coco):
    task_prompts = coco([image()], [annotation()]).prompts(Task(1, {}), CONTROLS)
    assert (task_prompts.regions, task_prompts.skipped) == ((), ())


# Files.


@pytest.mark.parametrize("bbox", [None, [], [1, 2, 3], [1, 2, 3, "4"], "box", [1, 2, 3, None], [1, 2, True, 4]])
def test_a_damaged_box_is_left_out_with_its_reason_and_the_others_stay(coco, bbox):
    task_prompts = prompts(coco([image()], [annotation(1, bbox=bbox), annotation(2)]))
    assert len(task_prompts.regions) == 1
    assert reasons(task_prompts) == [Reason.BAD_GEOMETRY]


def test_boxes_around_crowds_are_left_out(coco):
    assert reasons(prompts(coco([image()], [annotation(iscrowd=1)]))) == [Reason.NOT_A_PROMPT]


def test_an_image_without_a_size_has_no_boxes_that_could_be_placed(coco):
    assert reasons(prompts(coco([image(width=None)], [annotation()]))) == [Reason.BAD_GEOMETRY]


def test_long_numbers_are_the_same_ids_as_text_too(coco):
    source = coco([image("12345678901234567890")], [annotation(image_id=12345678901234567890)])
    assert len(prompts(source).regions) == 1


def test_numbers_written_as_text_or_with_a_point_are_the_same_ids(coco):
    source = coco([image("1")], [annotation(image_id=1.0, category_id="1")])
    assert [region.labels for region in prompts(source).regions] == [("Cat",)]


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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_may_have_a_byte_order_mark_or_be_in_another_form_of_unicode(tmp_path, encoding):
    path = tmp_path / "boxes.json"
    file = {"images": [image(file_name=NFC)], "annotations": [annotation()], "categories": CATEGORIES}
    path.write_text(json.dumps(file, ensure_ascii=False), encoding)
    assert len(prompts(read(path), f"http://host/{NFD}").regions) == 1


def test_a_file_in_no_form_of_unicode_is_refused_in_one_line(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [image(file_name=NFC)], "annotations": []}, ensure_ascii=False), "cp1252")
    with pytest.raises(CocoError, match=r"boxes\.json: expected a COCO file .* 'utf-8' codec can't decode byte 0xe9"):
        read(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_spoils_only_its_own_annotation(coco, number):
    file = coco([image(), image(2, "b.jpg", width=number)], [annotation(1, bbox=(1, number, 3, 4)), annotation(2)])
    task_prompts = prompts(file)
    assert [region.id for region in task_prompts.regions] == ["2"]
    assert [(skip.region_id, skip.reason) for skip in task_prompts.skipped] == [("1", Reason.BAD_GEOMETRY)]
    assert f"got [1, {number}, 3, 4]" in task_prompts.skipped[0].detail


OUTLINES = [
    [[80, 60, 240, 60, 240, 180, 80, 180]], [80, 60, 240, 60, 240, 180, 80, 180],
    [[80, 60, 240, 60, 240, 180], [80, 60, 90, 70, 80, 180]], [[80, 60], [240, 60], [240, 180], [80, 180]],
    [[[80, 60], [240, 180], [80, 180]]],
    {"size": [600, 800], "counts": [80 * 600 + 60, *([120, 480] * 159), 120, 561 * 600 - 180]},
    {"size": [300, 400], "counts": [40 * 300 + 30, *([60, 240] * 79), 60, 281 * 300 - 90]},
]  # fmt: skip


@pytest.mark.parametrize("bbox", [..., None, [], [0, 0, 0, 0], [80, 60, 0, 9], [1, float("nan"), 3, 4], "box"], ids=str)
@pytest.mark.parametrize("outline", OUTLINES, ids=range(len(OUTLINES)))
def test_without_a_usable_box_the_one_around_the_outline_is_taken(coco, bbox, outline):
    row = annotation(bbox=bbox, segmentation=outline)
    if bbox is ...:
        del row["bbox"]
    [region] = prompts(coco([image()], [row])).regions
    shape = region.shape
    assert (shape.x, shape.y, shape.width, shape.height) == pytest.approx((10, 10, 20, 20))


def test_a_code_may_be_text(coco):
    code = {"size": [600, 800], "counts": rle.encode(Mask(np.ones((120, 160), bool), (80, 60), (600, 800)))}
    code["counts"] = code["counts"].to_compressed()["counts"]
    [region] = prompts(coco([image()], [annotation(bbox=None, segmentation=code)])).regions
    assert (region.shape.x, region.shape.width) == pytest.approx((10, 20))


@pytest.mark.parametrize(("outline", "message"), [
    ([[1, 2, 3, 4]], "expected a run-length code or at least 3 corners, got 4 numbers"),
    ([1, 2, 3, 4, 5, 6, 7], "expected x and y of corners in turn, got [1, 2, 3, 4, 5, 6, 7]"),
    ([[1, 2, 3, 4, 5, "6"]], "expected x and y"), ([[1, 2, 3, 4, 5, None]], "expected x and y"),
    ("polygon", "expected x and y"), ({"size": [2, 2], "counts": [5]}, "expected runs of 2 × 2 pixels"),
    ({"size": [2, 2], "counts": "~"}, "expected COCO's run-length text"), ({"size": [2, 2]}, "expected whole numbers"),
    ({"size": [2, 2], "counts": [4]}, "expected a mask, got an empty one"),
    ({"counts": [4]}, "expected size and counts"),
], ids=str)  # fmt: skip
def test_where_neither_box_nor_outline_can_be_used_both_are_reported(coco, outline, message):
    task_prompts = prompts(coco([image()], [annotation(7, bbox=None, segmentation=outline), annotation(8)]))
    assert [region.id for region in task_prompts.regions] == ["8"]
    [skipped] = task_prompts.skipped
    assert (skipped.region_id, skipped.reason) == ("7", Reason.BAD_GEOMETRY)
    assert skipped.detail.startswith("bbox: expected x, y, width and height, got None; ")
    assert message in skipped.detail


def test_annotations_that_belong_to_no_image_are_reported_with_the_cause(coco):
    images = [image(1), image(2, None), image(3, "b.jpg"), image("3", "c.jpg"), image("--4", "d.jpg")]
    rows = [annotation(number, of) for number, of in ((11, 1), (12, 2), (13, 3), (14, 9), (15, None), (16, "--4"))]
    source = coco(images, rows)
    assert {skip.region_id: skip.detail for skip in source.file.left_out} == {
        "12": "image 2 has no file_name",
        "13": "several images have the id 3: b.jpg, c.jpg",
        "14": "no image of the file has the id 9",
        "15": "expected an image_id, got none",
    }
    assert source.images_without_task == ("d.jpg", "photos/a.jpg")


def test_an_image_that_is_listed_twice_has_the_boxes_of_both(coco):
    file = coco([image(1), image(1), image(2)], [annotation(1, 1), annotation(1, 2), annotation(3, 1)])
    assert [region.id for region in prompts(file).regions] == ["1#0", "1#1", "3"]
    assert file.images_without_task == ()


def test_sizes_may_be_text_or_have_a_point(coco):
    [region] = prompts(coco([image(width="800", height=600.0)], [annotation()])).regions
    assert region.original_size == (600, 800)


def test_a_file_without_categories_has_boxes_without_labels(coco):
    task_prompts = prompts(coco([image()], [annotation()], categories=[]))
    assert reasons(task_prompts) == [Reason.UNKNOWN_LABEL]
    assert "a category without a name in the file is no label" in task_prompts.skipped[0].detail


def test_crowds_on_images_that_were_shown_are_counted(coco):
    source = coco(
        [image(1), image(2, "b.jpg")], [annotation(1, iscrowd=1), annotation(2, iscrowd="1"), annotation(3, 2)]
    )
    assert source.crowds == 0
    prompts(source)
    prompts(source)
    assert source.crowds == 2


@pytest.mark.parametrize(("boxes", "count"), [
    ([(400, 300, 500, 400), (10, 20, 30, 40)], 1), ([(400, 300, 500, 400), (10, 20, 5, 40)], 0),
    ([(10, 20, 30, 40)], 0), ([(400, 300, 900, 400)], 0), ([], 0),
])  # fmt: skip
def test_boxes_that_read_as_corners_are_noticed(coco, boxes, count):
    source = coco([image(), image(2, "b.jpg", width=None)], [annotation(n, bbox=box) for n, box in enumerate(boxes)])
    assert source.file.reads_as_corners == count


ROWS = st.lists(
    st.fixed_dictionaries({}, optional={
        "id": JUNK, "image_id": JUNK, "category_id": JUNK, "bbox": st.one_of(JUNK, st.lists(JUNK, max_size=4)),
        "segmentation": st.one_of(JUNK, st.lists(JUNK, max_size=6), st.lists(st.lists(JUNK, max_size=6), max_size=2)),
        "iscrowd": JUNK, "file_name": st.one_of(JUNK, st.just("a.jpg")), "width": JUNK, "height": JUNK, "name": JUNK,
    }), max_size=3,
)  # fmt: skip


@given(ROWS, ROWS, ROWS)
def test_no_file_of_the_right_shape_raises_whatever_its_rows_hold(tmp_path_factory, images, annotations, categories):
    path = tmp_path_factory.mktemp("coco") / "boxes.json"
    file = {"images": [image(), *images], "annotations": [annotation(), *annotations], "categories": categories}
    path.write_text(json.dumps(file))
    task_prompts = prompts(read(path), "a.jpg")
    assert all(region.to_name == "image" for region in task_prompts.regions)
