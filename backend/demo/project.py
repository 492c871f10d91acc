"""Creates the missing parts of the demo's project through Label Studio's API, and leaves existing ones unchanged."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from backend.label_studio.http import LabelStudioHttp, Request, decoded

TITLE = "Segment anything"
BACKEND_TITLE = "PaddlePaddle SAM"
WITH_REAL_WEIGHTS = "make demo WEIGHTS=mobile_sam"

# One list of labels for all tools: choosing a label then leaves the tool alone, whereas that of a KeyPointLabels or
# RectangleLabels switches to the ordinary tool. The output is not smart, for every smart control becomes a smart tool.
# `selected`: else no label is chosen on a task that is opened, and its first mask has none.
# M is not named: on a task that is opened with Auto-Annotation on, it goes from the smart point to the rectangle.
# Small print: what stands above the image pushes it down.
_LABEL_CONFIG = """
<View>
  <Header style="font-size: 15px; margin: 0" size="6"
    value="Auto-Annotation on. Click the lowest, purple tool until it shows three dots. Click an object."/>
  <Header style="font-size: 15px; margin: 0" size="6"
    value="Accept its mask with the tick, or the mask is lost: at Submit, at another label, on leaving."/>
  <Header style="font-size: 15px; margin: 0 0 8px" size="6"
    value="On photographs draw a rectangle. Real weights: {real_weights}"/>{words}
  <View visibleWhen="no-region-selected">
    <Labels name="label" toName="image">
      <Label value="Object" prompt="shape" background="#d4380d" selected="true"/>
      <Label value="Part" background="#1d39c4"/>
    </Labels>
  </View>
  <View visibleWhen="region-selected">
    <BrushLabels name="mask" toName="image" smart="false">
      <Label value="Object" prompt="shape" background="#d4380d"/><Label value="Part" background="#1d39c4"/>
    </BrushLabels>
  </View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <KeyPoint name="point" toName="image" smart="true"/>
  <Rectangle name="box" toName="image" smart="true"/>
</View>
""".strip()


_WORDS = """
  <TextArea name="segment_words" toName="image" editable="true"
    placeholder="Words for the demo's detector, then Enter: red star; a space for all. Masks get the label below"/>"""


def labeling_config(with_real_weights: str = WITH_REAL_WEIGHTS, *, has_words: bool = False) -> str:
    """Return the project's labeling config, which names the command that starts the demo with real weights.

    Args:
        with_real_weights: that command.
        has_words: whether it has a field for words, which the demo's detector finds.
    """
    words = _WORDS if has_words else ""
    return _LABEL_CONFIG.replace("{real_weights}", with_real_weights).replace("{words}", words)


LABEL_CONFIG = labeling_config()


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


def prepare(http: LabelStudioHttp, images: Sequence[Path], backend_url: str, label_config: str) -> int:
    """Return the id of the demo's project, after creating its missing parts.

    Each step checks for its own result first, so that the next start completes an interrupted one.

    Raises:
        BackendError: Label Studio does not answer, or refuses a step.
    """
    projects = http.get("/api/projects/", _Projects, {"page_size": "1000", "include": "id,title"}).results
    project = min((each.id for each in projects if each.title == TITLE), default=None)
    if project is None:
        body = {"title": TITLE, "label_config": label_config}
        project = decoded(_send(http, "POST", "/api/projects/", body), _Project).id
    if not http.get("/api/tasks", _Tasks, {"project": str(project), "page_size": "1"}).total:
        _upload(http, project, images)
    _connect(http, project, backend_url)
    return project


def _upload(http: LabelStudioHttp, project: int, images: Sequence[Path]) -> None:
    """Create a task for each image, all in one request, which makes all of them or none."""
    form = httpx.Request("POST", http.url, files=[(path.name, (path.name, path.read_bytes())) for path in images])
    path, kind = f"/api/projects/{project}/import", form.headers["content-type"]
    http.send(Request("POST", path, body=form.read(), content_type=kind, is_repeatable=False))


def _connect(http: LabelStudioHttp, project: int, url: str) -> None:
    """Connect a project to the interactive backend at an address, and to no other of the demo's title.

    Label Studio neither updates a backend's webhook when its address changes nor deletes it with the backend, so it is
    deleted here.
    """
    of_project = {"project": str(project)}
    ours = [each for each in http.get("/api/ml", list[_Backend], of_project) if each.title == BACKEND_TITLE]
    for old in (backend for backend in ours if backend.url != url):
        for hook in http.get("/api/webhooks/", list[_Webhook], of_project):
            if hook.url == f"{old.url.rstrip('/')}/webhook":
                _send(http, "DELETE", f"/api/webhooks/{hook.id}/")
        _send(http, "DELETE", f"/api/ml/{old.id}")
    if not any(backend.url == url for backend in ours):
        _send(http, "POST", "/api/ml", {"project": project, "title": BACKEND_TITLE, "url": url, "is_interactive": True})


def _send(http: LabelStudioHttp, method: str, path: str, body: object = None) -> bytes:
    data = b"" if body is None else msgspec.json.encode(body)
    return http.send(Request(method, path, body=data, is_repeatable=False))
