"""What a mask of a whole task means: with the demo model, what people or another model drew gives the objects there.

The pictures are those of `tests.support.meaning`; the whole service answers, as to "Retrieve predictions".
"""

import itertools
import json
from dataclasses import astuple

import msgspec
import pytest

from backend.labeling import coco_prompts, task_prompts
from backend.labeling import config as labeling_config
from backend.labeling.task_prompts import PromptSource
from backend.types import Task
from tests.support.meaning import (
    BLOCK,
    DISC,
    GOOD,
    click_on,
    config,
    edges,
    ellipse_around,
    masks,
    picture,
    polygon_around,
    rectangle_around,
    reversed_rectangle,
    slanted_rectangle,
    turned_rectangle,
)
from tests.support.scenes import iou
from tests.support.wire_bodies import encoded, saved, task_with
from tests.support.wire_reader import checked, mask_of

SIZE = (480, 640)
NAMES = ("Disc", "Block")
PROJECTS = itertools.count(1)  # one each: a task of a project is not answered twice in a moment


def drawn(prompt, size):
    """Both objects marked by the same kind of prompt, each with its label, as the editor saves them."""
    masks_drawn = []
    for mask, name in zip(masks(size), NAMES, strict=True):
        for entry in prompt(mask, size):
            entry.pop("is_positive", None)  # as an ordinary tool draws it
            kind = entry["type"]
            masks_drawn.append(entry | {"id": f"{kind}-{name}", "value": entry["value"] | {kind: [name]}})
    return masks_drawn


def retrieve(service, *tasks, output="BrushLabels"):
    body = {
        "tasks": list(tasks), "project": f"{next(PROJECTS)}.1", "label_config": config(output),
        "params": {"login": None, "password": None, "context": None},
    }  # fmt: skip
    response = service.app.test_client().post("/predict", data=encoded(body))
    return checked(body, response, service.segmenter.model_version)


def objects(item):
    """The masks of an item by their label; an object in several parts is one mask."""
    masks_by_label = {}
    for entry in item["result"]:
        [name] = entry["value"][entry["type"]]
        masks_by_label[name] = masks_by_label[name] | mask_of(entry) if name in masks_by_label else mask_of(entry)
    return masks_by_label


@pytest.mark.parametrize("prompt", [
    rectangle_around, reversed_rectangle, turned_rectangle, slanted_rectangle, ellipse_around, polygon_around, click_on,
], ids=lambda prompt: prompt.__name__)  # fmt: skip
@pytest.mark.parametrize("size", [SIZE, (640, 480), (200, 600)], ids=str)
def test_what_an_annotation_marks_becomes_the_objects_with_their_labels(service, prompt, size):
    annotated = task_with([saved(*drawn(prompt, size))], task_id=1, data={"image": picture(size)})
    bare = task_with(task_id=2, data={"image": picture(size)})
    item, nothing = retrieve(service, annotated, bare)
    assert nothing == []
    masks_by_label = objects(item)
    assert masks_by_label.keys() == set(NAMES)
    for name, wanted in zip(NAMES, masks(size), strict=True):
        assert iou(masks_by_label[name], wanted) >= GOOD, name


def test_boxes_that_another_model_predicted_become_the_objects(service):
    detected = saved(*drawn(rectangle_around, SIZE), model_version="detector@1")
    tasks = [task_with([], [detected], number, {"image": picture(SIZE)}) for number in (1, 2)]
    for item in retrieve(service, *tasks):
        assert all(iou(objects(item)[name], wanted) >= GOOD for name, wanted in zip(NAMES, masks(SIZE), strict=True))


def test_boxes_drawn_on_a_turned_photo_become_the_objects_as_the_browser_shows_them(service):
    tasks = [
        task_with([saved(*drawn(rectangle_around, SIZE))], [], number, {"image": picture(SIZE, "JPEG", orientation)})
        for number, orientation in enumerate((6, 3), start=1)
    ]
    for item in retrieve(service, *tasks):
        for name, wanted in zip(NAMES, masks(SIZE), strict=True):
            assert iou(objects(item)[name], wanted) >= GOOD


@pytest.mark.parametrize("output", ["BitmaskLabels", "PolygonLabels", "VectorLabels"])
def test_masks_of_tasks_are_drawn_as_the_labeling_config_asks(service, output):
    tasks = [
        task_with([saved(*drawn(rectangle_around, SIZE))], [], number, {"image": picture(SIZE)}) for number in (1, 2)
    ]
    for item in retrieve(service, *tasks, output=output):
        assert {entry["type"] for entry in item["result"]} == {output.lower()}
        for name, wanted in zip(NAMES, masks(SIZE), strict=True):
            assert iou(objects(item)[name], wanted) >= GOOD


def test_the_boxes_of_a_coco_file_lie_where_the_objects_are(service, tmp_path):
    """The same prompts as those of an annotation, for which the tests above show what they give."""
    path = tmp_path / "boxes.json"
    boxes = [edges(masks(SIZE)[number]) for number in (DISC, BLOCK)]
    path.write_text(json.dumps({
        "images": [{"id": 1, "file_name": "scene.png", "width": SIZE[1], "height": SIZE[0]}],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "BLOCK"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": n, "bbox": [left, top, right - left, bottom - top]}
            for n, (left, top, right, bottom) in enumerate(boxes, start=1)
        ],
    }))  # fmt: skip
    task = Task(1, {"image": "/data/upload/1/0123abcd-scene.png"})
    prompts_of_file = coco_prompts.read(path).prompts(task, labeling_config.parse(config()))
    raw = msgspec.json.encode([saved(*drawn(rectangle_around, SIZE))])
    annotated = task_prompts.read(Task(1, {}, annotations=msgspec.Raw(raw)), (PromptSource.BOXES,), "demo@1")
    assert len(prompts_of_file.regions) == 2
    for first, second in zip(prompts_of_file.regions, annotated.regions, strict=True):
        assert astuple(first.shape) == pytest.approx(astuple(second.shape))
        assert (first.labels, first.original_size) == (second.labels, second.original_size)
