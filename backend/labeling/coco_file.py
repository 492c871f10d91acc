"""Reads a COCO file of object detection, as any tool writes it: its images, and a box for each object.

The file may be UTF-8 or UTF-16, with or without a byte order mark. A ``NaN`` makes only the value that holds it
unusable; ids may be text. Where an annotation has no box, the box around its outline is used: polygons, flat or nested,
or a run-length code. Annotations of no image are reported in `CocoBoxes.left_out`.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from backend.errors import Reason
from backend.labeling import file_names
from backend.labeling.file_names import NamePath
from backend.protocol import json_fields
from backend.types import Skipped
from model.coco import rle

MOST_BEYOND = 0.01  # how far boxes of usual files extend beyond their image, as a share of its sides
_WHOLE = re.compile(r"\s*-?[0-9]{1,300}\s*")


class CocoError(ValueError):
    """The file cannot be read, or is not a COCO file of object detection."""


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
    segmentation: object = None


class _RawAnnotation(_Annotation):
    """Outlines are most of a file, and few of them are needed."""

    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _Category(msgspec.Struct):
    id: object = None
    name: object = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: Sequence[_Annotation]
    categories: list[_Category] | None = None


class _RawFile(_File):
    annotations: Sequence[_RawAnnotation]


@dataclass(frozen=True)
class CocoBox:
    """One annotation."""

    name: str  # the annotation's id
    category: str  # the category's name; empty where the file has none
    # x, y, width and height in pixels, computed from the outline where the file has no usable box; else as written in
    # the file
    bbox: object
    is_crowd: bool  # whether the box is around many objects
    trouble: str = ""  # why the outline cannot be used either; empty where there was no problem

    @property
    def is_usable(self) -> bool:
        """Whether this is a box with a width and a height."""
        return self.has_numbers and isinstance(self.bbox, list) and all(self.bbox[2:])

    @property
    def has_numbers(self) -> bool:
        """Whether the box is four finite numbers."""
        return isinstance(self.bbox, list) and len(self.bbox) == 4 and _are_finite(self.bbox)


@dataclass(frozen=True)
class CocoImage:
    """One image of the file; images of different names or sizes are different."""

    # the paths that its ``file_name`` may mean, the literal one first; see `backend.labeling.file_names`
    paths: tuple[NamePath, ...]
    size: tuple[int, int] | None  # (H, W); None where the file has none
    boxes: tuple[CocoBox, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Its folders and file name."""
        return "/".join(self.paths[0])


@dataclass(frozen=True)
class CocoBoxes:
    """The contents of a COCO file."""

    images: tuple[CocoImage, ...]  # its images, each path once
    left_out: tuple[Skipped, ...] = ()  # annotations that belong to no image, by their ids, each with the reason

    @property
    def reads_as_corners(self) -> int:
        """Number of boxes that extend beyond their image, if all would lie inside it as x1, y1, x2, y2; else 0."""
        sized = [(box.bbox, image.size) for image in self.images if image.size for box in image.boxes if box.is_usable]
        beyond = 0
        for numbers, (height, width) in sized:
            assert isinstance(numbers, list)  # it is usable
            x, y, across, down = numbers
            if not (0 <= x < across <= width and 0 <= y < down <= height):
                return 0
            beyond += x + across > (1 + MOST_BEYOND) * width or y + down > (1 + MOST_BEYOND) * height
        return beyond


def read(path: Path) -> CocoBoxes:
    """Return the images and boxes of a COCO file of object detection; `CocoError` if it is none."""
    try:
        file = _decoded(path.read_bytes())
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CocoError(
            f"{path}: expected a COCO file with images, annotations and categories, got something else: {error}"
        ) from error
    images = _Images(file.images)
    if not images.boxes:
        raise CocoError(f"{path}: expected images with a file_name, got none")
    names = {_key(category.id): _text(category.name) for category in file.categories or ()}
    left_out = []
    for index, annotation in enumerate(file.annotations):
        key = _key(annotation.id)
        box = CocoBox(
            name=_text(str(index if key is None else key)),
            category=names.get(_key(annotation.category_id), ""),
            bbox=annotation.bbox,
            is_crowd=annotation.iscrowd in (1, "1"),
        )
        try:
            image = images.find(_key(annotation.image_id))
        except LookupError as error:
            left_out.append(Skipped(box.name, Reason.NOT_IN_COCO_FILE, str(error)))
            continue
        images.boxes[image].append(_with_outline(box, annotation.segmentation, image.size))
    return CocoBoxes(
        tuple(replace(image, boxes=_named_apart(boxes)) for image, boxes in images.boxes.items()), tuple(left_out)
    )


