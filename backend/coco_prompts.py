"""Prompts from a COCO file: the boxes of its annotations, for the tasks that show its images.

Images are matched by their file name. Label Studio puts eight hexadecimal digits and a dash before the name of an
upload and takes spaces and special characters out of it; both are seen through. Folders count where both sides have
some: those of one must be the last ones of the other's, or `val/0001.jpg` would get the boxes of `train/0001.jpg`.
"""

import math
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from backend import json_fields, label_config, task_images
from backend.controls import Controls
from backend.errors import BackendError, PromptError, Reason
from backend.logs import without_credentials
from backend.output_choice import Outputs
from backend.saved_prompts import TaskPrompts
from backend.shapes import OUTPUT_KINDS, Rectangle, ShapeKind
from backend.types import PromptRegion, Skipped, Task

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_DROPPED = re.compile(r"[^-\w.]")
_UPLOADS = "/data/upload/"


class CocoError(ValueError):
    """The file cannot be read, or is not what COCO's object detection files are."""


class _Image(msgspec.Struct):
    id: object = None
    file_name: object = None
    width: object = None
    height: object = None


class _Annotation(msgspec.Struct):
    id: object = None
    image_id: object = None
    category_id: object = None
    bbox: object = None
    iscrowd: object = None


class _Category(msgspec.Struct):
    id: object = None
    name: object = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


@dataclass(frozen=True)
class CocoBox:
    """One annotation; ``bbox`` as written there: x, y, width and height in pixels, whatever it may be."""

    name: str
    category: str
    bbox: object
    is_crowd: bool


@dataclass(frozen=True)
class CocoImage:
    """One image of the file.

    Attributes:
        path: its folders and file name.
        size: (H, W); None where the file does not say.
        boxes: its annotations.
    """

    path: tuple[str, ...]
    size: tuple[int, int] | None
    boxes: tuple[CocoBox, ...]


class CocoPrompts:
    """The images of a COCO file by their names; safe from many threads."""

    def __init__(self, images: Sequence[CocoImage]) -> None:
        """Keep the images."""
        self._by_name: dict[str, list[CocoImage]] = defaultdict(list)
        for image in images:
            self._by_name[_plain(image.path[-1])].append(image)
        self._unmet = {"/".join(image.path) for image in images if image.boxes}
        self._lock = threading.Lock()

    @property
    def unmet(self) -> tuple[str, ...]:
        """The images with boxes that no task has shown so far."""
        with self._lock:
            return tuple(sorted(self._unmet))

    def prompts(self, task: Task, controls: Controls, outputs: Sequence[ShapeKind] = OUTPUT_KINDS) -> TaskPrompts:
        """Return the boxes of a task's images, labelled with their categories.

        Args:
            task: its data is read.
            controls: the project's labeling config. A category that it offers as no label, whatever the case, is left
                out, unless it offers no labels at all.
            outputs: what masks are drawn as, the preferred kinds first.
        """
        regions: list[PromptRegion] = []
        skipped: list[Skipped] = []
        for place in task_images.places(controls, task):
            try:
                found = self._on_image(place, task, controls, outputs)
            except BackendError as error:
                skipped.append(Skipped(place[0], error.reason, str(error)))
                continue
            for one in found:
                if isinstance(one, Skipped):
                    skipped.append(one)
                else:
                    regions.append(one)
        return TaskPrompts(tuple(regions), tuple(skipped))

    def _on_image(
        self, place: tuple[str, int | None], task: Task, controls: Controls, outputs: Sequence[ShapeKind]
    ) -> list[PromptRegion | Skipped]:
        to_name, item_index = place
        here = label_config.on_image(controls, to_name)
        image = self._image(task_images.image_ref(here.images[0], task, None, item_index).uri)
        if isinstance(image, Skipped):
            return [image]
        found: list[PromptRegion | Skipped] = []
        choice = Outputs(here, outputs) if image.boxes else None
        for box in image.boxes:
            try:
                assert choice is not None  # there are boxes
                shape, labels = _rectangle(box, image), _labels(box, here, choice)
            except PromptError as error:
                found.append(Skipped(box.name, error.reason, str(error)))
                continue
            name = box.name if item_index is None else f"{item_index}:{box.name}"
            found.append(
                PromptRegion(name, shape, "", to_name, labels, original_size=image.size, item_index=item_index)
            )
        return found

    def _image(self, uri: str) -> CocoImage | Skipped:
        """Return the image that an address is about."""
        shown = without_credentials(uri)[:200]
        elsewhere: list[CocoImage] = []
        for path in _paths(uri):
            named = self._by_name.get(_plain(path[-1]), [])
            candidates = [image for image in named if _may_be(path, image.path)]
            elsewhere += named
            if not candidates:
                continue
            fits = [_fit(path, image.path) for image in candidates]
            if fits.count(max(fits)) > 1:
                names = ", ".join("/".join(image.path) for image in candidates[:3])
                return Skipped(shown, Reason.AMBIGUOUS_FILE_NAME, f"{shown} may be any of {names}")
            image = candidates[fits.index(max(fits))]
            with self._lock:
                self._unmet.discard("/".join(image.path))
            return image
        folders = f" there; {'/'.join(elsewhere[0].path)} lies in other folders" if elsewhere else ""
        return Skipped(shown, Reason.NOT_IN_COCO_FILE, f"no image of the COCO file is named like {shown}{folders}")


