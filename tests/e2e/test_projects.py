"""Whole projects in a real Label Studio: first clicks warm, one prediction each whatever is killed, masks that fit."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.annotator import SETTLE_MS, Annotator
from tests.e2e.commands import RUN_S, run, running
from tests.e2e.label_studio_server import Studio
from tests.e2e.targets import Target, easy_targets
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = (480, 648)  # no other test shows the same service a picture of this size
IMAGES = 40
GOOD = 0.85
OTHER = "detector@1"
BROKEN = "broken.png"
LABELS = '<Label value="Object" background="#d4380d"/><Label value="Part" background="#1d39c4"/>'
CONFIG = (
    f'<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image" smart="false">{LABELS}'
    f'</BrushLabels><RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels></View>'
)
FROM = ("--from", "boxes", "--from", "predictions")


def box(target: Target, number: int) -> dict:
    left, top, right, bottom = target.box
    value = {"x": 100 * left / SIZE[1], "y": 100 * top / SIZE[0], "rotation": 0, "rectanglelabels": ["Part"]}
    value |= {"width": 100 * (right - left) / SIZE[1], "height": 100 * (bottom - top) / SIZE[0]}
    return {
        "id": f"box{number}", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value,
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0,
    }  # fmt: skip


class Project:
    """A project with one picture per task and the boxes of its objects, on every third task as another model's."""

    def __init__(self, studio: Studio, pictures: Sequence[Sequence[Target]], has_broken: bool = False) -> None:
        self.studio, self.number = studio, studio.project(CONFIG, backend=False)
        files = {f"{index:02}.png": targets[0].data for index, targets in enumerate(pictures)}
        tasks = studio.upload(self.number, files | ({BROKEN: b"\x89PNG cut short"} if has_broken else {}))
        self.broken = tasks.get(BROKEN, 0)
        self.pictures: dict[int, Sequence[Target]] = {}
        for index, targets in enumerate(pictures):
            task = tasks[f"{index:02}.png"]
            self.pictures[task] = targets
            boxes = [box(target, number) for number, target in enumerate(targets)]
            if index % 3:
                studio.post(f"/api/tasks/{task}/annotations/", {"result": boxes})
            else:
                body = {"task": task, "result": boxes, "score": 0.5, "model_version": OTHER}
                studio.post("/api/predictions/", body)
        if self.broken:
            studio.post(f"/api/tasks/{self.broken}/annotations/", {"result": [box(pictures[0][0], 0)]})

    def predictions(self, task: int) -> list[dict]:
        """The predictions of this model."""
        return [prediction for prediction in self.studio.predictions(task) if prediction["model_version"] != OTHER]

    def stored(self) -> int:
        """How many predictions of this model there are."""
        counts = self.studio.counts(self.number)
        return sum(count for version, count in counts.items() if version != OTHER)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + RUN_S
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def project(studio: Studio) -> Project:
    return Project(studio, easy_targets(SIZE, IMAGES), has_broken=True)


def cache_of(studio: Studio) -> Path:
    """The cache folder of the service that runs beside this Label Studio."""
    return studio.folder / "embeddings"


def ask(url: str, body: bytes | None = None) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body), timeout=120) as answer:
        return answer.read()


