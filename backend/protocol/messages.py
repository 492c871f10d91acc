"""Parses Label Studio's request bodies into values, and writes the answers; with `regions` and `annotations`, the only
user of its keys.

Bodies are mostly masks saved earlier, which no click needs, so those are skipped. Undeclared fields are ignored, and
fields of an unexpected type count as missing, since an error would only hide the annotator's prompt. Only a body that
is not a JSON object is refused.
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias, TypeVar

import msgspec

from backend.errors import ProtocolError, Reason, RequestError
from backend.protocol import annotations as protocol_annotations
from backend.protocol import json_fields, regions
from backend.shapes import Bitmask, Brush, Ellipse, KeyPoint, Polygon, Rectangle, Shape, Vector
from backend.types import (
    Prediction,
    PredictRequest,
    PromptRegion,
    Region,
    SetupRequest,
    Skipped,
    Task,
    WebhookEvent,
    lone_negative_points,
)
from backend.words import TypedText

# Any JSON value where an object was expected; msgspec needs the types listed to choose between them.
_Other: TypeAlias = bool | int | float | str | list[msgspec.Raw] | None
_T = TypeVar("_T", bound=msgspec.Struct)

MOST_TASKS = 10_000
"""Tasks of one request. For more, the answer is empty, and Label Studio asks again for each task alone."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _Task(msgspec.Struct):
    id: object = None
    data: object = None
    annotations: msgspec.Raw = msgspec.Raw(b"[]")
    drafts: msgspec.Raw = msgspec.Raw(b"[]")
    predictions: msgspec.Raw = msgspec.Raw(b"[]")


