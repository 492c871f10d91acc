"""The client of Label Studio's API: projects, tasks, annotations and predictions.

It is a small client on httpx instead of label-studio-sdk, of which it would use a dozen calls. The SDK 2.1.2
takes 2 to 3 s and 116 MB of memory to import (httpx 0.4 s and 32 MB), brings 73 packages and pins OpenCV's minor
version; its download helper sends a personal access token unexchanged, which Label Studio refuses. Tests compare this
client with the SDK.
"""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from backend.label_studio import task_filters
from backend.label_studio.http import LabelStudioHttp, RefusedError, Request, decoded
from backend.label_studio.task_filters import OLDEST_FIRST, Selection
from backend.label_studio.types import (
    Connection,
    NewPrediction,
    Project,
    StoredPrediction,
    TaskPage,
    TaskPredictions,
    View,
)
from backend.types import Task

WRITE_TIMEOUT_S = 120.0  # Label Studio checks and counts while it stores; a request that times out here is still stored
BAD_REQUEST, GONE = 400, 404


class _Version(msgspec.Struct):
    release: str = ""


class _User(msgspec.Struct):
    username: str = ""
    email: str = ""


class _Imported(msgspec.Struct):
    created: int


class LabelStudio:
    """Label Studio's API, as the user of ``http``; safe from many threads.

    Every request may raise `AccessError` (the key is refused, or the address is wrong), `RequestError` (the object does
    not exist, or the request is refused) or `RetryLater` (Label Studio cannot be reached or is overloaded).

    >>> studio = LabelStudio(LabelStudioHttp("http://localhost:8080/", None))
    >>> studio.http
    LabelStudioHttp('http://localhost:8080', none)
    >>> studio.http.close()
    """

    def __init__(self, http: LabelStudioHttp) -> None:
        self.http = http

    def version(self) -> str:
        """Return Label Studio's release, e.g. ``1.23.2``; needs no token."""
        return self.http.get("/api/version", _Version, anonymous=True).release

    def user(self) -> str:
        """Return the e-mail address or name of the API key's user."""
        user = self.http.get("/api/current-user/whoami", _User)
        return user.email or user.username

    def project(self, project_id: int) -> Project:
        """Return a project."""
        return self.http.get(f"/api/projects/{project_id}/", Project)

    def connections(self, project_id: int) -> tuple[Connection, ...]:
        """Return the models connected to a project; Label Studio calls each of them before it answers."""
        return self.http.get("/api/ml", tuple[Connection, ...], {"project": str(project_id)})

    def next_tasks(self, project_id: int, after_task_id: int, count: int) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks that follow a task in order of id, as annotators get them."""
        selection = Selection((task_filters.above(after_task_id), task_filters.UNFINISHED))
        page = self.task_page(project_id, task_filters.dump(selection, order=OLDEST_FIRST), count)
        return tuple(listed.task for listed in page.tasks[:count])

    def task_page(self, project_id: int, query: str, count: int, *, asks_for_predictions: bool = False) -> TaskPage:
        """Return the first tasks that a query of the Data Manager finds, without annotations and predictions.

        ``query`` is the JSON of `backend.label_studio.task_filters`. ``asks_for_predictions`` is the project's setting:
        if it is on, the request keeps Label Studio from asking for predictions of the listed tasks.
        """
        params = {
            "project": str(project_id),
            "page": "1",
            "page_size": str(count),
            "resolve_uri": "false",
            "query": query,
        } | ({"review": "true"} if asks_for_predictions else {})
        return self.http.get("/api/tasks", TaskPage, params)

    def view(self, view_id: int) -> View:
        """Return a tab of the Data Manager."""
        return self.http.get(f"/api/dm/views/{view_id}/", View)

    def annotations(self, task_id: int) -> msgspec.Raw:
        """Return a task's annotations, a list of unread JSON."""
        return self.http.get(f"/api/tasks/{task_id}/annotations/", msgspec.Raw)

    def predictions(self, task_id: int) -> TaskPredictions:
        """Return a task's predictions; a deleted task is a `RefusedError` that ``is_gone``."""
        try:
            raw = self.http.send(Request("GET", "/api/predictions/", {"task": str(task_id)}))
        except RefusedError as error:
            if error.status == BAD_REQUEST and _is_gone(partial(self.annotations, task_id)):
                # As for any invalid filter; the address of a task's annotations answers 404 for a deleted task.
                raise RefusedError(f"{error}: there is no such task", GONE) from error
            raise
        return TaskPredictions(msgspec.Raw(raw), decoded(raw, tuple[StoredPrediction, ...]))

    def create_prediction(self, new: NewPrediction) -> None:
        """Store a prediction; sent once, since a repeated request could store two."""
        self.http.send(_write("/api/predictions/", msgspec.json.encode(new)))

    def import_predictions(self, project_id: int, new: Sequence[NewPrediction]) -> int:
        """Store predictions in one request, sent once; return how many Label Studio stored.

        It stores none if the task of one is deleted, and leaves out invalid ones.
        """
        request = _write(f"/api/projects/{project_id}/import/predictions", msgspec.json.encode(new))
        return decoded(self.http.send(request), _Imported).created

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a prediction; one that is already deleted is no error."""
        _is_gone(lambda: self.http.send(Request("DELETE", f"/api/predictions/{prediction_id}/")))

    def count_predictions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions of each model version a project holds."""
        return self.http.get(f"/api/projects/{project_id}/model-versions/", dict[str, int])


def _is_gone(request: Callable[[], object]) -> bool:
    """Whether a request is refused since its object does not exist; any other refusal is raised."""
    try:
        request()
    except RefusedError as error:
        if not error.is_gone:
            raise
        return True
    return False


def _write(path: str, body: bytes) -> Request:
    return Request("POST", path, body=body, is_repeatable=False, timeout_s=WRITE_TIMEOUT_S)
