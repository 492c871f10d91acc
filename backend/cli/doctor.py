"""Checks an installation from the machine it runs on, and reports each problem with its fix.

Each check is a function that returns or yields findings; none raises, and none changes anything.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from backend import shapes
from backend.errors import BackendError, Reason
from backend.images.decode import Limits
from backend.images.decode import decode as decode_image
from backend.images.fetch import ImageSource
from backend.images.locations import LabelStudioOrigin
from backend.label_studio import task_filters
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_filters import Selection
from backend.label_studio.tokens import TokenKind
from backend.label_studio.types import Project
from backend.labeling import config, config_problems, task_images
from backend.labeling.config_types import LabelConfig
from backend.logs import without_credentials
from backend.protocol import annotations, regions
from backend.settings import Settings
from backend.shapes import ShapeKind
from backend.types import ImageRef, Task

LOOKED_AT = 10
"""How many annotated tasks to check; their masks may be large."""
GUARDS_FROM = (1, 23, 1)
"""The first release of Label Studio that refuses private addresses; see tests/e2e/test_local_backends.py."""

_NEW_KEY = "create a personal access token in Label Studio under Account & Settings and set LABEL_STUDIO_API_KEY"
_INTERACTIVE = "switch Interactive preannotations on"
_IMAGE_PROXY = (
    "; if this machine reaches the internet through a proxy alone, set PADDLE_SAM_IMAGE_PROXY (HTTP_PROXY and its like "
    "do not count for images)"
)
_EXPORTABLE = "for COCO and YOLO draw them with <PolygonLabels>, for masks as images or COCO with <BrushLabels>"
_SEE_CONFIGS = "see the labeling configs in the README"


class Level(str, Enum):
    """The severity of a finding."""

    OK = "ok"
    HINT = "hint"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: its severity.
        subject: what was checked.
        text: the result.
        fix: what to do about it; empty if nothing is wrong.
    """

    level: Level
    subject: str
    text: str
    fix: str = ""


def examine(
    settings: Settings,
    label_studio: LabelStudio,
    images: ImageSource,
    project_id: int | None,
    weights: Callable[[], str],
) -> Iterator[Finding]:
    """Yield findings, the basic ones first.

    Args:
        settings: the service's settings.
        label_studio: a client made from them.
        images: fetches images as the service does.
        project_id: the project whose model, labeling config and first image to check; None skips these checks.
        weights: reads the configured weights and describes them; raises ValueError if they cannot be used.
    """
    yield _weights(settings, weights)
    reached, release = False, ""
    for finding in _label_studio(settings, label_studio):
        if finding.subject == "Label Studio" and finding.level is Level.OK:
            reached, release = True, finding.text.partition(" ")[0]
        yield finding
    yield from _connection(settings, release)
    if reached and project_id is not None:
        yield from _project(settings, label_studio, images, project_id)


def _weights(settings: Settings, weights: Callable[[], str]) -> Finding:
    try:
        text = weights()
    except (ValueError, OSError) as error:
        return Finding(
            Level.PROBLEM,
            "weights",
            str(error),
            "set PADDLE_SAM_WEIGHTS to a model's name or a path; "
            "`python -m model download NAME` fetches the published ones",
        )
    if settings.weights == "demo":
        return Finding(
            Level.HINT,
            "weights",
            f"{text}; the demo model is for trying things out, not for labelling photographs",
            "python -m model download mobile_sam, then PADDLE_SAM_WEIGHTS=mobile_sam; "
            "or PaddleX's, PADDLE_SAM_WEIGHTS=SAM-H_box,SAM-H_point, 2.4 GB each",
        )
    return Finding(Level.OK, "weights", text)