def read(path: Path) -> CocoPrompts:
    """Return what a COCO file of object detection holds.

    Raises:
        CocoError: it cannot be read, is no JSON, or lacks images or annotations.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CocoError(
            f"{path}: expected a COCO file with images, annotations and categories, got something else: {error}"
        ) from error
    names = {_key(one.id): json_fields.text(one.name) for one in file.categories}
    boxes: dict[object, list[CocoBox]] = defaultdict(list)
    for place, one in enumerate(file.annotations):
        name = str(place if _key(one.id) is None else _key(one.id))
        box = CocoBox(name, names.get(_key(one.category_id), ""), one.bbox, one.iscrowd in (1, True))
        boxes[_key(one.image_id)].append(box)
    images = [
        CocoImage(path_of, _size(one), _named_apart(boxes.get(_key(one.id), [])))
        for one in file.images
        if (path_of := _split(json_fields.text(one.file_name)))
    ]
    if not images:
        raise CocoError(f"{path}: expected images with a file_name, got none")
    return CocoPrompts(images)


def _key(value: object) -> object:
    """Return an id that can be looked up; some tools write numbers as text."""
    if isinstance(value, float | str) and str(value).strip().lstrip("-").isdecimal():
        return int(value)
    whole = json_fields.whole(value)
    return whole if whole is not None else value if isinstance(value, str) else None


def _named_apart(boxes: Sequence[CocoBox]) -> tuple[CocoBox, ...]:
    """Return boxes of which no two have one name; ids may come twice where files were put together."""
    times = Counter(box.name for box in boxes)
    return tuple(
        box if times[box.name] == 1 else CocoBox(f"{box.name}#{place}", box.category, box.bbox, box.is_crowd)
        for place, box in enumerate(boxes)
    )


def _size(image: _Image) -> tuple[int, int] | None:
    height, width = json_fields.whole(image.height), json_fields.whole(image.width)
    return (height, width) if height and width and min(height, width) > 0 else None


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _plain(name: str) -> str:
    """Return a file name as Label Studio stores an upload of it."""
    return _DROPPED.sub("", name.strip().replace(" ", "_"))


def _paths(uri: str) -> Iterator[tuple[str, ...]]:
    """Yield the paths that an address may stand for, the likelier ones first."""
    if uri.startswith("data:"):
        return
    parts = urlsplit(uri)
    asked = parse_qs(parts.query).get("d") if "/local-files" in parts.path else None
    for text in (asked[0],) if asked else (unquote(parts.path), parts.path):
        path = _split(text)
        if not path:
            continue
        if (
            parts.scheme in ("", "http", "https") and _UPLOADS in text
        ):  # Label Studio's own folders, which say nothing about those before the upload
            path = path[-1:]
        yield path
        if _UPLOADED.match(path[-1]):
            yield (*path[:-1], _UPLOADED.sub("", path[-1], count=1))


def _may_be(path: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two paths may be those of one file, seen from different folders."""
    return all(one == two for one, two in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False))


def _fit(path: Sequence[str], other: Sequence[str]) -> tuple[bool, int]:
    """Return how well two paths fit: whether the name is the same to the letter, and how many folders before it."""
    folders = 0
    for one, two in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False):
        if one != two:
            break
        folders += 1
    return path[-1] == other[-1], folders


def _rectangle(box: CocoBox, image: CocoImage) -> Rectangle:
    """Return a box in percent.

    Raises:
        PromptError: it is no box of one object, or of no image of known size.
    """
    if box.is_crowd:
        raise PromptError("a box around many objects", Reason.NOT_A_PROMPT)
    numbers = box.bbox if isinstance(box.bbox, list) else []
    are_numbers = [isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in numbers]
    if len(numbers) != 4 or not all(are_numbers):
        said = str(box.bbox)[:60]
        raise PromptError(f"bbox: expected x, y, width and height, got {said}", Reason.BAD_GEOMETRY)
    if image.size is None:
        raise PromptError("image: expected width and height, got none", Reason.BAD_GEOMETRY)
    height, width = image.size
    x, y, across, down = numbers
    return Rectangle(100 * x / width, 100 * y / height, 100 * across / width, 100 * down / height)


def _labels(box: CocoBox, controls: Controls, outputs: Outputs) -> tuple[str, ...]:
    """Return a box's label as the labeling config spells it; none where that has none at all.

    Raises:
        PromptError: the category is no label of the config.
    """
    labels = outputs.choose((box.category,) if box.category else ()).labels
    own = [control.own for control in controls.controls if control.is_output and control.own is not None]
    if not labels and any(tag.labels or tag.labels_vary for tag in (*own, *controls.labels)):
        raise PromptError(f"category {box.category!r} is no label of the labeling config", Reason.UNKNOWN_LABEL)
    return labels
