"""Exports the masks of a project's annotations to one COCO file, written as tasks are read; a run can be stopped.

The file appears when the run is complete; a run that ends early leaves an older file unchanged.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from backend.concurrency.parallel_map import parallel_map
from backend.concurrency.retry import OutageRetry
from backend.label_studio.http import RefusedError
from backend.label_studio.task_reads import TaskReads
from backend.labeling.config_types import LabelConfig
from backend.projects import annotation_masks
from backend.projects.annotation_masks import ImageMasks, TaskMasks
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, attempt, failures_about, recording_end
from backend.types import Task
from model.coco.writer import Annotation, CocoFile, part_of

TASKS, IMAGES, MASKS, GONE = "tasks", "images", "masks", "deleted meanwhile"
NAMED_TWICE = "images whose file_name is another's too"
AT_ONCE = 4

LOOKED_AT_BYTES = 4096
_COCO = (b'"info"', b'"images"', b'"annotations"', b'"categories"')  # keys, one of which is at the start of a COCO file


@dataclass(frozen=True)
class ExportContext:
    """What a run needs."""

    annotations: Callable[[int], msgspec.Raw]
    controls: LabelConfig
    retry: OutageRetry
    as_polygons: bool = False  # whether masks are written as polygons instead of run lengths


@dataclass(frozen=True)
class _Outcome:
    number: int
    masks: TaskMasks | None = None
    failures: tuple[Failure, ...] = ()
    kind: str = ""


def check_out(path: Path) -> None:
    """Check that a COCO file may be written to a path.

    Raises:
        ValueError: there is a file of another kind, such as a picture.
        OSError: an existing file cannot be read.
    """
    for existing in (path, part_of(path)):
        if existing.exists() and not existing.is_dir():
            with existing.open("rb") as file:
                start = file.read(LOOKED_AT_BYTES)
            if start and not any(key in start for key in _COCO):
                raise ValueError(
                    f"{path}: expected another file to write to (--out), got one where {existing.name} is lost"
                )


def run(
    tasks: Iterable[Task],
    context: ExportContext,
    out: Path,
    description: str,
    stop: threading.Event,
    progress: Progress,
) -> RunReport:
    """Write the masks of these tasks into a file, and return a report; the file is not written if ``stop`` is set.

    Raises:
        OSError: the file cannot be written.
    """
    report = RunReport((TASKS, IMAGES, MASKS))
    categories = _Categories(annotation_masks.labels_of(context.controls))
    with CocoFile(out, description, categories.rows) as file:
        writer = _Writer(file, categories, report)
        try:
            with recording_end(report, stop):
                for outcome in parallel_map(enumerate(tasks), _Work(context), AT_ONCE, stop):
                    writer.add(outcome)
                    progress.advance()
        except BaseException:
            file.discard()
            raise
        if not report.ended and not report.counts[IMAGES]:
            report.ended = "no annotation holds a region"
        if report.ended:
            report.ended += f"; {out} was not written"
            file.discard()
    return report


class _Categories:
    """The file's categories: the labels of the config in their order, then other labels as they occur."""

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
    """Writes the outcomes of tasks in the order of the tasks, whatever the order in which they finish."""

    def __init__(self, file: CocoFile, categories: _Categories, report: RunReport) -> None:
        self._file, self._categories, self._report = file, categories, report
        self._waiting: dict[int, _Outcome] = {}
        self._next = 0
        self._uris: dict[str, str] = {}

    def add(self, outcome: _Outcome) -> None:
        """Write a task's masks, once those of all tasks before it are written.

        Raises:
            OSError: they cannot be written.
        """
        self._waiting[outcome.number] = outcome
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            self._report.failures += ready.failures
            if ready.kind:
                self._report.add(ready.kind)
            if ready.masks is not None:
                self._write(ready.masks)

    def _write(self, masks: TaskMasks) -> None:
        self._report.add(TASKS)
        for kind, count in masks.counts.items():
            self._report.add(kind, count)
        for image in masks.images:
            annotations = self._annotations(image)
            self._file.add(image.file_name, image.size, annotations)
            self._report.add(IMAGES)
            self._report.add(MASKS, len(annotations))
            if self._uris.setdefault(image.file_name, image.ref.uri) != image.ref.uri:
                self._report.add(NAMED_TWICE)

    def _annotations(self, image: ImageMasks) -> list[Annotation]:
        return [
            Annotation(mask.rle, category_id=self._categories.id_of(label), polygons=mask.polygons)
            for mask in image.masks
            for label in dict.fromkeys(mask.labels)
        ]


class _Work:
    """Processes one task."""

    def __init__(self, context: ExportContext) -> None:
        self._context, self._read = context, TaskReads(context.retry)

    def __call__(self, item: tuple[int, Task]) -> _Outcome:
        number, task = item
        outcome = attempt(task.id, partial(self._process, number, task))
        return _Outcome(number, failures=(outcome,)) if isinstance(outcome, Failure) else outcome or _Outcome(number)

    def _process(self, number: int, task: Task) -> _Outcome:
        context = self._context
        assert task.id is not None  # it was listed
        try:
            annotations = self._read(partial(context.annotations, task.id))
        except RefusedError as error:
            if not error.is_gone:
                raise
            return _Outcome(number, kind=GONE)
        masks = annotation_masks.read(task, annotations, context.controls, as_polygons=context.as_polygons)
        return _Outcome(number, masks, failures_about(task.id, masks.skipped))