def _label_studio(settings: Settings, label_studio: LabelStudio) -> Iterator[Finding]:
    url = settings.label_studio_url
    try:
        release = label_studio.version()
    except BackendError as error:
        if error.reason is Reason.UNTRUSTED_CERTIFICATE:
            yield Finding(Level.PROBLEM, "Label Studio", str(error), error.reason.remedy)
            return
        fix = (
            f"set LABEL_STUDIO_URL to the address at which this machine reaches Label Studio, now {url}, "
            "and start Label Studio if it does not run"
        )
        if _is_loopback(urlsplit(url).hostname or ""):
            fix += "; inside a container localhost is the container itself: use the service's or host's name"
        yield Finding(Level.PROBLEM, "Label Studio", str(error), fix)
        return
    yield Finding(Level.OK, "Label Studio", f"{release or 'unknown release'} at {url}")
    kind = label_studio.http.token_kind
    if kind is TokenKind.NONE:
        yield Finding(
            Level.PROBLEM,
            "API key",
            "LABEL_STUDIO_API_KEY is not set: images that were uploaded to Label Studio cannot be fetched",
            _NEW_KEY,
        )
        return
    try:
        user = label_studio.user()
    except BackendError as error:
        fix = _NEW_KEY
        if kind is TokenKind.LEGACY and "no such token" not in str(error):
            fix += "; or have an administrator enable legacy tokens under Organization > API Tokens Settings"
        yield Finding(Level.PROBLEM, "API key", f"{error} ({kind.value})", fix)
        return
    if kind is TokenKind.ACCESS:
        yield Finding(Level.PROBLEM, "API key", f"{kind.value} of {user}, which expires after minutes", _NEW_KEY)
        return
    yield Finding(Level.OK, "API key", f"{kind.value} of {user}")


def _connection(settings: Settings, release: str) -> Iterator[Finding]:
    """Yield hints about a backend on a private address and about access; the connection itself cannot be checked here.

    Args:
        settings: the service's settings.
        release: Label Studio's release, empty if it is unknown.
    """
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    if ipaddress.ip_address(address).is_private:
        yield Finding(
            Level.HINT,
            "reserved address",
            f"this machine's address {address} is private; {_guard(release)}",
            "start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false, or with ML_BLOCK_LOCAL_IP=false and "
            "SSRF_PROTECTION_ENABLED=false; ML_BLOCK_LOCAL_IP=false alone is not enough",
        )
    if settings.basic_auth_user is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
        yield Finding(
            Level.HINT,
            "access",
            f"anybody who reaches {settings.host}:{settings.port} may use this backend",
            "set BASIC_AUTH_USER and BASIC_AUTH_PASS, and the same two in Label Studio's model connection",
        )


def _guard(release: str) -> str:
    """Return how this release of Label Studio treats a backend on a private address."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if numbers is not None and tuple(int(number or 0) for number in numbers.groups()) < GUARDS_FROM:
        return (
            f"Label Studio {release} reaches such a backend, and from 1.23.1 on it does not: after an upgrade no click "
            "arrives any more, without a word"
        )
    which = f"Label Studio {release}" if numbers is not None else "Label Studio from 1.23.1 on"
    return (
        f"{which} answers 403 when such a backend is connected, and does not reach one that was connected before an "
        "upgrade: no click arrives, without a word"
    )


def _project(settings: Settings, label_studio: LabelStudio, images: ImageSource, project_id: int) -> Iterator[Finding]:
    subject = f"project {project_id}"
    try:
        project = label_studio.project(project_id)
    except BackendError as error:
        fix = f"check that there is a project {project_id} and that the user of LABEL_STUDIO_API_KEY may see it"
        yield Finding(Level.PROBLEM, subject, str(error), fix)
        return
    yield _model(label_studio, project_id)
    try:
        controls = config.parse(project.label_config)
    except BackendError as error:
        yield Finding(Level.PROBLEM, subject, str(error), _SEE_CONFIGS)
        return
    preference = shapes.in_order(settings.output_preference)
    problems = config_problems.problems(controls, preference)
    for problem in problems:
        yield Finding(Level.PROBLEM, subject, problem, _SEE_CONFIGS)
    if not problems:
        yield Finding(Level.OK, subject, f"labeling config of {project.title!r} can be answered")
    for hint in config_problems.export_hints(controls, preference):
        yield Finding(Level.HINT, f"export of {subject}", hint, _EXPORTABLE)
    yield from _keypoints(label_studio, project, controls)
    try:
        tasks = label_studio.next_tasks(project_id, 0, 1)
    except BackendError as error:
        yield Finding(Level.PROBLEM, f"images of {subject}", str(error), error.reason.remedy)
        return
    if not tasks:
        text = "no unfinished task whose image could be looked at"
        yield Finding(Level.HINT, f"images of {subject}", text, "import a task and look again")
    for task in tasks:
        try:
            refs = task_images.image_refs(controls, task, project_id)
        except BackendError as error:
            yield Finding(Level.PROBLEM, f"image of task {task.id}", str(error), error.reason.remedy)
            continue
        yield _image(settings, images, task, refs)


def _keypoints(label_studio: LabelStudio, project: Project, controls: LabelConfig) -> Iterator[Finding]:
    """Yield a hint if the newest annotations hold keypoints, with which Label Studio's COCO export fails."""
    if not any(control.kind is ShapeKind.KEYPOINT and control.has_labels for control in controls.controls):
        return
    kinds, counts = (ShapeKind.KEYPOINT,), []
    try:
        query = task_filters.dump(Selection((task_filters.annotated(),)))
        asks = project.asks_for_predictions
        page = label_studio.task_page(project.id, query, LOOKED_AT, asks_for_predictions=asks)
        for listed in page.tasks[:LOOKED_AT]:
            saved = annotations.read(label_studio.annotations(listed.task.id or 0))
            counts.append(sum(len(regions.read(annotation.result, kinds)[0]) for annotation in saved))
    except BackendError:
        return  # another check reports it
    if any(counts):
        yield Finding(
            Level.HINT,
            f"annotations of project {project.id}",
            f"{sum(counts)} keypoints in the newest {len(counts)} annotated tasks, prompts left over most likely: "
            "Label Studio's COCO export answers 500 over keypoints whose labels have no model_index",
            f"export with python -m backend export-coco --project {project.id} --out masks.json, or delete them",
        )


