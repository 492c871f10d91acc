"""Values that `backend.label_studio.client` returns and sends: projects, tasks and predictions."""

from dataclasses import dataclass

import msgspec

from backend.types import Task


@dataclass(frozen=True)
class Project:
    """A Label Studio project.

    Attributes:
        id: its id.
        title: its title.
        label_config: its labeling config's XML.
        asks_for_predictions: whether Label Studio asks this backend about every task that it lists.
    """

    id: int
    title: str
    label_config: str
    asks_for_predictions: bool = False


@dataclass(frozen=True)
class Connection:
    """A model that is connected to a project.

    Attributes:
        url: its address as Label Studio calls it.
        is_connected: whether Label Studio has just reached it.
        is_interactive: whether Label Studio calls it on clicks.
        state: the connection's state in Label Studio's words.
    """

    url: str
    is_connected: bool
    is_interactive: bool
    state: str


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


@dataclass(frozen=True)
class View:
    """A tab of the Data Manager.

    Attributes:
        project_id: the id of its project.
        filters: its filters as Label Studio writes them, unread JSON; ``null`` where it has none.
    """

    project_id: int
    filters: msgspec.Raw


@dataclass(frozen=True)
class NewPrediction:
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
