"""Writes COCO's annotation file image by image, so that only one image's masks are in memory."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType

from model.coco.rle import Rle

CATEGORY = {"id": 1, "name": "object", "supercategory": ""}
"""Masks have no names here, and COCO wants one."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object.

    Attributes:
        rle: its mask.
        score: the estimated quality of the mask, 0 to 1; None where unknown.
        more: further fields, none of them COCO's own.
        category_id: the id of one of the file's categories.
        polygons: the mask's outlines, x and y of the corners of each in turn, in pixels; None to write its run lengths.
    """

    rle: Rle
    score: float | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    category_id: int = 1
    polygons: tuple[tuple[float, ...], ...] | None = None


def part_of(path: Path) -> Path:
    """Return the path of a file while it is being written."""
    return path.with_name(f"{path.name}.part")


class CocoFile:
    """Writes one file: ``with CocoFile(path, description) as file: file.add(...)``.

    At the end of the block, also after an error, the file holds everything that was added. Until then it is
    ``NAME.part``, and an older file ``NAME`` is unchanged; it also stays unchanged if nothing was added.
    """

    def __init__(self, path: Path, description: str, categories: Sequence[Mapping[str, object]] | None = None) -> None:
        """Describe the file; it is written from the start of the block.

        Args:
            path: the file; missing folders are made.
            description: the description in ``info``.
            categories: COCO's categories, read at the end, since some may be added meanwhile; None for a single one.
        """
        self._path, self._description, self._categories = path, description, categories
        self._part = part_of(path)
        self._images: list[Mapping[str, object]] = []
        self._count = 0
        self._stream: FileIO | None = None
        self._is_discarded = False
        self._end = 0  # bytes of complete records

    def __enter__(self) -> "CocoFile":
        """Open the file.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_dir():
            raise IsADirectoryError(21, "expected a file, got a directory", str(self._path))
        self._stream = self._part.open("wb", buffering=0)
        categories = f'"categories": [{_text(CATEGORY)}],\n' if self._categories is None else ""
        self._write(f'{{"info": {_text({"description": self._description})},\n{categories}"annotations": [')
        return self

    def add(self, file_name: str, original_size: tuple[int, int], annotations: Iterable[Annotation]) -> None:
        """Write the masks of an image.

        Args:
            file_name: the image's file name, for readers of the file.
            original_size: (H, W).
            annotations: the image's objects.

        Raises:
            OSError: they cannot be written; the file then holds nothing of this image.
        """
        height, width = original_size
        image_id = len(self._images) + 1
        lines = []
        for number, annotation in enumerate(annotations, start=self._count + 1):
            fields: dict[str, object] = {
                "id": number,
                "image_id": image_id,
                "category_id": annotation.category_id,
                "segmentation": annotation.rle.to_compressed() if annotation.polygons is None else annotation.polygons,
                "area": annotation.rle.area,
                "bbox": list(annotation.rle.bbox),
                "iscrowd": 0,
            }
            score = {} if annotation.score is None else {"score": annotation.score}
            lines.append(f"{',' if number > 1 else ''}\n{_text({**fields, **score, **annotation.more})}")
        self._write("".join(lines))
        self._count += len(lines)
        self._images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})

    def discard(self) -> None:
        """Discard everything that was or will be added; an older file of that name stays unchanged."""
        self._is_discarded = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None  # entered
        with self._stream:
            if self._is_discarded:
                self._part.unlink()
                return
            images = ",\n".join(_text(image) for image in self._images)
            late = ",\n".join(_text(category) for category in self._categories or ())
            categories = f',\n"categories": [\n{late}]' if self._categories is not None else ""
            self._write(f'],\n"images": [\n{images}]{categories}}}\n')
        if self._images:
            self._part.replace(self._path)
        else:
            self._part.unlink()

    def _write(self, text: str) -> None:
        """Write all of a text, or nothing."""
        assert self._stream is not None  # entered
        left = memoryview(text.encode("utf-8"))
        size = len(left)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except BaseException:
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
            raise
        self._end += size


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