def _model(label_studio: LabelStudio, project_id: int) -> Finding:
    """Return whether Label Studio reaches a connected model and uses it for clicks, this backend or another one."""
    subject = f"model of project {project_id}"
    try:
        connections = label_studio.connections(project_id)
    except BackendError as error:
        return Finding(Level.HINT, subject, f"cannot be looked at: {error}", "look at Settings, Model of the project")
    if not connections:
        fix = f"in the project's Settings, Model choose Connect Model, and {_INTERACTIVE}"
        return Finding(Level.PROBLEM, subject, "none is connected, so no click arrives here", fix)
    reached = [connection for connection in connections if connection.is_connected]
    if not reached:
        urls = ", ".join(f"{without_credentials(connection.url)} ({connection.state})" for connection in connections)
        fix = (
            "enter the address at which Label Studio's own machine or container reaches this backend, and "
            "BASIC_AUTH_USER and BASIC_AUTH_PASS if they are set, while the backend runs"
        )
        return Finding(Level.PROBLEM, subject, f"Label Studio does not reach {urls}", fix)
    interactive = [connection for connection in reached if connection.is_interactive]
    urls = ", ".join(without_credentials(connection.url) for connection in interactive or reached)
    if not interactive:
        text = f"Label Studio reaches {urls}, but does not ask it on clicks"
        return Finding(Level.PROBLEM, subject, text, f"in the project's Settings, Model edit it, and {_INTERACTIVE}")
    return Finding(Level.OK, subject, f"Label Studio reaches {urls}, and asks it on clicks")


def _image(settings: Settings, images: ImageSource, task: Task, refs: tuple[ImageRef, ...]) -> Finding:
    subject = f"image of task {task.id}"
    if not refs:
        text = "the task's data holds no image under the key that the labeling config names"
        return Finding(Level.PROBLEM, subject, text, "compare <Image value> with the keys of the task's data")
    start = time.perf_counter()
    try:
        fetched = images.fetch(refs[0])
        assert fetched is not None  # only a conditional request may return None
        picture = decode_image(fetched.data, Limits(max_pixels=settings.max_image_pixels))
    except BackendError as error:
        is_elsewhere = error.reason is not Reason.UNTRUSTED_CERTIFICATE
        fix = _public_address(settings, refs[0].uri.strip()) if is_elsewhere else ""
        fix += error.reason.remedy
        if error.reason is Reason.IMAGE_FETCH_FAILED and settings.image_proxy is None:
            fix += _IMAGE_PROXY
        return Finding(Level.PROBLEM, subject, f"{error} (reason {error.reason})", fix)
    height, width = picture.original_size
    took = round((time.perf_counter() - start) * 1000)
    return Finding(Level.OK, subject, f"{width} x {height} pixels in {took} ms")


def _public_address(settings: Settings, uri: str) -> str:
    """Return what to do if an address outside Label Studio's known ones is the one at which browsers reach it.

    Only the operator may confirm it: if a task's data or Label Studio could, that would be a way to obtain the token.
    """
    try:
        if LabelStudioOrigin(settings.label_studio_url, settings.label_studio_public_url).path_of(uri) is not None:
            return ""
    except ValueError:  # no http or https address
        return ""
    parts = urlsplit(uri)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return (
        f"if browsers reach this Label Studio at {origin}, set PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL to that "
        "(with its path, if it has one); otherwise: "
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
