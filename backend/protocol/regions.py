"""Parses the entries of a ``result``, of a click's context or an annotation, into prompt regions.

One region may take several entries of one id (the shape, its label, a choice made about it): the shape is read once,
the labels from the first entry that has them. What cannot be read becomes a ``Skipped`` with its reason; nothing
raises.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from backend.errors import Reason
from backend.protocol import json_fields
from backend.protocol.json_fields import FieldError, Fields
from backend.shapes import (
    Bitmask,
    Brush,
    Ellipse,
    KeyPoint,
    Polygon,
    Rectangle,
    Shape,
    ShapeKind,
    Stroke,
    Vector,
    kind_of,
)
from backend.types import PromptRegion, Skipped
from backend.words import CONTROL, TypedText

SMALLEST_ENTRY = 24
"""Bytes of the shortest entry that can hold a shape, ``{"value":{"x":1,"y":1}}``; shorter ones are not parsed."""

MOST_LABELS = 100  # labels of one region that are read; answers repeat them
LONGEST_LABEL = 1000

# Types of results that draw nothing: they describe a region or the task.
NOT_DRAWN = frozenset(
    ("choices", "datetime", "labels", "number", "pairwise", "ranker", "rating", "relation", "taxonomy", "textarea")
)


class _Entry(msgspec.Struct):
    """One entry of a ``result``; every field may be missing or of any type."""

    value: Fields | None = None
    id: object = None
    type: object = None
    from_name: object = None
    to_name: object = None
    is_positive: object = None
    original_width: object = None
    original_height: object = None
    image_rotation: object = None
    item_index: object = None


class _NotDrawn(ValueError):  # noqa: N818 - not a failure: the region is left out
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read(
    result: Iterable[msgspec.Raw], kinds: Collection[ShapeKind] = tuple(ShapeKind)
) -> tuple[tuple[PromptRegion, ...], tuple[Skipped, ...]]:
    """Return the regions drawn in a ``result``, in order, and the regions left out, each with its reason.

    Shapes of kinds other than ``kinds`` are left out unread (``not_a_prompt``): a mask may take megabytes.
    """
    regions, skipped, _ = read_with_texts(result, kinds)
    return regions, skipped


def read_with_texts(
    result: Iterable[msgspec.Raw], kinds: Collection[ShapeKind] = tuple(ShapeKind)
) -> tuple[tuple[PromptRegion, ...], tuple[Skipped, ...], tuple[TypedText, ...]]:
    """Return what `read` returns, and the texts of controls whose name begins with ``segment_words``.

    To `read` these are regions that draw nothing.
    """
    groups: dict[str, list[_Entry]] = {}
    skipped: list[Skipped] = []
    too_small: Skipped | None = None
    for index, raw in enumerate(result):
        name = f"#{index}"
        if memoryview(raw).nbytes < SMALLEST_ENTRY:
            too_small = too_small or Skipped(name, Reason.BAD_GEOMETRY, "not a region: too short to hold a shape")
            continue
        try:
            entry = msgspec.json.decode(raw, type=_Entry)
        except json_fields.DECODE_ERRORS as error:
            skipped.append(Skipped(name, Reason.BAD_GEOMETRY, f"not a region: {error}"))
            continue
        groups.setdefault(json_fields.text(entry.id) or f"{name}-{_digest(raw)}", []).append(entry)
    regions: list[PromptRegion] = []
    texts: list[TypedText] = []
    for name, entries in groups.items():
        try:
            regions.append(_region(name, entries, kinds))
        except ValueError as error:
            reason = error.reason if isinstance(error, _NotDrawn) else Reason.BAD_GEOMETRY
            skipped.append(Skipped(name, reason, str(error)))
            texts += _typed(name, entries)
    return tuple(regions), (*skipped, *((too_small,) if too_small is not None else ())), tuple(texts)


def _typed(name: str, entries: Sequence[_Entry]) -> Iterator[TypedText]:
    """Yield the text that was entered last into a control for words; an empty one where none is left."""
    for entry in entries:
        control = json_fields.text(entry.from_name)
        if json_fields.text(entry.type).lower() == "textarea" and control.startswith(CONTROL):
            texts = json_fields.anything((entry.value or {}).get("text"))
            last = (texts[-1] if texts else "") if isinstance(texts, list) else texts
            image = json_fields.text(entry.to_name), json_fields.whole(entry.item_index)
            yield TypedText(name, json_fields.text(last), *image)


def _digest(raw: msgspec.Raw) -> str:
    """Return a digest to name a region without an id: answers' ids derive from their prompts', and must differ."""
    return hashlib.sha256(raw).hexdigest()[:16]


def _region(name: str, entries: Sequence[_Entry], kinds: Collection[ShapeKind]) -> PromptRegion:
    entry, kind = _drawn(entries)
    if kind not in kinds:
        raise _NotDrawn(Reason.NOT_A_PROMPT, f"a {kind} is not asked for")
    height, width = json_fields.whole(entry.original_height), json_fields.whole(entry.original_width)
    return PromptRegion(
        id=name,
        shape=_READERS[kind](entry.value or {}),
        from_name=json_fields.text(entry.from_name),
        to_name=json_fields.text(entry.to_name),
        labels=_labels(entries, kind),
        is_positive=_is_positive(entry),
        original_size=(height, width) if height and width and min(height, width) > 0 else None,
        image_rotation=(json_fields.whole(entry.image_rotation) or 0) % 360,
        item_index=json_fields.whole(entry.item_index),
    )


def _drawn(entries: Sequence[_Entry]) -> tuple[_Entry, ShapeKind]:
    types = [json_fields.text(entry.type).lower() for entry in entries]
    named = ((entry, kind_of(name)) for entry, name in zip(entries, types, strict=True))
    repeated = (
        (entry, _kind_by_keys(entry.value or {}))
        for entry, name in zip(entries, types, strict=True)
        if name in ("", "labels")
    )
    for entry, kind in (*named, *repeated):
        if kind is not None:
            return entry, kind
    strange = [name for name in types if name not in NOT_DRAWN]
    if strange:
        raise _NotDrawn(Reason.UNSUPPORTED_PROMPT, f"type {strange[0][:40]!r} is not read")
    raise _NotDrawn(Reason.NOT_A_PROMPT, f"type {types[0]!r} draws nothing")


_KEYS: tuple[tuple[set[str], ShapeKind], ...] = (
    ({"rle"}, ShapeKind.BRUSH),
    ({"imageDataURL"}, ShapeKind.BITMASK),
    ({"vertices"}, ShapeKind.VECTOR),
    ({"points"}, ShapeKind.POLYGON),
    ({"radiusX"}, ShapeKind.ELLIPSE),
    ({"x", "y", "width", "height"}, ShapeKind.RECTANGLE),
    ({"x", "y"}, ShapeKind.KEYPOINT),
)


def _kind_by_keys(value: Fields) -> ShapeKind | None:
    return next((kind for keys, kind in _KEYS if keys <= value.keys()), None)


def _labels(entries: Sequence[_Entry], kind: ShapeKind) -> tuple[str, ...]:
    """Return the first labels found: under the shape's own key, under ``labels``, under any key that ends so.

    The own key is first, since a mask that is given another label after it was accepted has that one there alone, and
    Label Studio's exporter goes by it.
    """
    written = [(key, raw) for entry in entries for key, raw in (entry.value or {}).items() if key.endswith("labels")]
    for _, raw in sorted(written, key=lambda field: (field[0] != f"{kind}labels", field[0] != "labels")):
        if labels := json_fields.strings(raw):
            return tuple(label for label in labels[:MOST_LABELS] if len(label) <= LONGEST_LABEL)
    return ()


def _is_positive(entry: _Entry) -> bool | None:
    """Return the sign of a point: beside the value in the open-source editor, inside it in the Enterprise one."""
    signs = (entry.is_positive, json_fields.anything((entry.value or {}).get("positive")))
    if any(sign is False for sign in signs):
        return False
    return True if any(sign is True for sign in signs) else None


def _numbers(value: Fields, *keys: str) -> list[float]:
    return [json_fields.number(value, key, 0.0 if key == "rotation" else None) for key in keys]


def _vector(value: Fields) -> Shape:
    corners = json_fields.objects(value, "vertices")
    points = tuple((x, y) for x, y in (_numbers(corner, "x", "y") for corner in corners))
    curved = any(json_fields.anything(corner.get("isBezier")) is True for corner in corners)
    return Vector(points, closed=json_fields.anything(value.get("closed")) is True, curved=curved)


def _brush(value: Fields) -> Shape:
    code = json_fields.octets(value, "rle")
    strokes = tuple(_stroke(touch) for touch in json_fields.objects(value, "touches"))
    if url := json_fields.text(json_fields.anything(value.get("maskDataURL"))):  # where both are, the editor draws this
        return Bitmask(url, strokes)
    if not code and not strokes:
        raise FieldError("rle: expected bytes, got none")
    return Brush(code, strokes)


_READERS: dict[ShapeKind, Callable[[Fields], Shape]] = {
    ShapeKind.KEYPOINT: lambda value: KeyPoint(*_numbers(value, "x", "y")),
    ShapeKind.RECTANGLE: lambda value: Rectangle(*_numbers(value, "x", "y", "width", "height", "rotation")),
    ShapeKind.ELLIPSE: lambda value: Ellipse(*_numbers(value, "x", "y", "radiusX", "radiusY", "rotation")),
    ShapeKind.POLYGON: lambda value: Polygon(json_fields.pairs(value, "points")),
    ShapeKind.VECTOR: _vector,
    ShapeKind.BRUSH: _brush,
    ShapeKind.BITMASK: lambda value: Bitmask(_url(value)),
}


def _stroke(touch: Fields) -> Stroke:
    flat = json_fields.numbers(touch, "relativePoints")
    # Label Studio writes the type; older releases wrote the canvas operation.
    kind, operation = (json_fields.anything(touch.get(key)) for key in ("type", "compositeOperation"))
    erases = kind == "eraser" or operation == "destination-out"
    width = json_fields.number(touch, "relativeStrokeWidth")
    return Stroke(tuple(zip(flat[0::2], flat[1::2], strict=False)), width, erases)


def _url(value: Fields) -> str:
    url = json_fields.text(json_fields.anything(value.get("imageDataURL")))
    if not url:
        raise FieldError("imageDataURL: expected a data URL, got nothing")
    return url
