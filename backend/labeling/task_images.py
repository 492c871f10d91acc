"""Resolves the values of ``<Image>`` tags in a task's data, as the editor does.

Nested repeaters and variables in a text multiply, so the work is counted and bounded, see `backend.request_steps`.
"""

import re
from collections.abc import Iterator
from itertools import islice

from backend.errors import Reason, RequestError
from backend.labeling.config_types import ImageTag, LabelConfig
from backend.request_steps import StepLimit
from backend.types import ImageRef, Task

UNDEFINED = "$undefined$"  # the key under which Label Studio stores data imported without a name
MANY = 1000  # images of one task; the rest of a longer list is ignored
_VARIABLE = re.compile(r"\$[\w\[\].{}]+")
_STEP = re.compile(r"[^.\[\]]+")


def image_ref(
    image: ImageTag,
    task: Task,
    project_id: int | None = None,
    item_index: int | None = None,
    step_limit: StepLimit | None = None,
) -> ImageRef:
    """Return the image that a tag shows for a task; of a list, the item at ``item_index`` (the first where None).

    >>> image_ref(ImageTag("image", "$image"), Task(7, {"image": "/data/upload/1/a.png"})).uri
    '/data/upload/1/a.png'

    Raises:
        RequestError: the task's data holds no address for that tag, or no such item, or the step limit is exceeded.
    """
    values = _values(image, task, step_limit or StepLimit())
    index = item_index or 0
    if not values:
        wanted = (image.value_list or image.value)[:200]
        raise RequestError(f"task {task.id}: expected an address under {wanted!r}, got none", Reason.NO_IMAGE_IN_TASK)
    if not 0 <= index < len(values):
        raise RequestError(
            f"task {task.id}: expected an item from 0 to {len(values) - 1}, got {index}", Reason.ITEM_INDEX_OUT_OF_RANGE
        )
    uri = values[index]
    if not isinstance(uri, str) or not uri.strip():
        raise RequestError(f"task {task.id}: expected an address as item {index}, got none", Reason.NO_IMAGE_IN_TASK)
    return ImageRef(uri.strip(), task.id, project_id, item_index)


def image_refs(
    controls: LabelConfig, task: Task, project_id: int | None = None, step_limit: StepLimit | None = None
) -> tuple[ImageRef, ...]:
    """Return all images of a task, in the config's order and each once; `RequestError` beyond the step limit."""
    refs: dict[str, ImageRef] = {}
    for image, index, uri in _shown(controls, task, step_limit or StepLimit()):
        refs.setdefault(uri, ImageRef(uri, task.id, project_id, index if image.value_list else None))
        if len(refs) == MANY:
            break
    return tuple(refs.values())


def image_keys(controls: LabelConfig, task: Task) -> tuple[tuple[str, int | None], ...]:
    """Return the ``to_name`` and item index that regions on each image of a task carry; raises as `image_refs`."""
    shown = (
        (image.name, index if image.value_list else None) for image, index, _ in _shown(controls, task, StepLimit())
    )
    return tuple(islice(dict.fromkeys(shown), MANY))


def lookup(value: str, data: object, step_limit: StepLimit | None = None) -> object:
    """Return the value that a ``value`` attribute refers to, None where the data does not hold it; see `image_refs`.

    ``$a.b[0]`` alone returns the JSON value at that path; in other text, variables are replaced.

    >>> lookup("$pages[0].url", {"pages": [{"url": "/a.png"}]})
    '/a.png'
    """
    step_limit = step_limit or StepLimit()
    step_limit.spend(characters=len(value))
    if not value:
        return None
    if _VARIABLE.fullmatch(value):
        return _get(data, value[1:])
    parts: list[str] = []
    end = 0
    for match in _VARIABLE.finditer(value):
        part = _get(data, match[0][1:])
        if part is None or isinstance(part, dict | list):
            return None
        parts += (value[end : match.start()], str(part))
        step_limit.spend(characters=len(parts[-1]))
        end = match.end()
    return "".join((*parts, value[end:]))


def _values(image: ImageTag, task: Task, step_limit: StepLimit) -> list[object]:
    value = lookup(image.value_list or image.value, task.data, step_limit)
    return value if isinstance(value, list) else [value] if isinstance(value, str) and value.strip() else []


def _shown(controls: LabelConfig, task: Task, step_limit: StepLimit) -> Iterator[tuple[ImageTag, int, str]]:
    """Yield every image that a task shows: its tag, its index in the tag's list, its address."""
    for tag in controls.images:
        for image in _repeated(tag, task, step_limit):
            for index, uri in enumerate(islice(_values(image, task, step_limit), MANY)):
                step_limit.spend(characters=len(uri) if isinstance(uri, str) else 0)
                if isinstance(uri, str) and uri.strip():
                    yield image, index, uri.strip()


def _get(data: object, path: str) -> object:
    """Return the value at a path like ``pages[0].url``; a key equal to the whole path has precedence."""
    if not isinstance(data, dict):
        return None
    if path in data:
        return data[path]
    value: object = data
    for step in _STEP.findall(path):
        key = step.strip("'\"")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(value):
            value = value[int(key)]
        else:
            return data.get(UNDEFINED)
    return value


def _repeated(image: ImageTag, task: Task, step_limit: StepLimit) -> Iterator[ImageTag]:
    """Yield a tag once for every iteration of the repeaters around it."""
    if not image.repeats:
        yield image
        return
    (on, flag), *inner = image.repeats
    items = lookup(on, task.data, step_limit)
    for index in range(min(len(items), MANY) if isinstance(items, list) else 0):
        texts = (image.name, image.value, image.value_list, *(name for name, _ in inner))
        for text in texts:
            step_limit.spend(characters=len(text))
        name, value, value_list, *names = (text.replace(flag, str(index)) if flag else text for text in texts)
        repeats = tuple((filled, other) for filled, (_, other) in zip(names, inner, strict=True))
        yield from _repeated(ImageTag(name, value, value_list, repeats), task, step_limit)
