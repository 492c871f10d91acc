"""Words become masks in a real Label Studio: labels find their objects, and open in the editor with their names."""

import signal
import time

import numpy as np
import pytest

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
    given = ("preannotate", "--project", str(project), "--from", "labels", "--detector", str(detector))
    cache = tmp_path / "cache"
    with running(studio, cache, *given) as process:
        until = time.monotonic() + RUN_S
        while not sum(studio.counts(project).values()) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = sum(studio.counts(project).values())
    assert 0 < before < IMAGES
    code, said = run(studio, cache, *given)
    assert code == 0, said
    assert f"there already      {before}" in said
    found, right = [], 0
    for name, (_, masks) in pictures.items():
        [prediction] = studio.predictions(tasks[name])
        labelled = {region["value"]["brushlabels"][0]: region for region in prediction["result"]}
        right += labelled.keys() == {NAMES[colour] for colour in masks}
        assert all(region["score"] == 0.75 for region in prediction["result"])
        found += [iou(stored_masks.of(labelled[NAMES[colour]]), mask) for colour, mask in masks.items()]
    print(f"labels right on {right} of {IMAGES} pictures, mean IoU of {len(found)} objects {np.mean(found):.3f}")
    assert right == IMAGES
    assert np.mean(found) >= 0.85

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
