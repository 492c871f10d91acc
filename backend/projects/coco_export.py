"""Exports the masks of a project's annotations to one COCO file, written as tasks are read; a run can be stopped.

The file appears when the run is complete; a run that ends early leaves an older file unchanged.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from backend.concurrency.parallel_map import parallel_map
from backend.label_studio.task_reads import TaskReads
from backend.projects import annotation_masks
from backend.projects.annotation_masks import ImageMasks, TaskMasks
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, attempt, failures_about, recording_end
from backend.projects.run import BatchRun
from backend.types import Task
from model.coco.writer import Annotation, CocoFile, part_of

TASKS, IMAGES, MASKS, GONE = "tasks", "images", "masks", "deleted meanwhile"
NAMED_TWICE = "images whose file_name is another's too"
AT_ONCE = 4

LOOKED_AT_BYTES = 4096
_COCO = (b'"info"', b'"images"', b'"annotations"', b'"categories"')  # keys, one of which is at the start of a COCO file


_Outcome: TypeAlias = TaskMasks | Failure | str | None  # a word for the report; None if the run was stopped


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
                lost = f"got one where {existing.name} is lost"
                raise ValueError(f"{path}: expected another file to write to (--out), {lost}")


def run(batch: BatchRun, out: Path, progress: Progress, *, as_polygons: bool) -> RunReport:
    """Write the masks of a project's tasks into a file, unless the run is stopped, and return a report."""
    report = RunReport((TASKS, IMAGES, MASKS))
    description = f"Masks of Label Studio project {batch.project.id} {batch.project.title!r}"
    categories, read = _Categories(annotation_masks.labels_of(batch.controls)), TaskReads(batch.retry)

    def work(item: tuple[int, Task]) -> tuple[int, int | None, _Outcome]:
        number, task = item
        return number, task.id, attempt(task.id, lambda: _masks(batch, read, task, as_polygons=as_polygons))

    with CocoFile(out, description, categories.rows) as file:
        writer = _Writer(file, categories, report)
        try:
            with recording_end(report, batch.stop):
                for result in parallel_map(enumerate(batch.tasks), work, AT_ONCE, batch.stop):
                    writer.add(*result)
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


def _masks(batch: BatchRun, read: TaskReads, task: Task, *, as_polygons: bool) -> TaskMasks | str:
    assert task.id is not None  # it was listed
    annotations = read(partial(batch.client.annotations, task.id))
    if annotations is None:
        return GONE
    return annotation_masks.read(task, annotations, batch.controls, as_polygons=as_polygons)


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
        self._waiting: dict[int, tuple[int | None, _Outcome]] = {}
        self._next = 0
        self._uris: dict[str, str] = {}

    def add(self, number: int, task_id: int | None, outcome: _Outcome) -> None:
        """Write the outcome of a task, once those of all tasks before it are written."""
        self._waiting[number] = task_id, outcome
        while self._next in self._waiting:
            task_id, outcome = self._waiting.pop(self._next)
            self._next += 1
            if isinstance(outcome, TaskMasks):
                self._report.failures += failures_about(task_id, outcome.skipped)
                self._write(outcome)
            elif isinstance(outcome, Failure):
                self._report.failures.append(outcome)
            elif outcome is not None:
                self._report.add(outcome)

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
