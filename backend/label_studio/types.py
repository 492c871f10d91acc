"""Values that `backend.label_studio.client` returns and sends: projects, tasks and predictions."""

from dataclasses import dataclass

import msgspec

from backend.types import Task


class Project(msgspec.Struct, frozen=True, rename={"asks_for_predictions": "evaluate_predictions_automatically"}):
    """A Label Studio project.

    Attributes:
        id: its id.
        title: its title.
        label_config: its labeling config's XML.
        asks_for_predictions: whether Label Studio asks this backend about every task that it lists.
    """

    id: int
    title: str = ""
    label_config: str = ""
    asks_for_predictions: bool = False


class Connection(msgspec.Struct, frozen=True):
    """A model that is connected to a project.

    Attributes:
        url: its address as Label Studio calls it.
        readable_state: whether Label Studio has just reached it, in its words.
        error_message: why not.
        is_interactive: whether Label Studio calls it on clicks.
    """

    url: str = ""
    readable_state: str = ""
    error_message: str | None = None
    is_interactive: bool = False

    @property
    def is_connected(self) -> bool:
        """Whether Label Studio has just reached it."""
        return self.readable_state == "Connected"

    @property
    def state(self) -> str:
        """Its state, and the first line of its error."""
        lines = (self.error_message or "").strip().splitlines()
        return ": ".join([self.readable_state, *lines[:1]])


@dataclass(frozen=True)
class ListedTask:
    """A task as the Data Manager lists it; ``is_labeled`` says whether it has all annotations that it needs."""

    task: Task
    is_labeled: bool


@dataclass(frozen=True)
class TaskPage:
    """One page of tasks, and the total number of tasks."""

    tasks: tuple[ListedTask, ...]
    total: int


class ViewData(msgspec.Struct, frozen=True):
    """What a tab of the Data Manager shows; ``filters`` is unread JSON, ``null`` where it has none."""

    filters: msgspec.Raw = msgspec.Raw(b"null")


class View(msgspec.Struct, frozen=True, rename={"project_id": "project"}):
    """A tab of the Data Manager of a project."""

    project_id: int
    data: ViewData | None = None

    @property
    def filters(self) -> msgspec.Raw:
        """Its filters as Label Studio writes them; ``null`` where it has none."""
        return (self.data or ViewData()).filters


class NewPrediction(msgspec.Struct, frozen=True, rename={"task_id": "task"}):
    """A prediction to be stored.

    Attributes:
        task_id: the id of its task.
        result: the list of regions as JSON.
        score: in [0, 1].
        model_version: as in the answer to /setup.
    """

    task_id: int
    result: msgspec.Raw
    score: float
    model_version: str


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction stored in Label Studio; ``result`` is unread JSON."""

    id: int
    model_version: str
    result: msgspec.Raw

    @property
    def is_empty(self) -> bool:
        """Whether it has no regions."""
        return not bytes(self.result).strip(b"[] \r\n\t") or bytes(self.result) == b"null"


@dataclass(frozen=True)
class TaskPredictions:
    """The predictions of a task.

    Attributes:
        raw: as Label Studio writes them, a list of unread JSON.
        stored: the same predictions with id and version parsed.
    """

    raw: msgspec.Raw
    stored: tuple[StoredPrediction, ...]
