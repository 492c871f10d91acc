"""Values that `backend.label_studio.client` returns and sends: projects, tasks and predictions."""

from dataclasses import dataclass
from typing import Any

import msgspec

from backend.types import Task


class Project(msgspec.Struct, frozen=True, rename={"asks_for_predictions": "evaluate_predictions_automatically"}):
    """A Label Studio project; ``asks_for_predictions``: Label Studio asks this backend about every task it lists."""

    id: int
    title: str = ""
    label_config: str = ""
    asks_for_predictions: bool = False


class Connection(msgspec.Struct, frozen=True):
    """A model that is connected to a project."""

    url: str = ""  # as Label Studio calls it
    readable_state: str = ""  # "Connected" if Label Studio has just reached it
    error_message: str | None = None
    is_interactive: bool = False  # whether Label Studio calls it on clicks

    @property
    def state(self) -> str:
        """Its state, and the first line of its error."""
        lines = (self.error_message or "").strip().splitlines()
        return ": ".join([self.readable_state, *lines[:1]])


class ListedTask(msgspec.Struct, frozen=True):
    """A task as the Data Manager lists it; ``is_labeled`` says whether it has all annotations that it needs."""

    id: int
    data: Any = None  # Any: a task's data may be any JSON value
    is_labeled: bool = False

    @property
    def task(self) -> Task:
        """The task, without annotations and predictions."""
        return Task(self.id, self.data)


class TaskPage(msgspec.Struct, frozen=True):
    """One page of tasks, and the total number of tasks."""

    tasks: tuple[ListedTask, ...]
    total: int = 0


class View(msgspec.Struct, frozen=True, rename={"project_id": "project"}):
    """A tab of the Data Manager of a project."""

    project_id: int
    data: dict[str, msgspec.Raw] | None = None

    @property
    def filters(self) -> msgspec.Raw:
        """Its filters as Label Studio writes them; ``null`` where it has none."""
        return (self.data or {}).get("filters", msgspec.Raw(b"null"))


class NewPrediction(msgspec.Struct, frozen=True, rename={"task_id": "task"}):
    """A prediction to be stored: the JSON list of its regions, its score in [0, 1], the version as in /setup."""

    task_id: int
    result: msgspec.Raw
    score: float
    model_version: str


class StoredPrediction(msgspec.Struct, frozen=True):
    """A prediction stored in Label Studio; ``result`` is unread JSON."""

    id: int
    model_version: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def is_empty(self) -> bool:
        """Whether it has no regions."""
        return not bytes(self.result).strip(b"[] \r\n\t") or bytes(self.result) == b"null"


@dataclass(frozen=True)
class TaskPredictions:
    """The predictions of a task: as Label Studio writes them, and the same with id and version parsed."""

    raw: msgspec.Raw
    stored: tuple[StoredPrediction, ...]
