"""Bodies as Label Studio writes them, for tests: recorded ones, made ones, and random ones for hypothesis."""

import base64
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.fakes import png

GOLDEN = Path(__file__).parents[1] / "golden" / "label_studio"

BROWSER = {"Accept": "text/html"}

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="brush" toName="image" smart="false"><Label value="Cat"/><Label value="Dog"/></BrushLabels>'
    '<KeyPointLabels name="point" toName="image" smart="true"><Label value="Cat"/><Label value="Dog"/></KeyPointLabels>'
    '<RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/><Label value="Dog"/></RectangleLabels>'
    "</View>"
)


def recorded(name: str) -> dict[str, Any]:
    """Return the body of a recorded request."""
    return json.loads((GOLDEN / "requests" / f"{name}.json").read_text())["body"]


def encoded(body: object) -> bytes:
    return json.dumps(body).encode()


def result(kind: str = "keypointlabels", value: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return one entry of a context on an image of 800 × 600, a positive point by default."""
    entry = {
        "original_width": 800,
        "original_height": 600,
        "image_rotation": 0,
        "value": {"x": 25.0, "y": 50.0, "width": 0.2, "keypointlabels": ["Cat"]} if value is None else value,
        "id": "prompt-one",
        "from_name": "point",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    }
    return {key: item for key, item in (entry | changes).items() if item is not ...}


def rectangle(x: Any, y: Any, width: Any, height: Any, rotation: Any = 0, **changes: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": ["Cat"]}
    return result("rectanglelabels", value, **({"from_name": "box"} | changes))


WORDS_CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="brush" toName="image" smart="false"><Label value="Cat"/><Label value="Dog"/></BrushLabels>'
    '<TextArea name="segment_words" toName="image"/></View>'
)


def words(*texts: Any, **changes: Any) -> dict[str, Any]:
    """Return the entry of a context that typing into ``segment_words`` makes, the newest text last."""
    entry = {"value": {"text": list(texts)}, "id": "typed", "from_name": "segment_words", "to_name": "image"}
    return entry | {"type": "textarea", "origin": "manual"} | changes


def click(*results: Any, **changes: Any) -> dict[str, Any]:
    """Return a click's body with these entries as its context."""
    body = {
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/a.jpg"}, "annotations": [], "drafts": []}],
        "project": "1.1795380049",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": {"result": list(results)}},
    }
    return body | changes


def saved(*results: Any, **fields: Any) -> dict[str, Any]:
    """Return an annotation, or with a ``model_version`` a prediction, as a task holds it."""
    fields = {"id": 1, "updated_at": "2026-11-22T20:40:49.951122Z", **fields}
    if "model_version" not in fields:
        fields = {"was_cancelled": False, "ground_truth": False, **fields}
    return {"result": list(results), **fields}


def task_with(
    annotations: Any = (), predictions: Any = (), task_id: int = 1, data: Any = None, drafts: Any = ()
) -> dict[str, Any]:
    """Return a task as Label Studio sends it before the first click."""
    data = {"image": "/data/upload/1/a.jpg"} if data is None else data
    return {
        "id": task_id, "data": data, "annotations": annotations, "predictions": predictions, "drafts": drafts,
    }  # fmt: skip


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just([[1], None, "x"]),
)
PERCENT = st.one_of(st.floats(-20, 120), st.integers(-5, 105), st.sampled_from([0, 100, 1e300, -1e7, 99.999999]), JUNK)
LABELS = st.one_of(st.lists(st.sampled_from(["Cat", "Dog", "Bird", ""]), max_size=2), JUNK)
NAMES = st.one_of(st.sampled_from(["image", "point", "box", "segment_words", "a", "b", ""]), JUNK)

VALUES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "x": PERCENT,
            "y": PERCENT,
            "width": PERCENT,
            "height": PERCENT,
            "rotation": PERCENT,
            "radiusX": PERCENT,
            "radiusY": PERCENT,
            "positive": JUNK,
            "labels": LABELS,
            "keypointlabels": LABELS,
            "rectanglelabels": LABELS,
            "points": st.one_of(st.lists(st.one_of(st.lists(PERCENT, min_size=2, max_size=2), JUNK), max_size=5), JUNK),
            "vertices": st.one_of(st.lists(st.fixed_dictionaries({"x": PERCENT, "y": PERCENT}), max_size=4), JUNK),
            "closed": JUNK,
            "rle": st.one_of(st.lists(st.integers(-1, 256), max_size=30), JUNK),
            "touches": st.one_of(
                st.lists(
                    st.fixed_dictionaries(
                        {"relativePoints": st.lists(PERCENT, max_size=6), "relativeStrokeWidth": PERCENT}
                    ),
                    max_size=2,
                ),
                JUNK,
            ),
            "text": st.one_of(st.lists(st.text(max_size=4), max_size=2), JUNK),
            "maskDataURL": st.one_of(st.just("data:image/png;base64,iVBORw0KGgo="), JUNK),
            "imageDataURL": JUNK,
        },
    ),
    JUNK,
)
TYPES = st.one_of(
    st.sampled_from(
        [kind + suffix for kind in ("keypoint", "rectangle", "ellipse", "polygon", "brush", "bitmask", "vector")
         for suffix in ("", "labels")] + ["labels", "choices", "textarea", "cuboid", "magicwand", "relation"]
    ),
    JUNK,
)  # fmt: skip
RESULTS = st.one_of(
    st.fixed_dictionaries(
        {"value": VALUES, "type": TYPES},
        optional={
            "id": st.one_of(st.sampled_from(["r1", "r2", "r3"]), JUNK),
            "from_name": NAMES,
            "to_name": NAMES,
            "is_positive": JUNK,
            "original_width": st.one_of(st.integers(-1, 300), JUNK),
            "original_height": st.one_of(st.integers(-1, 300), JUNK),
            "image_rotation": st.one_of(st.sampled_from([0, 90, 180, 270, -90]), JUNK),
            "item_index": st.one_of(st.integers(-1, 3), JUNK),
        },
    ),
    JUNK,
)
CONTEXTS = st.one_of(JUNK, st.fixed_dictionaries({"result": st.one_of(st.lists(RESULTS, max_size=5), JUNK)}))
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "tasks": st.lists(
            st.one_of(
                JUNK,
                st.fixed_dictionaries(
                    {}, optional={"id": JUNK, "data": st.one_of(JUNK, st.dictionaries(NAMES.map(str), JUNK))}
                ),
            ),
            max_size=3,
        ),
        "project": st.one_of(st.just("3.1795"), JUNK),
        "label_config": st.one_of(st.just(CONFIG), JUNK),
        "params": st.one_of(JUNK, st.fixed_dictionaries({"context": CONTEXTS})),
    },
)


def data_uri(size_wh=(80, 60), colour=(200, 30, 40)):
    return "data:image/png;base64," + base64.b64encode(png(colour, size_wh)).decode()


def click_on(uri, size_wh=(80, 60)):
    width, height = size_wh
    return click(result(original_width=width, original_height=height), tasks=[{"id": 1, "data": {"image": uri}}])
