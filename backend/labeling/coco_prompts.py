"""Prompts from a COCO file: the boxes of its annotations, for the tasks that show its images.

Images are matched by their file name, see `backend.labeling.file_names`. Where both sides have folders, the folders of
one must be the last ones of the other, or `val/0001.jpg` would get the boxes of `train/0001.jpg`.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from backend.errors import BackendError, PromptError, Reason
from backend.labeling import coco_file, config, file_names, task_images
from backend.labeling.coco_file import CocoBox, CocoBoxes, CocoImage
from backend.labeling.config_types import LabelConfig
from backend.labeling.file_names import NamePath
from backend.labeling.output_choice import Outputs
from backend.labeling.task_prompts import TaskPrompts
from backend.logs import without_credentials
from backend.shapes import OUTPUT_KINDS, Rectangle, ShapeKind
from backend.types import PromptRegion, Skipped, Task

_ByName = Mapping[str, Sequence[tuple[NamePath, CocoImage]]]


class CocoPrompts:
    """Finds the images of a COCO ``file`` by their names; safe from many threads."""

    def __init__(self, file: CocoBoxes) -> None:
        named = [(path, image) for image in file.images for path in image.paths]
        original_names = [
            (path, image)
            for uploaded, image in named
            if file_names.begins_like_an_upload(uploaded)
            if (path := file_names.before_upload(uploaded))
        ]
        self.file = file
        self._by_name, self._by_uploaded_name = _by_name(named), _by_name(original_names)
        self._without_task = {image for image in file.images if image.boxes}
        self._read: set[int | None] = set()
        self._lock = threading.Lock()

    @property
    def images_without_task(self) -> tuple[str, ...]:
        """The names of the images with boxes that no task has shown so far."""
        with self._lock:
            return tuple(sorted(image.name for image in self._without_task))

    def were_read(self, task_ids: Iterable[int | None]) -> bool:
        """Whether `prompts` was called for all of these tasks."""
        with self._lock:
            return self._read.issuperset(task_ids)

    @property
    def crowds(self) -> int:
        """Number of boxes around many objects (``iscrowd``) on the images that tasks have shown so far."""
        with self._lock:
            left = self._without_task
            return sum(box.is_crowd for image in self.file.images if image not in left for box in image.boxes)

    def prompts(self, task: Task, controls: LabelConfig, outputs: Sequence[ShapeKind] = OUTPUT_KINDS) -> TaskPrompts:
        """Return the boxes of a task's images, labelled with their categories.

        Boxes whose category is none of the config's labels, in any case, are left out, unless it offers no labels.
        """
        with self._lock:
            self._read.add(task.id)
        regions: list[PromptRegion] = []
        skipped: list[Skipped] = []
        for to_name, item_index in task_images.image_keys(controls, task):
            try:
                on_image = config.on_image(controls, to_name)
                image = self._image(task_images.image_ref(on_image.images[0], task, None, item_index).uri)
                choice = Outputs(on_image, outputs) if image.boxes else None
            except BackendError as error:
                skipped.append(Skipped("", error.reason, str(error)))
                continue
            for box in image.boxes:
                assert choice is not None  # there are boxes
                try:
                    shape, labels = _rectangle(box, image), _labels(box, on_image, choice)
                except PromptError as error:
                    skipped.append(Skipped(box.name, error.reason, str(error)))
                    continue
                name = box.name if item_index is None else f"{item_index}:{box.name}"
                region = PromptRegion(name, shape, "", to_name, labels, original_size=image.size, item_index=item_index)
                regions.append(region)
        return TaskPrompts(tuple(regions), tuple(skipped))

    def _image(self, uri: str) -> CocoImage:
        """Return the image that an address names; `PromptError` if none is named like it, or several are."""
        shown = without_credentials(uri)[:200]
        in_other_folders: list[CocoImage] = []
        for path, images in self._named_like(uri):
            candidates: dict[CocoImage, tuple[bool, int, bool]] = {}
            for other, image in images:
                if file_names.may_be_one(path, other):
                    fit = (*file_names.fit(path, other), other == image.paths[0])
                    candidates[image] = max(fit, candidates.get(image, fit))
                else:
                    in_other_folders.append(image)
            if not candidates:
                continue
            best = [image for image, fit in candidates.items() if fit == max(candidates.values())]
            if len(best) > 1:
                names = ", ".join(image.name for image in best[:3])
                raise PromptError(f"{shown} may be any of {names}", Reason.AMBIGUOUS_FILE_NAME)
            with self._lock:
                self._without_task.discard(best[0])
            return best[0]
        folders = f" there; {in_other_folders[0].name} lies in other folders" if in_other_folders else ""
        raise PromptError(f"no image of the COCO file is named like {shown}{folders}", Reason.NOT_IN_COCO_FILE)

    def _named_like(self, uri: str) -> Iterator[tuple[NamePath, Sequence[tuple[NamePath, CocoImage]]]]:
        """Yield the paths that an address may mean with the images of that name, the likelier ones first.

        A file that Label Studio has exported holds the names that uploads got in that project; in another project the
        same files have other names.
        """
        paths = list(file_names.of_address(uri))
        for path in paths:
            yield path, self._by_name.get(file_names.plain(path[-1]), ())
        for path in paths:
            if file_names.is_upload(uri) or path == paths[0]:
                yield path, self._by_uploaded_name.get(file_names.plain(path[-1]), ())


def read(path: Path) -> CocoPrompts:
    """Return the prompts of a COCO file of object detection; `backend.labeling.coco_file.CocoError` if it is none."""
    return CocoPrompts(coco_file.read(path))


def _by_name(named: Iterable[tuple[NamePath, CocoImage]]) -> _ByName:
    images_by_name: dict[str, dict[tuple[NamePath, CocoImage], None]] = defaultdict(dict)
    for path, image in named:
        for name in file_names.spellings(path[-1]):
            images_by_name[name][path, image] = None
    return {name: tuple(images) for name, images in images_by_name.items()}


def _rectangle(box: CocoBox, image: CocoImage) -> Rectangle:
    """Return a box in percent; `PromptError` if it is not one of one object, or the image's size is unknown."""
    if box.is_crowd:
        raise PromptError("a box around many objects", Reason.NOT_A_PROMPT)
    numbers = box.bbox
    if not isinstance(numbers, list) or not box.has_numbers or box.trouble:
        trouble = f"; {box.trouble}" if box.trouble else ""
        text = f"bbox: expected x, y, width and height, got {str(box.bbox)[:60]}{trouble}"
        raise PromptError(text, Reason.BAD_GEOMETRY)
    if image.size is None:
        raise PromptError("image: expected width and height, got none", Reason.BAD_GEOMETRY)
    height, width = image.size
    x, y, box_width, box_height = numbers
    return Rectangle(100 * x / width, 100 * y / height, 100 * box_width / width, 100 * box_height / height)


def _labels(box: CocoBox, controls: LabelConfig, outputs: Outputs) -> tuple[str, ...]:
    """Return a box's label as the config spells it, empty where it has none; `PromptError` for another category."""
    labels = outputs.choose((box.category,) if box.category else ()).labels
    if not labels and any(tag.labels or tag.labels_vary for tag in controls.output_label_tags):
        category = f"category {box.category!r}" if box.category else "a category without a name in the file"
        raise PromptError(f"{category} is no label of the labeling config", Reason.UNKNOWN_LABEL)
    return labels