def lookups(studio: Studio) -> dict[str, float]:
    """Where the service has found embeddings so far."""
    lines = ask(f"{studio.backend_url}/metrics").decode().splitlines()
    lookup_lines = [line for line in lines if line.startswith("paddle_sam_cache_lookups_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lookup_lines}


def click_on(project: Project, task: int, data: dict) -> list[dict]:
    """What a first click on a task's first object is answered, by the service itself."""
    x, y = project.pictures[task][0].centre
    value = {"x": 100 * x / SIZE[1], "y": 100 * y / SIZE[0], "width": 0.3, "keypointlabels": ["Object"]}
    prompt = {
        "id": "click", "type": "keypointlabels", "from_name": "point", "to_name": "image", "value": value,
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0, "is_positive": True,
    }  # fmt: skip
    body = {
        "tasks": [{"id": task, "data": data}],
        "project": f"{project.number}.1",
        "label_config": CONFIG,
        "params": {"context": {"result": [prompt]}},
    }
    [answer] = json.loads(ask(f"{project.studio.backend_url}/predict", json.dumps(body).encode()))["results"]
    return answer["result"]


def test_after_precompute_every_first_click_is_warm(studio, project):
    code, output = run(studio, cache_of(studio), "precompute", "--project", str(project.number))
    assert code == 1, output  # the broken image
    assert f"encoded  {IMAGES}" in output
    assert f"task {project.broken}: image_unreadable" in output
    data = {task["id"]: task["data"] for task in studio.tasks(project.number)}
    before = lookups(studio)
    for task in project.pictures:
        assert click_on(project, task, data[task])
    after = lookups(studio)
    assert after.get("miss", 0) == before.get("miss", 0)
    # More often where a click reads an image at the same time as the prefetch that the click before it began.
    assert after.get("disk", 0) - before.get("disk", 0) >= IMAGES
    again = run(studio, cache_of(studio), "precompute", "--project", str(project.number))[1]
    assert f"cached   {IMAGES}" in again


def test_a_killed_run_is_resumed_to_one_prediction_each_that_fits_its_object(studio, project, stored_masks):
    arguments = ("preannotate", "--project", str(project.number), *FROM)
    with running(studio, cache_of(studio), *arguments) as process:
        wait_for(lambda: project.stored() > 0 or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
    before = project.stored()
    assert 0 < before < IMAGES
    code, output = run(studio, cache_of(studio), *arguments)
    assert code == 1, output  # the broken image
    assert f"task {project.broken}: image_unreadable" in output
    assert f"there already      {before}" in output
    assert [len(project.predictions(task)) for task in project.pictures] == [1] * IMAGES
    assert project.predictions(project.broken) == []
    ious = []
    for task, targets in project.pictures.items():
        [prediction] = project.predictions(task)
        regions = prediction["result"]
        assert [region["value"]["brushlabels"] for region in regions] == [["Part"]] * len(targets)
        ious += [iou(stored_masks.of(region), target.mask) for region, target in zip(regions, targets, strict=True)]
    print(f"mean IoU of {len(ious)} objects: {np.mean(ious):.3f}, worst {np.min(ious):.3f}")
    assert np.mean(ious) >= GOOD


def test_the_predictions_open_in_the_editor_and_can_be_submitted(studio, project, annotator, stored_masks):
    task = next(task for index, task in enumerate(project.pictures) if index % 3 == 0)
    [version] = [version for version in studio.counts(project.number) if version != OTHER]
    studio.patch(f"/api/projects/{project.number}/", {"model_version": version})
    show(annotator, project.number, task)
    annotator.photograph("preannotated")
    annotator.submit()
    regions = [region for region in studio.stored(task) if region["type"] == "brushlabels"]
    targets = project.pictures[task]
    assert len(regions) == len(targets)
    assert all(
        iou(stored_masks.of(region), target.mask) >= GOOD for region, target in zip(regions, targets, strict=True)
    )


def show(annotator: Annotator, project: int, task: int) -> None:
    """Open a task as an annotator does who uses no smart tool."""
    annotator.page.goto(f"{annotator.url}/projects/{project}/data?task={task}")
    annotator.page.locator(".konvajs-content").first.wait_for()
    annotator.page.wait_for_timeout(2 * SETTLE_MS)


def test_a_run_goes_on_while_label_studio_is_restarted(studio, tmp_path):
    project = Project(studio, easy_targets(SIZE, 30))
    arguments = ("preannotate", "--project", str(project.number), *FROM)
    with running(studio, tmp_path / "cache", *arguments) as process:
        wait_for(lambda: project.stored() > 0 or process.poll() is not None)
        assert process.poll() is None
        studio.stop()
        studio.start()
        output = process.communicate(timeout=RUN_S)[0]
    assert process.returncode == 0, output
    assert [len(project.predictions(task)) for task in project.pictures] == [1] * 30


def test_tasks_that_are_deleted_while_a_run_processes_them_are_reported_as_such(studio, tmp_path):
    """Label Studio answers neither about nor for them, and each call in words of its own."""
    project = Project(studio, easy_targets(SIZE, 20))
    arguments = ("preannotate", "--project", str(project.number), *FROM)
    with running(studio, tmp_path / "cache", *arguments) as process:
        wait_for(lambda: project.stored() > 0 or process.poll() is not None)
        os.kill(process.pid, signal.SIGSTOP)
        left = [task for task in project.pictures if not project.predictions(task)]
        for task in left:
            studio.delete(f"/api/tasks/{task}/")
        os.kill(process.pid, signal.SIGCONT)
        output = process.communicate(timeout=RUN_S)[0]
    assert left
    assert process.returncode == 0, output
    [line] = [line for line in output.splitlines() if "deleted meanwhile" in line]
    assert int(line.split()[-1]) == len(left), output
    assert project.stored() == 20 - len(left)


def test_two_people_at_once_leave_one_prediction_of_each_task(studio, tmp_path):
    project = Project(studio, easy_targets(SIZE, 24))
    arguments = ("preannotate", "--project", str(project.number), *FROM)
    with (
        running(studio, tmp_path / "one", *arguments) as running_process,
        running(studio, tmp_path / "two", *arguments) as two,
    ):
        for process in (running_process, two):
            output = process.communicate(timeout=RUN_S)[0]
            assert process.returncode == 0, output
    assert [len(project.predictions(task)) for task in project.pictures] == [1] * 24


def answered(studio: Studio) -> float:
    """How many tasks the service has answered so far."""
    lines = ask(f"{studio.backend_url}/metrics").decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("paddle_sam_tasks_total{"))


def test_listing_a_project_that_predicts_by_itself_sets_nothing_off(studio, tmp_path):
    """Label Studio would ask the backend about every page of tasks, while the page waits."""
    number = studio.project(CONFIG)
    studio.patch(f"/api/projects/{number}/", {"evaluate_predictions_automatically": True})
    files = {f"{index:02}.png": targets[0].data for index, targets in enumerate(easy_targets(SIZE, 3))}
    studio.upload(number, files, review="true")
    before = answered(studio)
    code, output = run(studio, tmp_path / "cache", "precompute", "--project", str(number))
    assert code == 0, output
    assert "encoded  3" in output
    assert answered(studio) == before
    studio.tasks(number)  # as anybody else would list them
    assert answered(studio) == before + 3


def test_limits_and_views_mean_what_the_data_manager_shows(studio, tmp_path):
    project = Project(studio, easy_targets(SIZE, 6))
    ids = sorted(project.pictures)
    items = [
        {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": ids[0]},
        {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": ids[3]},
    ]
    body = {"project": project.number, "data": {"title": "Two", "filters": {"conjunction": "or", "items": items}}}
    view = studio.post("/api/dm/views/", body)["id"]
    wanted = {
        ("--view", str(view)): 2,
        ("--limit", "4"): 4,
    }
    counts = {}
    for options in wanted:
        code, output = run(studio, tmp_path / "cache", "precompute", "--project", str(project.number), *options)
        assert code == 0, output
        numbers = [
            int(line.split()[-1]) for line in output.splitlines() if line.split()[:1] in (["encoded"], ["cached"])
        ]
        counts[options] = sum(numbers)
    assert counts == wanted
