"""A strict reader of answers to ``POST /predict``: what Label Studio takes and saves, and no more."""

import base64
import json
import math
import struct
from typing import Any

import cv2
import numpy as np

from backend.protocol import rle

_ENTRY = {
    "id",
    "type",
    "from_name",
    "to_name",
    "original_width",
    "original_height",
    "image_rotation",
    "value",
    "origin",
}


def checked(body: Any, response: Any, version: str) -> list[Any]:
    """Return the items of an answer, which must be exactly as Label Studio takes them.

    For a task without a click, no prediction at all is an item as well, ``[]``; the editor wants one.
    """
    assert response.status_code == 200, response.data
    assert response.content_type == "application/json"
    answer = json.loads(response.data, parse_constant=_refuse)
    assert list(answer) == ["results"]
    tasks = body.get("tasks") or []
    assert len(answer["results"]) == len(tasks) or (not tasks and len(answer["results"]) <= 1)
    for item in answer["results"]:
        if item == [] and not _is_click(body):
            continue
        assert set(item) == {"result", "score", "model_version"}
        assert item["model_version"] == version
        _check_score(item["score"])
        for entry in item["result"]:
            _check_entry(entry)
    return answer["results"]


def _is_click(body: Any) -> bool:
    params = body.get("params")
    return isinstance(params, dict) and isinstance(params.get("context"), dict)


def mask_of(entry: dict[str, Any]) -> np.ndarray:
    """Return the pixels that an answer's region means, (H, W) bool."""
    size = entry["original_height"], entry["original_width"]
    value = entry["value"]
    if "rle" in value:
        assert value["format"] == "rle"
        code = bytes(value["rle"])
        assert struct.unpack(">I", code[:4]) == (4 * math.prod(size),), "of another length it could not be saved again"
        return rle.decode(code, size).to_array()
    if "imageDataURL" in value:
        return _alpha(value["imageDataURL"], size)
    if "points" in value:
        assert value["closed"] is True
        return _filled(value["points"], size)
    if "vertices" in value:
        assert value["closed"] is True
        return _filled([[corner["x"], corner["y"]] for corner in value["vertices"]], size)
    if "radiusX" in value:
        return _inside_ellipse(value, size)
    return _inside_rectangle(value, size)


def _refuse(word: str) -> float:
    raise AssertionError(f"expected JSON, got {word}")


def _check_score(score: Any) -> None:
    assert type(score) in (int, float)
    assert math.isfinite(score)
    assert 0 <= score <= 1


def _check_entry(entry: dict[str, Any]) -> None:
    assert set(entry) >= _ENTRY
    assert set(entry) <= _ENTRY | {"score", "item_index"}
    assert isinstance(entry["id"], str)
    assert len(entry["id"]) >= 10
    assert entry["from_name"]
    assert entry["to_name"]
    assert entry["origin"] == "manual"
    for key in ("image_rotation", "original_width", "original_height"):
        assert type(entry[key]) is int
    assert min(entry["original_width"], entry["original_height"]) >= 1
    if "score" in entry:
        _check_score(entry["score"])
    if "item_index" in entry:
        assert type(entry["item_index"]) is int
    assert mask_of(entry).any(), "a region of no pixel"


def _alpha(url: str, size: tuple[int, int]) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (*size, 4)
    assert set(np.unique(picture[..., 3])) <= {0, 255}
    return picture[..., 3] > 0


def _filled(points: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a ring of percents, those on its border too, so that none is empty."""
    ring = np.asarray(points, dtype=np.float64)
    assert ring.shape[1:] == (2,)
    assert len(ring) >= 3
    assert ring.min() >= 0
    assert ring.max() <= 100
    height, width = size
    pixels = ring * (width / 100, height / 100) - 0.5
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.round(pixels * 256).astype(np.int32)], 1, shift=8)
    return canvas > 0


def _inside_ellipse(value: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    turn = math.radians(value["rotation"])
    rows, columns = np.mgrid[:height, :width] + 0.5
    across, down = columns - value["x"] * width / 100, rows - value["y"] * height / 100
    along = across * math.cos(turn) + down * math.sin(turn)
    beside = down * math.cos(turn) - across * math.sin(turn)
    return (100 * along / width / value["radiusX"]) ** 2 + (100 * beside / height / value["radiusY"]) ** 2 <= 1


def _inside_rectangle(value: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    assert value["rotation"] == 0
    left, top = value["x"] * width / 100, value["y"] * height / 100
    right, bottom = left + value["width"] * width / 100, top + value["height"] * height / 100
    canvas = np.zeros(size, bool)
    canvas[round(top) : round(bottom), round(left) : round(right)] = True
    return canvas
