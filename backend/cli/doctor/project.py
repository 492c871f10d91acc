"""Checks a project of Label Studio: its model, its labeling config, its newest annotations and its first image."""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from backend.cli.doctor.findings import Finding, Level
from backend.errors import BackendError, Reason
from backend.images.decode import PixelLimits
from backend.images.decode import decode as decode_image
from backend.images.fetch import ImageSource
from backend.images.locations import LabelStudioOrigin
from backend.label_studio import task_filters
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_filters import Selection
from backend.label_studio.types import Project
from backend.labeling import config, config_problems, config_xml, task_images
from backend.labeling.config_types import LabelConfig
from backend.logs import without_credentials
from backend.protocol import annotations, regions
from backend.settings import Settings
from backend.shapes import ShapeKind
from backend.types import ImageRef, Task
from backend.words import CONTROL

LOOKED_AT = 10  # how many annotated tasks to check; their masks may be large
_INTERACTIVE = "switch Interactive preannotations on"
_IMAGE_PROXY = (
    "; if this machine reaches the internet through a proxy alone, set PADDLE_SAM_IMAGE_PROXY (HTTP_PROXY and its like "
    "do not count for images)"
)
_EXPORTABLE = (
    "for COCO and YOLO draw them with <PolygonLabels> and prompt with <KeyPoint> and a row of <Labels>, for masks as "
    "images or COCO draw them with <BrushLabels>"
)
_SEE_CONFIGS = "see the labeling configs in the README"


def examine(settings: Settings, label_studio: LabelStudio, images: ImageSource, project_id: int) -> Iterator[Finding]:
    """Yield the findings about a project; see `backend.cli.doctor.examination.examine` for the arguments."""
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
    problems = config_problems.problems(controls, settings.output_kinds)
    for problem in problems:
        yield Finding(Level.PROBLEM, subject, problem, _SEE_CONFIGS)
    if not problems:
        yield Finding(Level.OK, subject, f"labeling config of {project.title!r} can be answered")
    for hint in config_problems.export_hints(controls, settings.output_kinds):
        yield Finding(Level.HINT, f"export of {subject}", hint, _EXPORTABLE)
    yield from _keypoints(label_studio, project, controls)
    yield from _words(settings, project)
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


def _words(settings: Settings, project: Project) -> Iterator[Finding]:
    """Yield a problem for each field for words, if there is no detector to look for them."""
    tags = [config_xml.read(project.label_config)] if settings.detector is None else []
    while tags:
        tag = tags.pop()
        tags += tag.children
        name = tag.attributes.get("name", "")
        if tag.kind == "textarea" and name.startswith(CONTROL):
            text = f'words typed into <TextArea name="{name[:100]}"> find nothing: no detector is configured'
            fix = f"{Reason.NO_DETECTOR.remedy}, such as GroundingDINO-T or a detector's directory; see docs/words.md"
            yield Finding(Level.PROBLEM, f"words of project {project.id}", text, fix)


def _keypoints(label_studio: LabelStudio, project: Project, controls: LabelConfig) -> Iterator[Finding]:
    """Yield a hint if the newest annotations hold keypoints, with which Label Studio's COCO export fails."""
    if not any(control.kind is ShapeKind.KEYPOINT and control.has_labels for control in controls.controls):
        return
    kinds, counts = (ShapeKind.KEYPOINT,), []
    try:
        query = task_filters.dump(Selection((task_filters.ANNOTATED,)))
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
    reached = [connection for connection in connections if connection.readable_state == "Connected"]
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
        picture = decode_image(fetched.data, PixelLimits(max_pixels=settings.max_image_pixels))
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
