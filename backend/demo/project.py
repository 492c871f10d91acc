"""Creates the missing parts of the demo's project through Label Studio's API, and leaves existing ones unchanged."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from backend.demo.processes import DemoError

TITLE = "Segment anything"
BACKEND_TITLE = "PaddlePaddle SAM"
TIMEOUT_S = 120.0
LONGEST_EXCERPT = 300

# One list of labels for all tools: choosing a label then leaves the tool alone, whereas that of a KeyPointLabels or
# RectangleLabels switches to the ordinary tool. The output is not smart, for every smart control becomes a smart tool.
# `selected`: else no label is chosen on a task that is opened, and its first mask has none.
# M is not named: on a task that is opened with Auto-Annotation on, it goes from the smart point to the rectangle.
# Small print: what stands above the image pushes it down.
LABEL_CONFIG = """
<View>
  <Header style="font-size: 15px; margin: 0" size="6"
    value="Auto-Annotation on. Click the lowest, purple tool until it shows three dots. Click an object."/>
  <Header style="font-size: 15px; margin: 0" size="6"
    value="Accept its mask with the tick, or the mask is lost: at Submit, at another label, on leaving."/>
  <Header style="font-size: 15px; margin: 0 0 8px" size="6"
    value="On photographs draw a rectangle. Real weights: make demo WEIGHTS=mobile_sam"/>
  <View visibleWhen="no-region-selected">
    <Labels name="label" toName="image">
      <Label value="Object" background="#d4380d" selected="true"/><Label value="Part" background="#1d39c4"/>
    </Labels>
  </View>
  <View visibleWhen="region-selected">
    <BrushLabels name="mask" toName="image" smart="false">
      <Label value="Object" background="#d4380d"/><Label value="Part" background="#1d39c4"/>
    </BrushLabels>
  </View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <KeyPoint name="point" toName="image" smart="true"/>
  <Rectangle name="box" toName="image" smart="true"/>
</View>
""".strip()

T = TypeVar("T")


class _Project(msgspec.Struct):
    id: int
    title: str = ""


class _Projects(msgspec.Struct):
    results: list[_Project]


class _Tasks(msgspec.Struct):
    total: int


class _Backend(msgspec.Struct):
    id: int
    url: str
    title: str | None = None


class _Webhook(msgspec.Struct):
    id: int
    url: str


class LabelStudioApi:
    """A client for the calls that set up a project, with a user's legacy token."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Token {token}"}, timeout=TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def accepts_token(self) -> bool:
        """Return whether the token belongs to a user."""
        return self._send("GET", "/api/current-user/whoami").status_code == httpx.codes.OK

    def find_project(self, title: str) -> int | None:
        """Return the id of the oldest project of this title."""
        projects = self._call("GET", "/api/projects/", _Projects, params={"page_size": 1000, "include": "id,title"})
        return min((project.id for project in projects.results if project.title == title), default=None)

    def create_project(self, title: str, label_config: str) -> int:
        """Create a project and return its id."""
        return self._call("POST", "/api/projects/", _Project, json={"title": title, "label_config": label_config}).id

    def count_tasks(self, project: int) -> int:
        """Return how many tasks a project has."""
        return self._call("GET", "/api/tasks", _Tasks, params={"project": project, "page_size": 1}).total

    def upload(self, project: int, images: Sequence[Path]) -> None:
        """Create a task for each image, all in one request, which makes all of them or none."""
        with ExitStack() as opened:
            files = {str(path): (path.name, opened.enter_context(path.open("rb"))) for path in images}
            self._call("POST", f"/api/projects/{project}/import", None, files=files)

    def connect_backend(self, project: int, title: str, url: str) -> None:
        """Connect a project to the interactive backend of this title at this address, and to no other of this title.

        Label Studio neither updates a backend's webhook when its address changes nor deletes it with the backend, so it
        is deleted here.
        """
        connected = self._call("GET", "/api/ml", list[_Backend], params={"project": project})
        ours = [backend for backend in connected if backend.title == title]
        for old in (backend for backend in ours if backend.url != url):
            for hook in self._call("GET", "/api/webhooks/", list[_Webhook], params={"project": project}):
                if hook.url == f"{old.url.rstrip('/')}/webhook":
                    self._call("DELETE", f"/api/webhooks/{hook.id}/", None)
            self._call("DELETE", f"/api/ml/{old.id}", None)
        if not any(backend.url == url for backend in ours):
            body = {"project": project, "title": title, "url": url, "is_interactive": True}
            self._call("POST", "/api/ml", None, json=body)

    def _send(self, method: str, path: str, **request: object) -> httpx.Response:
        try:
            # httpx takes arguments of many types; all these calls are in this file.
            return self._client.request(method, path, **request)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise DemoError(f"Label Studio did not answer {method} {path}: {error}") from error

    def _call(self, method: str, path: str, answer: type[T] | None, **request: object) -> T:
        response = self._send(method, path, **request)
        if not response.is_success:
            raise DemoError(f"Label Studio refused {method} {path}: {response.status_code} {_detail(response)}")
        if answer is None:
            return None  # type: ignore[return-value]  # the caller asked for nothing
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.MsgspecError as error:
            raise DemoError(f"Label Studio answered {method} {path} with something else: {error}") from error


def _detail(response: httpx.Response) -> str:
    """Return the start of an error's body, unless it is a page."""
    return "" if "html" in response.headers.get("content-type", "") else response.text[:LONGEST_EXCERPT]


def prepare(api: LabelStudioApi, images: Sequence[Path], backend_url: str) -> int:
    """Return the id of the demo's project, after creating its missing parts.

    Each step checks for its own result first, so that the next start completes an interrupted one.

    Raises:
        DemoError: Label Studio does not answer, or refuses a step.
    """
    project = api.find_project(TITLE)
    if project is None:
        project = api.create_project(TITLE, LABEL_CONFIG)
    if not api.count_tasks(project):
        api.upload(project, images)
    api.connect_backend(project, BACKEND_TITLE, backend_url)
    return project