class _Images:
    """The images of a file, by their ids; the annotations of an image that is listed twice belong to the first."""

    def __init__(self, listed: Iterable[_Image]) -> None:
        self.boxes: dict[CocoImage, list[CocoBox]] = {}
        self._by_id: dict[object, dict[CocoImage, None]] = defaultdict(dict)
        for entry in listed:
            key, paths = _key(entry.id), file_names.of_file(_text(entry.file_name))
            named = self._by_id[key]
            if paths:
                image = CocoImage(paths, _size(entry))
                self.boxes.setdefault(image, [])
                named[image] = None

    def find(self, key: object) -> CocoImage:
        """Return the image with an id; `LookupError` if there is no such image, or there are several."""
        if key is None:
            raise LookupError("expected an image_id, got none")
        if key not in self._by_id:
            raise LookupError(f"no image of the file has the id {key}")
        images = list(self._by_id[key])
        if not images:
            raise LookupError(f"image {key} has no file_name")
        if len(images) > 1:
            raise LookupError(f"several images have the id {key}: {', '.join(image.name for image in images[:3])}")
        return images[0]


def _decoded(data: bytes) -> _File:
    """Return the file; Python's json reads what msgspec refuses: UTF-16, a byte order mark and NaN."""
    try:
        return msgspec.json.decode(data, type=_RawFile)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError):
        return msgspec.convert(json.loads(data), type=_File)


def _text(value: object) -> str:
    """Return a string that can be encoded, without lone surrogates (halves of an emoji)."""
    return json_fields.text(value).encode("utf-8", "replace").decode()


def _key(value: object) -> object:
    """Return an id in the form in which ids are compared; some tools write numbers as text."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value
    return json_fields.whole(value)


def _size(image: _Image) -> tuple[int, int] | None:
    height, width = _key(image.height), _key(image.width)
    are_sizes = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    return (height, width) if are_sizes else None  # type: ignore[return-value]  # `are_sizes` has checked it


def _named_apart(boxes: Sequence[CocoBox]) -> tuple[CocoBox, ...]:
    """Return boxes with unique names; ids may repeat where files were merged."""
    times = Counter(box.name for box in boxes)
    return tuple(
        box if times[box.name] == 1 else replace(box, name=f"{box.name}#{index}") for index, box in enumerate(boxes)
    )


def _with_outline(box: CocoBox, outline: object, size: tuple[int, int] | None) -> CocoBox:
    """Return an annotation with the box around its outline, where it has no usable box."""
    if box.is_usable or box.is_crowd:
        return box
    outline = json_fields.anything(outline) if isinstance(outline, msgspec.Raw) else outline
    if not outline:
        return box
    try:
        return replace(box, bbox=_around(outline, size))
    except ValueError as error:
        return replace(box, trouble=str(error))


def _around(outline: object, size: tuple[int, int] | None) -> list[float]:
    """Return x, y, width and height of the box around a polygon or mask, in pixels; `ValueError` if it is damaged."""
    if isinstance(outline, Mapping):
        code = rle.parse(outline)
        if code.box is None:
            raise ValueError("segmentation: expected a mask, got an empty one")
        height, width = size or code.size
        across, down = width / code.size[1], height / code.size[0]
        return [side * scale for side, scale in zip(code.bbox, (across, down, across, down), strict=True)]
    numbers = _corners(outline)
    if len(numbers) < 6:
        raise ValueError(f"segmentation: expected a run-length code or at least 3 corners, got {len(numbers)} numbers")
    xs, ys = numbers[0::2], numbers[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _corners(outline: object) -> list[float]:
    """Return the alternating x and y of polygons, in lists of any depth; `ValueError` for anything else."""
    if isinstance(outline, list) and any(isinstance(part, list) for part in outline):
        return [number for part in outline for number in _corners(part)]
    if not isinstance(outline, list) or not _are_finite(outline) or len(outline) % 2:
        raise ValueError(f"segmentation: expected x and y of corners in turn, got {str(outline)[:60]}")
    return outline


def _are_finite(numbers: Iterable[object]) -> bool:
    return all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) for number in numbers
    )
