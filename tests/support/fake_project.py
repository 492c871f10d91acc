"""A project of Label Studio as the batch commands see it, in memory, with whatever may go wrong.

Filters and predictions behave as Label Studio 1.23.2 was seen to behave; `tests.e2e.test_projects` asks the real one.
"""

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec

from backend.errors import Reason, RetryLater
from backend.label_studio.http import RefusedError
from backend.label_studio.types import ListedTask, Project, StoredPrediction, TaskPage, TaskPredictions

PROJECT = 7


@dataclass
class FakeTask:
    id: int
    data: object
    is_labeled: bool = False
    annotations: list = field(default_factory=list)


@dataclass
class FakePrediction:
    """A stored prediction; ``raw`` is parsed by `result` alone, so that benchmarks do not time it."""

    id: int
    task: int
    model_version: str
    raw: bytes

    @property
    def result(self):
        return json.loads(self.raw)


def away(text="Label Studio cannot be reached", retry_after_s=None):
    return RetryLater(text, Reason.LABEL_STUDIO_UNREACHABLE, retry_after_s)


class FakeProject:
    """Answers like `backend.label_studio.client.LabelStudio`.

    Attributes:
        tasks: by id.
        stored: predictions by id.
        calls: the names of the calls, in order.
        failures: by the name of a call, what its next ones raise; None lets one through.
        before: by the name of a call, a function that is called first; to slip something in between.
        after: likewise, called when the call has had its effect; what it raises is the lost answer.
        longest_page: as `TASK_API_PAGE_SIZE_MAX` shortens pages.
        invalid: tasks whose predictions are not taken.
    """

    def __init__(self, label_config="<View/>", count=0):
        self.project_value = Project(PROJECT, "A project", label_config)
        self.tasks, self.stored, self.calls = {}, {}, []
        self.failures = defaultdict(list)
        self.before, self.after = {}, {}
        self.longest_page, self.invalid = 1000, set()
        self._lock, self._next = threading.RLock(), 1
        for number in range(count):
            self.add({"image": f"/data/upload/{PROJECT}/{number}.png"})

    def configure(self, label_config):
        """Change the project's labeling config."""
        self.project_value = msgspec.structs.replace(self.project_value, label_config=label_config)

    def add(self, data, is_labeled=False, annotations=()):
        with self._lock:
            task = FakeTask(max(self.tasks, default=0) + 1, data, is_labeled, list(annotations))
            self.tasks[task.id] = task
            return task.id

    def delete(self, task_id):
        with self._lock:
            del self.tasks[task_id]
            self.stored = {
                prediction.id: prediction for prediction in self.stored.values() if prediction.task != task_id
            }

    def store(self, task_id, model_version, result):
        with self._lock:
            raw = bytes(result) if isinstance(result, msgspec.Raw) else json.dumps(result).encode()
            prediction = FakePrediction(self._next, task_id, model_version, raw)
            self.stored[prediction.id] = prediction
            self._next += 1
            return prediction.id

    def of(self, task_id, model_version=None):
        with self._lock:
            return [
                prediction
                for prediction in self.stored.values()
                if prediction.task == task_id and model_version in (None, prediction.model_version)
            ]

    def version(self):
        with self._call("version"):
            return "1.23.2"

    def project(self, project_id):
        with self._call("project"):
            if project_id != PROJECT:
                raise RefusedError("Label Studio answers 404", 404)
            return self.project_value

    def task_page(self, project_id, query, count, *, asks_for_predictions=False):
        with self._call("task_page"):
            conditions = json.loads(query)
            tasks = [task for task in self.tasks.values() if self._passes(task, conditions)]
            assert conditions["ordering"] == ["-tasks:id"]
            tasks.sort(key=lambda task: -task.id)
            page = tasks[: min(count, self.longest_page)]
            return TaskPage(tuple(ListedTask(task.id, task.data, task.is_labeled) for task in page), len(tasks))

    def annotations(self, task_id):
        with self._call("annotations"):
            if task_id not in self.tasks:
                raise RefusedError("Label Studio answers 404", 404)
            return msgspec.Raw(json.dumps(self.tasks[task_id].annotations).encode())

    def predictions(self, task_id):
        with self._call("predictions"):
            if task_id not in self.tasks:
                raise RefusedError("Label Studio answers 404", 404)
            of_task = sorted(self.of(task_id), key=lambda prediction: prediction.id)
        raw = [
            {"id": prediction.id, "model_version": prediction.model_version, "result": msgspec.Raw(prediction.raw)}
            for prediction in of_task
        ]
        stored = tuple(
            StoredPrediction(prediction.id, prediction.model_version, msgspec.Raw(prediction.raw))
            for prediction in of_task
        )
        return TaskPredictions(msgspec.Raw(msgspec.json.encode(raw)), stored)

    def create_prediction(self, new):
        with self._call("create_prediction"):
            self._check(new)
            self.store(new.task_id, new.model_version, new.result)

    def import_predictions(self, project_id, new):
        with self._call("import_predictions"):
            for prediction in new:
                if prediction.task_id not in self.tasks:
                    raise RefusedError("Label Studio answers 400: invalid task", 400)
            accepted = [prediction for prediction in new if prediction.task_id not in self.invalid]
            for prediction in accepted:
                self.store(prediction.task_id, prediction.model_version, prediction.result)
            return len(accepted)

    def delete_prediction(self, prediction_id):
        with self._call("delete_prediction"):
            self.stored.pop(prediction_id, None)

    def count_predictions(self, project_id):
        with self._call("count_predictions"):
            counts = defaultdict(int)
            for prediction in self.stored.values():
                counts[prediction.model_version] += 1
            return dict(counts)

    def _check(self, new):
        if new.task_id not in self.tasks:
            raise RefusedError("Label Studio answers 400: no such task", 400)
        if new.task_id in self.invalid:
            raise RefusedError("Label Studio answers 400: invalid prediction", 400)

    def _passes(self, task, conditions):
        selected = conditions.get("selectedItems")
        if selected is not None and task.id not in selected["included"]:
            return False
        filters = conditions.get("filters") or {"conjunction": "and", "items": []}
        results = [self._holds(task, item) for item in filters["items"]]
        return all(results) if filters["conjunction"] == "and" else any(results)

    def _holds(self, task, condition):
        child = condition.get("child_filter")
        if child is not None and not self._holds(task, child):
            return False
        name, operator, value = (
            condition["filter"].removeprefix("filter:tasks:"),
            condition["operator"],
            condition["value"],
        )
        if name == "id":
            return {"less": task.id < value, "greater": task.id > value}[operator]
        if name == "predictions_model_versions" and operator == "contains":
            return any(part in prediction.model_version for prediction in self.of(task.id) for part in value)
        if name == "total_annotations" and operator == "greater":
            return sum(not annotation.get("was_cancelled") for annotation in task.annotations) > value
        if name == "completed_at" and operator == "empty":
            return task.is_labeled is not value
        raise AssertionError(f"not made for {condition}")

    def _call(self, name):
        return _Call(self, name)


class _Call:
    def __init__(self, project, name):
        self._project, self._name = project, name

    def __enter__(self):
        project, name = self._project, self._name
        if name in project.before:
            project.before[name]()
        project.calls.append(name)
        if project.failures[name]:
            failure = project.failures[name].pop(0)
            if failure is not None:
                raise failure
        project._lock.acquire()

    def __exit__(self, kind, error, trace):
        self._project._lock.release()
        if error is None and self._name in self._project.after:
            self._project.after[self._name]()


SIZE_WH = (80, 60)


def box(x=10.0, y=20.0, width=30.0, height=40.0, label="Cat", **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {
        "id": f"box-{x}-{y}", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
        "original_width": SIZE_WH[0], "original_height": SIZE_WH[1], "image_rotation": 0, "value": value,
    } | more  # fmt: skip
