"""Parses the prompts of `predict`, in PaddleX's words, into the decoder's; every mistake is one sentence.

PaddleX's words are a dict with ``box_prompt`` or ``point_prompt``. Here both may be given, points may carry a label and
several points may mark one object:

    {"box_prompt": [[x1, y1, x2, y2], ...]}            one object per box
    {"point_prompt": [[x, y], ...]}                    one object per point
    {"point_prompt": [[[x, y], [x, y, 0]], ...]}       one object per group; the third number is 1 on it, 0 beside it
    both, points plain                                 a point refines the smallest box that holds it; outside of every
                                                       box it is an object of its own
    both, points in groups                             the first group refines the first box, and so on

Coordinates are original pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from model.types import Prompt

BOX_PROMPT, POINT_PROMPT, MASK_PROMPT = "box_prompt", "point_prompt", "mask_prompt"

Number = int | float
Numbers = list[Number]
PromptsLike = Mapping[str, object] | Prompt | Sequence[Prompt]

_LARGEST = 1e9  # far beyond any photo, and exact enough in float32 for the checks that follow


class PromptError(ValueError):
    """A prompt cannot be understood, or lies outside the picture: the message says what was expected and what came."""


@dataclass(frozen=True, eq=False)
class Request:
    """One requested object.

    Attributes:
        label: ``box_prompt``, ``point_prompt`` or ``mask_prompt``, the part that says most.
        given: the box or the points as the caller wrote them, ``[x1, y1, x2, y2]``, ``[x, y]`` or
            ``[[x, y, label], ...]``; None for a mask.
        points: the points that refine a box, ``[x, y, label]`` each.
        prompt: the same for the decoder.
    """

    label: str
    given: Numbers | list[Numbers] | None
    points: tuple[Numbers, ...]
    prompt: Prompt


def parse(prompts: PromptsLike | None) -> tuple[Request, ...]:
    """Return one request per object, in the order of boxes first, then points.

    Args:
        prompts: PaddleX's dict as described above, or one or several `Prompt`.

    Raises:
        PromptError: an unknown key, nothing to segment, a wrong shape, a number that is none.
    """
    if isinstance(prompts, Prompt):
        return (_of_prompt(prompts),)
    if isinstance(prompts, Mapping):
        return _of_mapping(prompts)
    if _are_prompts(prompts):
        return tuple(_of_prompt(prompt) for prompt in prompts)
    raise PromptError(
        f"prompts: expected a dict like {{'{BOX_PROMPT}': [[x1, y1, x2, y2]]}} or Prompts, got {_short(prompts)}"
    )


def of_boxes_and_points(boxes: Sequence[Numbers], points: Sequence[Numbers]) -> tuple[Request, ...]:
    """Return one request per box, refined by the points in it, and one more for all the points outside of the boxes.

    Args:
        boxes: ``[x1, y1, x2, y2]`` each.
        points: ``[x, y]`` or ``[x, y, label]`` each.

    Raises:
        PromptError: a number is none, or the points outside of the boxes are all off the object.
    """
    given = _rows(BOX_PROMPT, boxes)
    corners = [_box(box) for box in given]
    refining, loose = _share(corners, [_point(point) for point in _rows(POINT_PROMPT, points)])
    requests = [_of_box(*args) for args in zip(corners, given, refining, strict=True)]
    return (*requests, _of_points(loose, loose)) if loose else tuple(requests)


def check_inside(requests: Sequence[Request], original_size: tuple[int, int]) -> None:
    """Refuse points outside of the picture and boxes that do not touch it.

    A box that only reaches over the edge is left as it is: detectors give such, and PaddleX takes them.

    Raises:
        PromptError: with the point or box and the size of the picture.
    """
    height, width = original_size
    picture = f"the picture of {width} × {height} pixels"
    for request in requests:
        prompt = request.prompt
        if prompt.point_coords is not None:
            for x, y in prompt.point_coords.tolist():
                if not (0 <= x <= width and 0 <= y <= height):
                    raise PromptError(f"{POINT_PROMPT}: expected a point in {picture}, got [{x:g}, {y:g}]")
        if prompt.box is not None:
            x1, y1, x2, y2 = prompt.box.tolist()
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                raise PromptError(f"{BOX_PROMPT}: expected a box in {picture}, got {_short(request.given)}")


def as_given(prompts: PromptsLike | None, requests: Sequence[Request]) -> dict[str, object]:
    """Return ``prompts`` for the result, in PaddleX's words and plain lists."""
    if isinstance(prompts, Mapping):
        return {key: _plain(key, value) for key, value in prompts.items() if value is not None}
    labels = dict.fromkeys(request.label for request in requests)
    return {label: [request.given for request in requests if request.label == label] for label in labels}


def _of_mapping(prompts: Mapping[str, object]) -> tuple[Request, ...]:
    unknown = [key for key in prompts if key not in (BOX_PROMPT, POINT_PROMPT)]
    if unknown:
        raise PromptError(f"prompts: expected the keys {BOX_PROMPT} and {POINT_PROMPT}, got {_short(unknown[0])}")
    boxes = _rows(BOX_PROMPT, prompts.get(BOX_PROMPT))
    points = _rows(POINT_PROMPT, prompts.get(POINT_PROMPT))
    if not boxes and not points:
        empty = " and ".join(key for key, value in prompts.items() if value is not None)
        raise PromptError(f"{empty or 'prompts'}: expected at least one box or point, got none")
    corners = [_box(box) for box in boxes]
    if all(_is_row(point) for point in points):
        return _of_plain_points(corners, boxes, points)
    groups = [_group(group) for group in points]
    if not boxes:
        return tuple(_of_points(group, given) for group, given in zip(groups, points, strict=True))
    if len(groups) != len(boxes):
        raise PromptError(
            f"{POINT_PROMPT}: expected as many groups of points as boxes ({len(boxes)}), got {len(groups)}; "
            f"an empty group leaves a box alone"
        )
    return tuple(_of_box(*args) for args in zip(corners, boxes, groups, strict=True))


