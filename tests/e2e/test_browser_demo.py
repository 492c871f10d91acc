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


def labels_of(stored: list[dict]) -> dict[str, set[str]]:
    """Return all labels of each mask, its own and those from a row of labels, by its id."""
    labels: dict[str, set[str]] = {}
    for region in stored:
        if region["type"] in ("brush", "brushlabels", "labels"):
            value = region["value"]
            labels.setdefault(region["id"], set()).update(value.get("brushlabels", ()), value.get("labels", ()))
    return labels


def overlaps(stored_masks, suggested: list[dict], scene: Scene, outline: str) -> list[float]:
    """Return how well the best mask fits each object of an outline."""
    wanted = [mask for mask, name in zip(scene.masks, scene.outlines, strict=True) if name == outline]
    masks = [stored_masks.of(region) for region in suggested if "rle" in region["value"]]
    return [max(iou(found, mask) for found in masks) for mask in wanted]


def test_a_newcomer_who_types_words_keeps_masks_with_the_label_that_is_chosen(studio, annotator, stored_masks):
    sample = json.loads((SAMPLES / "samples.json").read_text())["gears.jpg"]
    scene = render_scene(sample["seed"], tuple(sample["size"]), sample["family"])
    annotator.open_task(1, named(studio.tasks(1), "gears.jpg"), scene.image.shape[:2])
    wanted: dict[str, set[str]] = {}
    for label, word in (("Object", "gear"), ("Part", "horseshoe")):
        if label not in annotator.chosen_labels:
            annotator.choose_label(label)
        suggested = annotator.type_words(word)["data"]["result"]
        assert max(overlaps(stored_masks, suggested, scene, word)) >= 0.8
        annotator.photograph(f"demo-words-{word}")
        annotator.accept()
        annotator.photograph(f"demo-words-{word}-accepted")
        wanted |= {region["id"]: {label} for region in suggested}
    assert labels_of(annotator.submit()) == wanted


def test_words_keep_their_labels_where_none_is_chosen(studio, annotator):
    (block,) = [block for block in document("docs/labeling-configs.md").blocks if "segment_words" in block.text]
    config = block.text.replace("walking man, pedestrian", "gear, horseshoe")
    project = studio.project(config)
    for chosen, wanted in ((None, "Fußgänger"), ("Cat", "Cat")):
        task = studio.task(project, f"{chosen}.jpg", (SAMPLES / "gears.jpg").read_bytes())
        annotator.open_task(project, task, (800, 800))
        if chosen is not None:
            annotator.choose_label(chosen)
        suggested = annotator.type_words("fußgänger")["data"]["result"]
        assert {label for labels in labels_of(suggested).values() for label in labels} == {"Fußgänger"}
        annotator.accept()
        annotator.photograph(f"words-with-{chosen}-chosen")
        stored = labels_of(annotator.submit())
        assert len(stored) >= 4
        assert all(labels == {wanted} for labels in stored.values()), stored


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
