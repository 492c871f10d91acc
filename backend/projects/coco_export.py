"""The masks of a project's annotations as one COCO file, written as tasks are read: a run that can be stopped.

The file is there when the run is through, and then it is whole: a run that ends before leaves an older one as it is.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from backend.concurrency.parallel_map import parallel_map
from backend.concurrency.retry import OutageError, OutageRetry, Stopped
from backend.errors import BackendError, Reason
from backend.label_studio.http import RefusedError
from backend.label_studio.task_reads import TaskReads
from backend.labeling.config_types import LabelConfig
from backend.projects import annotation_masks
from backend.projects.annotation_masks import ImageMasks, TaskMasks
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, failures_about, recording_end
from backend.types import Task
from model.coco.writer import Annotation, CocoFile, part_of

logger = logging.getLogger(__name__)

TASKS, IMAGES, MASKS, GONE = "tasks", "images", "masks", "deleted meanwhile"
NAMED_TWICE = "images whose file_name is another's too"
AT_ONCE = 4

LOOKED_AT_BYTES = 4096
_COCO = (b'"info"', b'"images"', b'"annotations"', b'"categories"')
"""What a COCO file begins with."""


@dataclass(frozen=True)
class Means:
    """What a run works with.

    Attributes:
        annotations: returns a task's annotations.
        controls: the project's labeling config.
        patience: waits while Label Studio is away.
        as_polygons: whether masks are written as polygons instead of run lengths.
    """

    annotations: Callable[[int], msgspec.Raw]
    controls: LabelConfig
    patience: OutageRetry
    as_polygons: bool = False


@dataclass(frozen=True)
class _Outcome:
    number: int
    found: TaskMasks | None = None
    failures: tuple[Failure, ...] = ()
    kind: str = ""


def check_out(path: Path) -> None:
    """Return if a COCO file may be written to a path.

    Raises:
        ValueError: there is a file of another kind, such as a picture.
        OSError: what is there cannot be read.
    """
    for one in (path, part_of(path)):
        if one.exists() and not one.is_dir():
            with one.open("rb") as file:
                begins = file.read(LOOKED_AT_BYTES)
            if begins and not any(word in begins for word in _COCO):
                raise ValueError(f"{path}: expected another file to write to (--out), got one where {one.name} is lost")


def run(
    tasks: Iterable[Task], means: Means, out: Path, description: str, stop: threading.Event, progress: Progress
) -> RunReport:
    """Write the masks of these tasks; return what became of them.

    Args:
        tasks: in the order in which their images are to stand in the file.
        means: what to work with.
        out: the file.
        description: what it is to say of itself.
        stop: once it is set, no more tasks are begun, and the file is not written.
        progress: is told of every task that is done.

    Raises:
        OSError: the file cannot be written.
    """
    tally = RunReport((TASKS, IMAGES, MASKS))
    categories = _Categories(annotation_masks.labels_of(means.controls))
    with CocoFile(out, description, categories.rows) as file:
        writer = _Writer(file, categories, tally)
        try:
            with recording_end(tally, stop):
                for outcome in parallel_map(enumerate(tasks), _Work(means), AT_ONCE, stop):
                    writer.take(outcome)
                    progress.advance()
        except BaseException:
            file.discard()
            raise
        if not tally.ended and not tally.counts[IMAGES]:
            tally.ended = "no annotation holds a region"
        if tally.ended:
            tally.ended += f"; {out} was not written"
            file.discard()
    return tally


class _Categories:
    """The file's categories: the labels of the config in their order, then those that come up besides."""

    def __init__(self, labels: Iterable[str]) -> None:
        self.rows: list[Mapping[str, object]] = []
        self._ids: dict[str, int] = {}
        for label in labels:
            self.id_of(label)

    def id_of(self, label: str) -> int:
        if label not in self._ids:
            self._ids[label] = len(self._ids) + 1
            self.rows.append({"id": self._ids[label], "name": label, "supercategory": ""})
        return self._ids[label]


class _Writer:
    """Writes what is made of tasks in their order, in whichever it is done."""

    def __init__(self, file: CocoFile, categories: _Categories, tally: RunReport) -> None:
        self._file, self._categories, self._tally = file, categories, tally
        self._waiting: dict[int, _Outcome] = {}
        self._next = 0
        self._uris: dict[str, str] = {}

    def take(self, outcome: _Outcome) -> None:
        """Write a task's masks, when it is its turn.

        Raises:
            OSError: they cannot be written.
        """
        self._waiting[outcome.number] = outcome
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            self._tally.failures += ready.failures
            if ready.kind:
                self._tally.add(ready.kind)
            if ready.found is not None:
                self._write(ready.found)

    def _write(self, found: TaskMasks) -> None:
        self._tally.add(TASKS)
        for kind, count in found.counts.items():
            self._tally.add(kind, count)
        for image in found.images:
            annotations = self._annotations(image)
            self._file.add(image.file_name, image.size, annotations)
            self._tally.add(IMAGES)
            self._tally.add(MASKS, len(annotations))
            if self._uris.setdefault(image.file_name, image.uri) != image.uri:
                self._tally.add(NAMED_TWICE)

    def _annotations(self, image: ImageMasks) -> list[Annotation]:
        return [
            Annotation(one.rle, category_id=self._categories.id_of(label), polygons=one.polygons)
            for one in image.masks
            for label in dict.fromkeys(one.labels)
        ]


class _Work:
    """What is done about one task; whatever happens to it, the others are left alone."""

    def __init__(self, means: Means) -> None:
        self._means, self._read = means, TaskReads(means.patience)

    def __call__(self, item: tuple[int, Task]) -> _Outcome:
        number, task = item
        try:
            return self._done(number, task)
        except Stopped:
            return _Outcome(number)
        except OutageError:
            raise
        except BackendError as error:
            if isinstance(error, RefusedError) and error.is_gone:
                return _Outcome(number, kind=GONE)
            return _Outcome(number, failures=(Failure.of(task.id, error),))
        except Exception as error:
            logger.exception("event=defect task=%s", task.id)
            text = f"{type(error).__name__}: {error}"
            return _Outcome(number, failures=(Failure(task.id, Reason.INTERNAL_ERROR, text),))

    def _done(self, number: int, task: Task) -> _Outcome:
        means = self._means
        assert task.id is not None  # it was listed
        annotations = self._read(partial(means.annotations, task.id))
        found = annotation_masks.read(task, annotations, means.controls, as_polygons=means.as_polygons)
        return _Outcome(number, found, failures_about(task.id, found.skipped))
