"""The client of Label Studio's API: projects, tasks, annotations and predictions.

It is a small client on httpx instead of label-studio-sdk, of which it would use a dozen calls. The SDK 2.1.2
takes 2 to 3 s and 116 MB of memory to import (httpx 0.4 s and 32 MB), brings 73 packages and pins OpenCV's minor
version; its download helper sends a personal access token unexchanged, which Label Studio refuses. Tests compare this
client with the SDK.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from backend.errors import AccessError
from backend.label_studio.http import LabelStudioHttp, RefusedError, Request, decoded
from backend.label_studio.tokens import TokenKind
from backend.label_studio.types import (
    Column,
    Connection,
    ListedTask,
    NewPrediction,
    Project,
    StoredPrediction,
    TaskPage,
    TaskPredictions,
    View,
)
from backend.types import Secret, Task

WRITE_TIMEOUT_S = 120.0
"""Label Studio checks and counts while it stores; a request that times out here is still stored."""

BAD_REQUEST = 400
CONNECTED = "Connected"


class _Project(msgspec.Struct):
    id: int
    title: str = ""
    label_config: str = ""
    evaluate_predictions_automatically: bool = False


class _Connection(msgspec.Struct):
    url: str = ""
    readable_state: str = ""
    error_message: str | None = None
    is_interactive: bool = False


class _Task(msgspec.Struct):
    id: int
    data: Any = None  # Any: a task's data may be any JSON value
    is_labeled: bool = False


class _TaskPage(msgspec.Struct):
    tasks: list[_Task]
    total: int = 0


class _Column(msgspec.Struct):
    id: str
    type: str = "Unknown"
    parent: str | None = None


class _Columns(msgspec.Struct):
    columns: list[_Column]


class _ViewData(msgspec.Struct):
    filters: msgspec.Raw = msgspec.Raw(b"null")


class _View(msgspec.Struct):
    project: int
    data: _ViewData | None = None


class _Version(msgspec.Struct):
    release: str = ""


class _User(msgspec.Struct):
    username: str = ""
    email: str = ""


class _NewPrediction(msgspec.Struct):
    task: int
    result: msgspec.Raw
    score: float
    model_version: str


class _Prediction(msgspec.Struct):
    id: int
    model_version: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Imported(msgspec.Struct):
    created: int


class LabelStudio:
    """Label Studio's API, as one user; safe from many threads.

    Every request may raise `AccessError` (the key is refused, or the address is wrong), `RequestError` (the object does
    not exist, or the request is refused) or `RetryLater` (Label Studio cannot be reached or is overloaded).

    >>> studio = LabelStudio("http://localhost:8080/", Secret("0123456789abcdef"))
    >>> studio
    LabelStudio('http://localhost:8080', legacy token)
    >>> studio.close()
    """

    def __init__(
        self,
        url: str,
        api_key: Secret | None = None,
        *,
        timeout_s: float = 10.0,
        attempts: int = 3,
        retry_wait_s: float = 0.2,
        keeps_connections: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a client; it connects with its first request.

        Args:
            url: Label Studio's address.
            api_key: a legacy or personal access token; None to send no token.
            timeout_s: for each step of a request (connect, send, each read).
            attempts: how often a request that may be repeated is tried.
            retry_wait_s: about how long to wait before the second try.
            keeps_connections: whether to reuse connections. A service calls rarely, and a connection that the server
                has meanwhile closed would fail a request that may not be repeated.
            clock: returns monotonic seconds.
        """
        self._http = LabelStudioHttp(
            url,
            api_key,
            timeout_s=timeout_s,
            attempts=attempts,
            retry_wait_s=retry_wait_s,
            keeps_connections=keeps_connections,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"LabelStudio({self.url!r}, {self.token_kind.value})"

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return self._http.url

    @property
    def token_kind(self) -> TokenKind:
        """The kind of the API key."""
        return self._http.token_kind

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def authorization(self, rejected: str | None = None, within_s: float | None = None) -> str | None:
        """Return the value of the ``Authorization`` header, None without an API key.

        Args:
            rejected: a header value that Label Studio has just answered with 401; a personal access token is then
                exchanged again.
            within_s: longest wait for the exchange, in seconds; None waits until it ends.

        Raises:
            AccessError: Label Studio refuses the personal access token.
            RetryLater: Label Studio cannot be reached, or takes longer; the exchange continues.
        """
        return self._http.authorization(rejected, within_s)

    def refusal(self, what: str, header: str | None) -> AccessError:
        """Return the error for a request that Label Studio refused, with advice for an operator."""
        return self._http.refusal(what, header)

    def version(self) -> str:
        """Return Label Studio's release, e.g. ``1.23.2``; needs no token."""
        return self._http.get("/api/version", _Version, anonymous=True).release

    def user(self) -> str:
        """Return the e-mail address or name of the API key's user."""
        user = self._http.get("/api/current-user/whoami", _User)
        return user.email or user.username

    def project(self, project_id: int) -> Project:
        """Return a project."""
        project = self._http.get(f"/api/projects/{project_id}/", _Project)
        return Project(project.id, project.title, project.label_config, project.evaluate_predictions_automatically)

    def connections(self, project_id: int) -> tuple[Connection, ...]:
        """Return the models connected to a project; Label Studio calls each of them before it answers."""
        models = self._http.get("/api/ml", list[_Connection], {"project": str(project_id)})
        return tuple(
            Connection(model.url, model.readable_state == CONNECTED, model.is_interactive, _state(model))
            for model in models
        )

    def next_tasks(self, project_id: int, after_task_id: int, count: int) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks that follow a task in order of id, as annotators get them."""
        items = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after_task_id},
            {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": True},
        ]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        page = self.task_page(project_id, json.dumps(query), count)
        return tuple(listed.task for listed in page.tasks[:count])

    def task_page(self, project_id: int, query: str, count: int, *, asks_for_predictions: bool = False) -> TaskPage:
        """Return the first tasks that a query of the Data Manager finds, without annotations and predictions.

        Args:
            project_id: the project.
            query: filters, selection and ordering as JSON, see `backend.label_studio.task_filters`.
            count: the largest number of tasks.
            asks_for_predictions: the project's setting; if it is on, the request keeps Label Studio from asking for
                predictions of the listed tasks.
        """
        params = {
            "project": str(project_id),
            "page": "1",
            "page_size": str(count),
            "resolve_uri": "false",
            "query": query,
        } | ({"review": "true"} if asks_for_predictions else {})
        page = self._http.get("/api/tasks", _TaskPage, params)
        tasks = tuple(ListedTask(Task(task.id, task.data), task.is_labeled) for task in page.tasks)
        return TaskPage(tasks, page.total)

    def columns(self, project_id: int) -> tuple[Column, ...]:
        """Return the columns by which tasks of a project can be filtered."""
        columns = self._http.get("/api/dm/columns", _Columns, {"project": str(project_id)}).columns
        return tuple(
            Column(f"{column.parent}.{column.id}" if column.parent else column.id, column.type) for column in columns
        )

    def view(self, view_id: int) -> View:
        """Return a tab of the Data Manager."""
        view = self._http.get(f"/api/dm/views/{view_id}/", _View)
        return View(view.project, (view.data or _ViewData()).filters)

    def annotations(self, task_id: int) -> msgspec.Raw:
        """Return a task's annotations, a list of unread JSON."""
        return self._http.get(f"/api/tasks/{task_id}/annotations/", msgspec.Raw)

    def predictions(self, task_id: int) -> TaskPredictions:
        """Return a task's predictions.

        Label Studio answers 400 for a deleted task, as for any invalid filter. The address of a task's annotations
        holds the task's id, and answers 404 for a deleted one, so that is requested to tell the two apart.

        Raises:
            RefusedError: the task does not exist (`RefusedError.is_gone`), or the request is refused.
        """
        try:
            raw = self._http.send(Request("GET", "/api/predictions/", {"task": str(task_id)}))
        except RefusedError as error:
            if error.status == BAD_REQUEST and (gone := self._gone(task_id)) is not None:
                raise RefusedError(f"{error}: there is no such task", gone.status) from error
            raise
        predictions = decoded(raw, list[_Prediction])
        stored = tuple(
            StoredPrediction(prediction.id, prediction.model_version or "", prediction.result)
            for prediction in predictions
        )
        return TaskPredictions(msgspec.Raw(raw), stored)

    def _gone(self, task_id: int) -> RefusedError | None:
        """Return Label Studio's refusal for a deleted task; None if the task exists."""
        try:
            self.annotations(task_id)
        except RefusedError as error:
            return error if error.is_gone else None
        return None

    def create_prediction(self, new: NewPrediction) -> None:
        """Store a prediction; sent once, since a repeated request could store two."""
        self._http.send(_write("/api/predictions/", msgspec.json.encode(_wire(new))))

    def import_predictions(self, project_id: int, new: Sequence[NewPrediction]) -> int:
        """Store predictions in one request, sent once; return how many Label Studio stored.

        It stores none if the task of one is deleted, and leaves out invalid ones.
        """
        body = msgspec.json.encode([_wire(prediction) for prediction in new])
        return decoded(
            self._http.send(_write(f"/api/projects/{project_id}/import/predictions", body)), _Imported
        ).created

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a prediction; one that is already deleted is no error."""
        try:
            self._http.send(Request("DELETE", f"/api/predictions/{prediction_id}/"))
        except RefusedError as error:
            if not error.is_gone:
                raise

    def count_predictions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions of each model version a project holds."""
        return self._http.get(f"/api/projects/{project_id}/model-versions/", dict[str, int])


def _state(model: _Connection) -> str:
    """Return the state of a model's connection, and the first line of its error."""
    lines = (model.error_message or "").strip().splitlines()
    return ": ".join([model.readable_state, *lines[:1]])


def _write(path: str, body: bytes) -> Request:
    return Request("POST", path, body=body, is_repeatable=False, timeout_s=WRITE_TIMEOUT_S)


def _wire(new: NewPrediction) -> _NewPrediction:
    return _NewPrediction(new.task_id, new.result, new.score, new.model_version)