def _of_plain_points(corners: list[Numbers], boxes: list[object], points: list[object]) -> tuple[Request, ...]:
    """Boxes, each refined by the plain points in it, then the points in none of them."""
    marked = [_point(point) for point in points]
    refining, loose = _share(corners, marked)
    requests = [_of_box(*args) for args in zip(corners, boxes, refining, strict=True)]
    for point, given in zip(marked, points, strict=True):
        if point in loose:
            requests.append(_of_points([point], given))
    return tuple(requests)


def _share(corners: Sequence[Numbers], points: Sequence[Numbers]) -> tuple[list[list[Numbers]], list[Numbers]]:
    """Give each point to the smallest box that holds it; return the points of each box, and those in none."""
    refining: list[list[Numbers]] = [[] for _ in corners]
    loose = []
    for point in points:
        holders = [i for i, (x1, y1, x2, y2) in enumerate(corners) if x1 <= point[0] <= x2 and y1 <= point[1] <= y2]
        if holders:
            refining[min(holders, key=lambda i: _area(corners[i]))].append(point)
        else:
            loose.append(point)
    return refining, loose


def _area(box: Numbers) -> Number:
    return (box[2] - box[0]) * (box[3] - box[1])


def _of_box(corners: Numbers, given: object, points: list[Numbers]) -> Request:
    return Request(BOX_PROMPT, _as_numbers(given), tuple(points), _prompt(points, corners))


def _of_points(points: list[Numbers], given: object) -> Request:
    if all(label == 0 for _, _, label in points):
        raise PromptError(
            f"{POINT_PROMPT}: expected a point on the object (label 1) or a box beside those off it, "
            f"got {_short(given)}; points of one object go into one list: [[[x, y, 1], [x, y, 0]]]"
        )
    return Request(POINT_PROMPT, _as_numbers(given), (), _prompt(points, None))


def _prompt(points: list[Numbers], box: Numbers | None) -> Prompt:
    coords = np.array([point[:2] for point in points], dtype=np.float32) if points else None
    labels = np.array([point[2] for point in points], dtype=np.int32) if points else None
    return Prompt(coords, labels, None if box is None else np.array(box, dtype=np.float32))


def _of_prompt(prompt: Prompt) -> Request:
    points: list[Numbers] = []
    if prompt.point_coords is not None and prompt.point_labels is not None:
        pairs = zip(prompt.point_coords.tolist(), prompt.point_labels.tolist(), strict=True)
        points = [[x, y, label] for (x, y), label in pairs]
    if prompt.box is not None:
        return Request(BOX_PROMPT, prompt.box.tolist(), tuple(points), prompt)
    if points:
        return Request(POINT_PROMPT, _as_numbers(points), (), prompt)
    return Request(MASK_PROMPT, None, (), prompt)


def _rows(key: str, value: object) -> list[object]:
    """Return the boxes or points of one key; a single one may come without the list around it."""
    if value is None:
        return []
    plain = _plain(key, value)
    if not isinstance(plain, list):
        raise PromptError(f"{key}: expected a list, got {_short(value)}")
    return [plain] if plain and _is_row(plain) else plain


def _plain(key: str, value: object) -> object:
    """Return arrays, tensors and tuples as lists of Python's own finite numbers."""
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, Paddle's and PyTorch's tensors
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PromptError(f"{key}: expected numbers, got {_short(value)}")
    if not abs(value) <= _LARGEST:  # NaN is not below anything
        raise PromptError(f"{key}: expected pixels, got {_short(value)}")
    return value


def _is_row(value: object) -> TypeGuard[Numbers]:
    return isinstance(value, list) and bool(value) and not any(isinstance(item, list) for item in value)


def _box(value: object) -> Numbers:
    """Return x1, y1, x2, y2 with the corners in order, whichever way the box was drawn."""
    if not _is_row(value) or len(value) != 4:
        raise PromptError(f"{BOX_PROMPT}: expected [x1, y1, x2, y2] for each object, got {_short(value)}")
    x1, y1, x2, y2 = value
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def _point(value: object) -> Numbers:
    """Return x, y, label."""
    if not _is_row(value) or len(value) not in (2, 3) or value[2:] not in ([], [0], [1]):
        raise PromptError(
            f"{POINT_PROMPT}: expected [x, y], [x, y, 1] or [x, y, 0] for each point, got {_short(value)}"
        )
    return [*value[:2], int(value[2]) if len(value) == 3 else 1]


def _group(value: object) -> list[Numbers]:
    if _is_row(value):
        return [_point(value)]
    if not isinstance(value, list):
        raise PromptError(f"{POINT_PROMPT}: expected a list of points, got {_short(value)}")
    return [_point(point) for point in value]


def _as_numbers(given: object) -> Numbers | list[Numbers]:
    assert isinstance(given, list)  # `_plain` made it
    return given


def _are_prompts(value: object) -> TypeGuard[Sequence[Prompt]]:
    is_filled = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return is_filled and all(isinstance(item, Prompt) for item in value)  # type: ignore[attr-defined]  # checked above


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
