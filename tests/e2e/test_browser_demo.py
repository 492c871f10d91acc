"""The demo as a newcomer meets it: one command, one click, a mask; and what they find when they come back."""

import json

import pytest

from backend.demo.processes import is_free
from backend.demo.project import TITLE
from demo_training.scenes import Scene, render_scene
from model.demo import SAMPLES
from tests.e2e.targets import is_complete
from tests.support.markdown import document
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]


def named(tasks: list[dict], name: str) -> int:
    """Return the task of the image that was uploaded under this name."""
    (task_id,) = [task["id"] for task in tasks if task["data"]["image"].endswith(f"-{name}")]
    return task_id


def plainest(samples: dict) -> tuple[str, Scene, int]:
    """Return the largest object of all samples that nothing covers: its sample, the scene, and which one it is."""
    candidates = []
    for name, sample in samples.items():
        scene = render_scene(sample["seed"], tuple(sample["size"]), sample["family"])
        for k, mask in enumerate(scene.masks):
            if is_complete(mask) and k not in scene.parents:
                candidates.append((mask.mean(), name, scene, k))
    return max(candidates, key=lambda candidate: candidate[0])[1:]


def test_a_newcomer_who_clicks_an_object_of_a_sample_sees_and_keeps_its_mask(studio, annotator, stored_masks):
    samples = json.loads((SAMPLES / "samples.json").read_text())
    name, scene, number = plainest(samples)
    task = named(studio.tasks(1), name)
    annotator.open_task(1, task, scene.image.shape[:2])
    annotator.choose("Object", 0, "key-point-tool")
    annotator.click(samples[name]["objects"][number]["click"])
    annotator.photograph("demo")
    annotator.accept()
    annotator.submit()
    (region,) = [region for region in studio.stored(task) if region["type"] == "brushlabels"]
    assert iou(stored_masks.of(region), scene.masks[number]) >= 0.8


def labels_of(regions: list[dict]) -> dict[str, set[str]]:
    """Return all labels of each mask, its own and those from a row of labels, by its id."""
    labels: dict[str, set[str]] = {}
    for region in regions:
        if region["type"] in ("brush", "brushlabels", "labels"):
            value = region["value"]
            labels.setdefault(region["id"], set()).update(value.get("brushlabels", ()), value.get("labels", ()))
    return labels


def test_a_newcomer_who_types_words_keeps_masks_with_the_label_that_is_chosen(studio, annotator, stored_masks):
    sample = json.loads((SAMPLES / "samples.json").read_text())["gears.jpg"]
    scene = render_scene(sample["seed"], tuple(sample["size"]), sample["family"])
    annotator.open_task(1, named(studio.tasks(1), "gears.jpg"), scene.image.shape[:2])
    expected: dict[str, set[str]] = {}
    for label, word in (("Object", "gear"), ("Part", "horseshoe")):
        if label not in annotator.chosen_labels:
            annotator.choose_label(label)
        regions = annotator.type_words(word)["data"]["result"]
        masks = [stored_masks.of(region) for region in regions if "rle" in region["value"]]
        objects = [mask for mask, outline in zip(scene.masks, scene.outlines, strict=True) if outline == word]
        assert max(iou(mask, whole) for mask in masks for whole in objects) >= 0.7
        annotator.accept()
        annotator.photograph(f"demo-words-{word}")
        expected |= {region["id"]: {label} for region in regions}
    assert labels_of(annotator.submit()) == expected


def test_words_keep_their_labels_where_the_chosen_one_is_clicked_again_before_they_are_accepted(studio, annotator):
    (block,) = [block for block in document("docs/labeling-configs.md").blocks if "segment_words" in block.text]
    project = studio.project(block.text.replace("walking man, pedestrian", "gear, horseshoe"))
    for chosen, expected in ((set(), "Fußgänger"), ({"Cat"}, "Cat")):
        task = studio.task(project, f"{expected}.jpg", (SAMPLES / "gears.jpg").read_bytes())
        annotator.open_task(project, task, (800, 800))
        if not chosen:
            annotator.choose_label("Cat")
        assert set(annotator.chosen_labels) == chosen
        masks = labels_of(annotator.type_words("fußgänger")["data"]["result"])
        assert len(masks) >= 2
        assert masks == {key: {"Fußgänger"} for key in masks}
        annotator.accept()
        annotator.photograph(f"words-labelled-{expected}")
        assert labels_of(annotator.submit()) == {key: {expected} for key in masks}


def test_a_newcomer_who_stops_the_demo_and_starts_it_again_finds_what_was_labelled(studio, annotator):
    before = studio.tasks(1)
    login = studio.username, studio.password
    assert studio.stop() == 0
    assert all(is_free(int(url.rpartition(":")[2])) for url in (studio.url, studio.backend_url))
    studio.start()
    assert (studio.username, studio.password) == login
    assert [task["id"] for task in studio.tasks(1)] == [task["id"] for task in before]
    assert [task["total_annotations"] for task in studio.tasks(1)] == [task["total_annotations"] for task in before]
    titles = [project["title"] for project in studio.api.get("/api/projects/").json()["results"]]
    assert titles.count(TITLE) == 1
