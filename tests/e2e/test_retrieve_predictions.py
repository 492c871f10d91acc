"""Label Studio's own button, "Retrieve predictions", and the opening of a task, in a real Label Studio."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.annotator import SETTLE_MS
from tests.e2e.label_studio_server import Studio
from tests.e2e.targets import Target, easy_pair
from tests.support.processes import serving
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

SIZE = (480, 640)
GOOD = 0.85
SOON_S = 120.0
LABELS = '<Label value="Object" background="#d4380d"/><Label value="Part" background="#1d39c4"/>'
CONFIG = (
    f'<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image" smart="false">{LABELS}'
    f'</BrushLabels><RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels></View>'
)


class Tasks:
    """A project of a few tasks that show one picture each, all the same but for their names."""

    def __init__(self, studio: Studio, count: int, backend_url: str | None = None) -> None:
        self._studio, self.targets = studio, easy_pair(SIZE)
        self.project = studio.project(CONFIG, backend=backend_url is None)
        if backend_url is not None:
            body = {"project": self.project, "title": "SAM", "url": backend_url, "is_interactive": True}
            self.ask("POST", "/api/ml", json=body)
        data = self.targets[0].data
        # Bytes after the picture's end change nothing about it and make another content of each.
        self.tasks = [studio.task(self.project, f"{n}.png", data + bytes([n])) for n in range(count)]

    def ask(self, method: str, path: str, **request: object) -> object:
        answer = self._studio.api.request(method, path, **request)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def open(self, task: int) -> dict:
        """What the editor asks for when an annotator opens a task."""
        return self.ask("GET", f"/api/tasks/{task}/")

    def mark(self, task: int, *more: dict) -> None:
        """Submit an annotation with a box around each object."""
        boxes = [box(target, label) for target, label in zip(self.targets, ("Object", "Part"), strict=True)]
        self.ask("POST", f"/api/tasks/{task}/annotations/", json={"result": [*boxes, *more]})

    def retrieve(self, *tasks: int) -> None:
        """Press the button with these tasks selected."""
        path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={self.project}"
        self.ask("POST", path, json={"selectedItems": {"all": False, "included": list(tasks)}})

    def predictions(self, task: int) -> list[dict]:
        return self.ask("GET", "/api/predictions/", params={"task": task})

    def counts(self) -> list[int]:
        return [len(self.predictions(task)) for task in self.tasks]


def box(target: Target, label: str) -> dict:
    left, top, right, bottom = target.box
    value = {"x": 100 * left / SIZE[1], "y": 100 * top / SIZE[0], "rotation": 0, "rectanglelabels": [label]}
    value |= {"width": 100 * (right - left) / SIZE[1], "height": 100 * (bottom - top) / SIZE[0]}
    return {
        "id": f"box-{label}", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value,
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0,
    }  # fmt: skip


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.2)


def check_masks(tasks: Tasks, task: int, stored_masks) -> None:
    """The only prediction of a task shows both objects, with their labels."""
    [prediction] = tasks.predictions(task)
    masks = {region["value"]["brushlabels"][0]: stored_masks.of(region) for region in prediction["result"]}
    assert masks.keys() == {"Object", "Part"}
    for target, label in zip(tasks.targets, ("Object", "Part"), strict=True):
        assert iou(masks[label], target.mask) >= GOOD


def test_tasks_that_were_opened_first_and_marked_later_get_masks_by_the_button_once(studio, stored_masks):
    tasks = Tasks(studio, 3)
    first, second, bare = tasks.tasks
    for task in tasks.tasks:
        assert tasks.open(task)["predictions"] == [], "an empty prediction would keep the button from asking again"
    for task in (first, second):
        tasks.mark(task)
        assert tasks.open(task)["predictions"] == [], "opening a task makes no predictions of what people drew"
    tasks.retrieve(*tasks.tasks)
    eventually(lambda: tasks.counts() == [1, 1, 0])
    for task in (first, second):
        check_masks(tasks, task, stored_masks)
    tasks.retrieve(*tasks.tasks)
    tasks.open(first)
    assert tasks.counts() == [1, 1, 0]
    tasks.mark(bare)
    tasks.retrieve(*tasks.tasks)
    eventually(lambda: tasks.counts() == [1, 1, 1])
    check_masks(tasks, bare, stored_masks)


def test_what_is_not_ready_in_time_is_stored_through_the_api_once(studio: Studio, stored_masks, tmp_path: Path):
    token = json.loads((studio.folder / "login.json").read_text())["token"]
    settings = {
        "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": token, "PADDLE_SAM_RETRIEVE_BUDGET_S": "0.001",
        "PADDLE_SAM_PREFETCH_TASKS": "0", "PADDLE_SAM_DISK_CACHE_MB": "0",
    }  # fmt: skip
    with serving(tmp_path, **settings) as server:
        tasks = Tasks(studio, 6, f"http://127.0.0.1:{server.port}")
        for task in tasks.tasks:
            tasks.mark(task)
        tasks.retrieve(*tasks.tasks)
        tasks.retrieve(*tasks.tasks)  # impatient
        eventually(
            lambda: min(tasks.counts()) >= 1 and "paddle_sam_pushes_waiting 0.0" in server.ask("/metrics")[1].decode()
        )
        assert tasks.counts() == [1] * 6
        assert "event=deferred_stored" in server.log
        for task in tasks.tasks:
            check_masks(tasks, task, stored_masks)


def test_the_masks_are_seen_in_the_editor(studio, annotator, stored_masks):
    tasks = Tasks(studio, 2)
    for task in tasks.tasks:
        tasks.mark(task)
    tasks.retrieve(*tasks.tasks)
    eventually(lambda: tasks.counts() == [1, 1])
    annotator.open_task(tasks.project, tasks.tasks[0], SIZE)
    tabs = annotator.page.locator(".lsf-annotation-button")
    assert tabs.count() == 2, "the annotation and the prediction"
    [prediction] = tasks.predictions(tasks.tasks[0])
    tabs.filter(has_text=prediction["model_version"]).click()
    annotator.page.wait_for_timeout(SETTLE_MS)
    annotator.photograph("retrieved-predictions")
    for label in ("Object", "Part"):
        assert annotator.page.locator(".lsf-outliner-item").filter(has_text=label).count() == 1
