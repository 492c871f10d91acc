"""Words become masks in a real Label Studio: labels find their objects, and open in the editor with their names."""

import re
import signal
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from backend.demo.processes import free_port
from tests.e2e.annotator import SETTLE_MS
from tests.e2e.commands import RUN_S, run, running
from tests.support import detector_directories as directories
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

IMAGES = 40
LABELS = (
    '<Label value="Rot" prompt="red disc"/><Label value="Grün" alias="green"/><Label value="Blau" prompt="Blue disc"/>'
)
CONFIG = (
    f'<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image" smart="false">{LABELS}'
    "</BrushLabels></View>"
)
NAMES = {"red": "Rot", "green": "green", "blue": "Blau"}  # as Label Studio stores them


def test_labels_find_their_objects_once_each_though_a_run_is_killed(studio, annotator, stored_masks, tmp_path):
    detector = directories.write_colour_finder(tmp_path / "colours", ["red disc", "green", "blue disc"])
    project = studio.project(CONFIG, backend=False)
    pictures = {f"{number:02}.png": directories.coloured_discs(number) for number in range(IMAGES)}
    tasks = studio.upload(project, {name: directories.png(image) for name, (image, _) in pictures.items()})
    arguments = ("preannotate", "--project", str(project), "--from", "labels", "--detector", str(detector))
    cache = tmp_path / "cache"
    with running(studio, cache, *arguments) as process:
        until = time.monotonic() + RUN_S
        while not sum(studio.counts(project).values()) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = sum(studio.counts(project).values())
    assert 0 < before < IMAGES
    code, output = run(studio, cache, *arguments)
    assert code == 0, output
    assert f"there already      {before}" in output
    ious, right = [], 0
    for name, (_, masks) in pictures.items():
        [prediction] = studio.predictions(tasks[name])
        labelled = {region["value"]["brushlabels"][0]: region for region in prediction["result"]}
        right += labelled.keys() == {NAMES[colour] for colour in masks}
        assert all(region["score"] == 0.75 for region in prediction["result"])
        ious += [iou(stored_masks.of(labelled[NAMES[colour]]), mask) for colour, mask in masks.items()]
    print(f"labels right on {right} of {IMAGES} pictures, mean IoU of {len(ious)} objects {np.mean(ious):.3f}")
    assert right == IMAGES
    assert np.mean(ious) >= 0.85

    first = tasks["01.png"]
    [version] = studio.counts(project)
    studio.patch(f"/api/projects/{project}/", {"model_version": version})
    annotator.page.goto(f"{annotator.url}/projects/{project}/data?task={first}")
    annotator.page.locator(".konvajs-content").first.wait_for()
    annotator.page.wait_for_timeout(2 * SETTLE_MS)
    annotator.photograph("words")
    annotator.submit()
    stored = {region["value"]["brushlabels"][0] for region in studio.stored(first)}
    assert stored == {NAMES[colour] for colour in pictures["01.png"][1]}


@contextmanager
def service(studio, folder, detector=""):
    """A service with a detector or without one, beside Label Studio; returns its address."""
    port = free_port(43000, "a test")
    url = f"http://127.0.0.1:{port}"
    arguments = ("serve", "--host", "127.0.0.1", "--port", str(port))
    with running(studio, folder, *arguments, PADDLE_SAM_DETECTOR=str(detector), PADDLE_SAM_DEVICE="cpu") as process:
        until = time.monotonic() + RUN_S
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            try:
                if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield url


def test_words_that_are_typed_into_a_task_become_labelled_masks(studio, annotator, stored_masks, tmp_path):
    detector = directories.write_colour_finder(tmp_path / "colours", ["red disc", "green", "blue disc"])
    field = '<TextArea name="segment_words" toName="image" editable="true"/></View>'
    with service(studio, tmp_path / "cache", detector) as url:
        project = studio.project(CONFIG.replace("</View>", field), backend=False)
        studio.post("/api/ml", {"project": project, "title": "Words", "url": url, "is_interactive": True})
        for number, words in ((1, " "), (3, "rot, GRÜN, blue disc"), (5, "*")):
            image, masks = directories.coloured_discs(number)
            task = studio.task(project, f"{number}.png", directories.png(image))
            annotator.open_task(project, task, image.shape[:2])
            suggested = annotator.type_words(words)["data"]["result"]
            assert len(suggested) == len(masks)
            annotator.photograph("words-suggested")
            annotator.accept()
            annotator.photograph("words-accepted")
            annotator.submit()
            stored = {region["type"]: [] for region in studio.stored(task)}
            for region in studio.stored(task):
                stored[region["type"]].append(region)
            assert [region["value"]["text"] for region in stored["textarea"]] == [[words]]
            masks_by_label = {
                region["value"]["brushlabels"][0]: stored_masks.of(region) for region in stored["brushlabels"]
            }
            assert len(stored["brushlabels"]) == len(masks)
            assert masks_by_label.keys() == {NAMES[colour] for colour in masks}
            assert all(iou(masks_by_label[NAMES[colour]], mask) > 0.85 for colour, mask in masks.items())


def test_words_without_a_detector_leave_the_task_as_it_was_and_a_reason(studio, annotator, tmp_path):
    image, _ = directories.coloured_discs(1)
    field = '<TextArea name="segment_words" toName="image" editable="true"/></View>'
    with service(studio, tmp_path / "cache") as url:
        project = studio.project(CONFIG.replace("</View>", field), backend=False)
        studio.post("/api/ml", {"project": project, "title": "Words", "url": url, "is_interactive": True})
        task = studio.task(project, "plain.png", directories.png(image))
        annotator.open_task(project, task, image.shape[:2])
        assert annotator.type_words("red disc")["data"]["result"] == []
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
        assert re.search(r'paddle_sam_reasons_total{reason="no_detector"} [1-9]', metrics)
        annotator.submit()
    assert [region["type"] for region in studio.stored(task)] == ["textarea"]
