"""COCO's file holds what was added, whole, however the work ended."""

import contextlib
import json
import resource

import numpy as np
import pytest

from model.coco import rle
from model.coco.writer import Annotation, CocoFile
from model.types import Mask


def square(x, y, side, size=(30, 40)):
    mask = np.zeros(size, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return rle.encode(Mask.from_array(mask))


def test_pictures_and_masks_are_numbered_and_belong_together(tmp_path):
    path = tmp_path / "new" / "masks.json"
    with CocoFile(path, "Masks made by été@1") as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3), 0.5), Annotation(square(5, 6, 7))])
        file.add("empty.jpg", (10, 20), [])
        file.add("more/é.jpg", (30, 40), [Annotation(square(0, 0, 30), 0.25, {"stability_score": 0.75})])
    coco = json.loads(path.read_text(encoding="utf-8"))
    assert list(coco) == ["info", "categories", "annotations", "images"]
    assert coco["info"]["description"] == "Masks made by été@1"
    assert coco["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 2, "file_name": "empty.jpg", "height": 10, "width": 20},
        {"id": 3, "file_name": "more/é.jpg", "height": 30, "width": 40},
    ]
    annotations = coco["annotations"]
    assert [(annotation["id"], annotation["image_id"], annotation.get("score")) for annotation in annotations] == [
        (1, 1, 0.5),
        (2, 1, None),
        (3, 3, 0.25),
    ]
    assert [annotation["bbox"] for annotation in annotations] == [[1, 2, 3, 3], [5, 6, 7, 7], [0, 0, 30, 30]]
    assert [annotation["area"] for annotation in annotations] == [9, 49, 900]
    assert {annotation["category_id"] for annotation in annotations} == {coco["categories"][0]["id"]}
    assert annotations[2]["stability_score"] == 0.75
    assert rle.parse(annotations[1]["segmentation"]).box == (5, 6, 12, 13)
    assert list(path.parent.iterdir()) == [path]


def test_categories_may_come_up_on_the_way_and_masks_be_written_as_polygons(tmp_path):
    path, categories = tmp_path / "masks.json", [{"id": 1, "name": "Cat"}]
    with CocoFile(path, "", categories) as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3), category_id=2, polygons=((1, 2, 4, 2, 4, 5, 1, 5),))])
        categories.append({"id": 2, "name": "Größe"})
    coco = json.loads(path.read_text(encoding="utf-8"))
    assert coco["categories"] == categories
    [row] = coco["annotations"]
    assert (row["category_id"], row["segmentation"]) == (2, [[1, 2, 4, 2, 4, 5, 1, 5]])
    assert (row["area"], row["bbox"]) == (9, [1, 2, 3, 3])


@pytest.mark.parametrize("error", [None, ValueError])
def test_what_is_discarded_leaves_an_older_file_as_it_was(tmp_path, error):
    path = tmp_path / "masks.json"
    path.write_text("older")
    with contextlib.suppress(ValueError), CocoFile(path, "") as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3))])
        file.discard()
        if error is not None:
            raise error
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_added_before_an_error_is_kept(tmp_path):
    path = tmp_path / "masks.json"
    with contextlib.suppress(KeyboardInterrupt), CocoFile(path, "") as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3))])
        raise KeyboardInterrupt
    coco = json.loads(path.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg"]
    assert len(coco["annotations"]) == 1


def test_a_picture_that_cannot_be_written_leaves_the_others_whole(tmp_path):
    """The operating system limits the size of files, as it would the space for them."""
    path, before = tmp_path / "masks.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    with CocoFile(path, "") as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3))])
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                file.add("large.jpg", (30, 40), [Annotation(square(1, 2, 3), more={"x": "y" * 900}) for _ in range(20)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.add("b.jpg", (30, 40), [Annotation(square(1, 2, 3))])
    coco = json.loads(path.read_text())
    assert [(image["id"], image["file_name"]) for image in coco["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [(annotation["id"], annotation["image_id"]) for annotation in coco["annotations"]] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_of_a_picture_whose_masks_end_with_an_error_nothing_is_kept(tmp_path, error):
    def masks():
        yield Annotation(square(1, 2, 3))
        raise error

    path = tmp_path / "masks.json"
    with contextlib.suppress(error), CocoFile(path, "") as file:
        file.add("a.jpg", (30, 40), [Annotation(square(1, 2, 3))])
        file.add("half.jpg", (30, 40), masks())
    coco = json.loads(path.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg"]
    assert len(coco["annotations"]) == 1


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_an_older_file_stays_where_nothing_was_added(tmp_path, error):
    path = tmp_path / "masks.json"
    path.write_text("older")
    with contextlib.suppress(KeyboardInterrupt), CocoFile(path, ""):
        if error:
            raise error
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "masks.json"
    path.write_text("older")
    with CocoFile(path, "") as file:
        file.add("a.jpg", (30, 40), [])
        assert path.read_text() == "older"
    assert json.loads(path.read_text())["annotations"] == []


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(OSError, match="expected a file, got a directory"), CocoFile(tmp_path, ""):
        pass