class _Context(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Params(msgspec.Struct):
    context: _Context | _Other = None


class _Predict(msgspec.Struct):
    tasks: list[_Task | _Other] | None = None
    project: object = None
    label_config: object = None
    params: _Params | _Other = None


class _Setup(msgspec.Struct):
    project: object = None
    schema: object = None


class _Project(msgspec.Struct):
    id: object = None
    label_config: object = None
    total_annotations_number: object = None


class _Annotation(msgspec.Struct):
    task: object = None


class _Webhook(msgspec.Struct):
    action: object = None
    project: _Project | _Other = None
    tasks: list[_Task | _Other] | dict[str, msgspec.Raw] | bool | int | float | str | None = None
    annotation: _Annotation | _Other = None


def parse_predict(body: bytes) -> PredictRequest:
    """Return the request in a body of ``POST /predict``.

    In a large click body, the run-length codes of saved masks are cut out unread: ``Task.annotations``, ``drafts`` and
    ``predictions`` then hold regions without their masks. Other requests keep them, and so do clicks with negative
    points alone, which correct a saved mask.

    >>> request = parse_predict(b'{"tasks": [{"id": 7, "data": {"image": "/a.png"}}], "project": "1.1795380049"}')
    >>> request.tasks[0].id, request.tasks[0].data, request.project_id, request.context
    (7, {'image': '/a.png'}, 1, None)

    Raises:
        ProtocolError: the body is not a JSON object, or ``tasks`` is not a list.
        RequestError: there are too many tasks (``too_complex``).
    """
    light = protocol_annotations.without_masks(body)
    request = _decode(light, _Predict)
    tasks = request.tasks or ()
    if len(tasks) > MOST_TASKS:
        raise RequestError(f"tasks: expected at most {MOST_TASKS:,}, got {len(tasks):,}", Reason.TOO_COMPLEX)
    context, skipped, texts = _context(request)
    if light is not body and (skipped or _needs_masks(context or ())):
        request = _decode(body, _Predict)
        context, skipped, texts = _context(request)
    return PredictRequest(
        tasks=tuple(map(_task, request.tasks or ())),
        project_id=parse_project(request.project),
        label_config=json_fields.text(request.label_config),
        context=context,
        skipped=skipped,
        texts=texts,
    )


def parse_setup(body: bytes) -> SetupRequest:
    """Return the request in a body of ``POST /setup``; `ProtocolError` if that is not a JSON object."""
    setup = _decode(body, _Setup)
    return SetupRequest(project_id=parse_project(setup.project), label_config=json_fields.text(setup.schema))


def parse_webhook(body: bytes) -> WebhookEvent:
    """Return the event in a body of ``POST /webhook``; `ProtocolError` if that is not a JSON object."""
    event = _decode(body, _Webhook)
    project = event.project
    annotations = json_fields.whole(project.total_annotations_number) if isinstance(project, _Project) else 0
    tasks = tuple(map(_task, event.tasks[:MOST_TASKS])) if isinstance(event.tasks, list) else ()
    if not tasks and isinstance(event.annotation, _Annotation):
        task_id = json_fields.identifier(event.annotation.task)
        tasks = (Task(task_id),) if task_id is not None else ()
    return WebhookEvent(
        action=json_fields.text(event.action),
        project_id=parse_project(project.id if isinstance(project, _Project) else project),
        label_config=json_fields.text(project.label_config) if isinstance(project, _Project) else "",
        tasks=tasks,
        annotations=annotations if annotations is not None and 0 <= annotations <= json_fields.MOST_COUNTED else 0,
    )


def dump_predictions(predictions: Sequence[Prediction]) -> bytes:
    """Return the answer to ``POST /predict``: one item per task, in the tasks' order.

    An item may also be a list of predictions; for an empty list Label Studio stores none, and asks again.
    """
    results = [
        {"result": _result(each), "score": each.score, "model_version": each.model_version} if each.should_store else []
        for each in predictions
    ]
    return msgspec.json.encode({"results": results})


def dump_result(prediction: Prediction) -> bytes:
    """Return a prediction's regions as JSON, the ``result`` to be stored through Label Studio's API."""
    return msgspec.json.encode(_result(prediction))


def dump_setup(model_version: str) -> bytes:
    """Return the answer to ``POST /setup``; the version must equal that of the predictions.

    >>> dump_setup("demo@0123456789ab")
    b'{"model_version":"demo@0123456789ab"}'
    """
    return msgspec.json.encode({"model_version": model_version})


def dump_versions(model_versions: Sequence[str]) -> bytes:
    """Return the answer to ``GET /versions``."""
    return msgspec.json.encode({"versions": list(model_versions)})


def dump_health(model_class: str) -> bytes:
    """Return the answer to ``GET /health``."""
    return msgspec.json.encode({"status": "UP", "model_class": model_class})


def dump_error(message: str) -> bytes:
    """Return the body of an error answer: one line, no traceback."""
    return msgspec.json.encode({"error": " ".join(message.split())})


def _decode(body: bytes, kind: type[_T]) -> _T:
    with suppress(*json_fields.DECODE_ERRORS):
        return msgspec.json.decode(body, type=kind)
    try:
        return msgspec.json.decode(_strict(body), type=kind)
    except json_fields.DECODE_ERRORS as error:
        raise ProtocolError(f"body: expected a JSON object as Label Studio sends it, got {error}") from error


def _strict(body: bytes) -> str:
    """Return standard JSON for a body that only Python's json accepts; `ValueError` or `RecursionError` for any other.

    ``NaN`` and numbers too large (``1e999``) become null, and lone surrogates (halves of an emoji) the replacement
    character, so that only the value that holds them is lost.
    """
    value = json.loads(body, parse_constant=lambda _: None, parse_float=_finite, parse_int=_finite)
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", json.dumps(value, ensure_ascii=False))


def _finite(digits: str) -> int | float | None:
    number = float(digits)
    if not math.isfinite(number):
        return None
    return int(digits) if digits.lstrip("-").isdecimal() else number


def _needs_masks(context: Sequence[PromptRegion]) -> bool:
    """Whether a click cannot be answered without the masks that were cut out.

    The context's own may be among them, where a caller does not write it last.
    """
    lacks_mask = any(isinstance(region.shape, Brush) and not region.shape.rle for region in context)
    return lacks_mask or bool(lone_negative_points(context))


def _context(
    request: _Predict,
) -> tuple[tuple[PromptRegion, ...] | None, tuple[Skipped, ...], tuple[TypedText, ...]]:
    """Return the prompts of a context, its skipped regions and its words; None without a context: this is no click."""
    params = request.params
    context = params.context if isinstance(params, _Params) else None
    if not isinstance(context, _Context):
        return None, (), ()
    prompts, skipped, texts = regions.read_with_texts(json_fields.items(context.result))
    typed = {text.region_id for text in texts}
    return prompts, tuple(skip for skip in skipped if skip.region_id not in typed), texts


def _task(entry: _Task | _Other) -> Task:
    if not isinstance(entry, _Task):
        return Task(None)
    return Task(json_fields.identifier(entry.id), entry.data, entry.annotations, entry.drafts, entry.predictions)


def parse_project(project: object) -> int | None:
    """Return the id in ``1.1795380049`` (id and creation time), or in a plain 1."""
    return json_fields.identifier(project.partition(".")[0] if isinstance(project, str) else project)


def _result(prediction: Prediction) -> list[dict[str, object]]:
    return [entry for region in prediction.result for entry in _entries(region)]


def _entries(region: Region) -> list[dict[str, object]]:
    """Return a region's entries as the editor saves them: two with a separate ``<Labels>`` for its labels, else one."""
    shape = _value(region.shape)
    if region.labels_control is None:
        own = {region.type: list(region.labels)} if region.type.endswith("labels") else {}
        return [_entry(region, region.control, region.type, shape | own)]
    return [
        _entry(region, region.control, region.type, shape),
        _entry(region, region.labels_control, "labels", shape | {"labels": list(region.labels)}),
    ]


def _entry(region: Region, control: str, kind: str, value: dict[str, object]) -> dict[str, object]:
    height, width = region.original_size
    entry: dict[str, object] = {
        "id": region.id,
        "type": kind,
        "from_name": control,
        "to_name": region.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": region.image_rotation,
        "value": value,
        "origin": "manual",
    }
    if region.score is not None:
        entry["score"] = region.score
    if region.item_index is not None:
        entry["item_index"] = region.item_index
    return entry


def _value(shape: Shape) -> dict[str, object]:
    match shape:
        case Brush(rle):
            return {"format": "rle", "rle": list(rle)}
        case Bitmask(data_url):
            return {"imageDataURL": data_url}
        case Polygon(points):
            return {"points": points, "closed": True}
        case Vector(points, closed):
            return {"vertices": _vertices(points), "closed": closed}
        case Rectangle(x, y, width, height, rotation):
            return {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
        case Ellipse(x, y, radius_x, radius_y, rotation):
            return {"x": x, "y": y, "radiusX": radius_x, "radiusY": radius_y, "rotation": rotation}
        case KeyPoint(x, y):
            return {"x": x, "y": y, "width": 0.5}


def _vertices(points: Sequence[tuple[float, float]]) -> list[dict[str, object]]:
    """Return a path's corners as the editor stores them: each has an id and names the corner before it."""
    names: list[str | None] = [None, *(f"p{number}" for number in range(len(points)))]
    return [
        {"id": names[number + 1], "x": x, "y": y, "prevPointId": names[number], "isBezier": False}
        for number, (x, y) in enumerate(points)
    ]
