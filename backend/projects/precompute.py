"""Makes the embeddings of a project's images before annotators open its tasks; a run can be stopped and resumed.

Images whose embeddings are in the store are skipped, so a second run only does the rest of the first.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial

from backend.concurrency.parallel_map import parallel_map
from backend.errors import Reason
from backend.labeling import task_images
from backend.projects.engine import Engine, Room
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, attempt, recording_end
from backend.projects.run import BatchRun
from backend.types import ImageRef, Task

ENCODED, CACHED = "encoded", "cached"


@dataclass(frozen=True)
class _Outcome:
    """The outcome of a task; ``missing`` are its images whose embeddings are not in the store."""

    missing: Set[ImageRef]
    counts: Counter[str]
    failures: Sequence[Failure] = ()
    is_stopped: bool = False


def run(batch: BatchRun, engine: Engine, progress: Progress) -> RunReport:
    """Make the embeddings of all images of a project's tasks that are not in the store; return a report of the images.

    Once the run is stopped, no more tasks are started.
    """
    report = RunReport((ENCODED, CACHED))
    images = _Images(
        batch.tasks, lambda task: task_images.image_refs(batch.controls, task, batch.project.id), engine.room
    )
    with recording_end(report, batch.stop):
        work = partial(_process, batch, engine)
        for outcome in parallel_map(images, work, engine.at_once, batch.stop, engine.close):
            images.release(outcome.missing)
            for kind, count in outcome.counts.items():
                report.add(kind, count)
            report.failures += outcome.failures
            if not outcome.is_stopped:
                progress.advance()
        report.ended = images.why_ended
    return report


class _Images:
    """The images of each task, as long as the store can hold the embeddings of all images so far."""

    def __init__(self, tasks: Iterable[Task], refs_of: Callable[[Task], Sequence[ImageRef]], room: Room | None) -> None:
        self._tasks, self._refs_of, self._room = tasks, refs_of, room
        self._kept: set[bytes] = set()  # digests of images that are in the store or being processed
        self.why_ended = ""

    def __iter__(self) -> Iterator[tuple[Task, Sequence[ImageRef] | Failure]]:
        for task in self._tasks:
            refs = attempt(task.id, partial(self._refs_of, task))
            assert refs is not None  # nothing in it waits
            if not isinstance(refs, Failure):
                more = {_digest(ref) for ref in refs} - self._kept
                if self._room is not None and len(self._kept) + len(more) > self._room.embeddings:
                    most, remedy = self._room.embeddings, self._room.remedy
                    self.why_ended = f"the cache holds {most} embeddings of this model; {remedy}"
                    return
                self._kept |= more
            yield task, refs

    def release(self, refs: Iterable[ImageRef]) -> None:
        """Have room for these images again."""
        self._kept.difference_update(map(_digest, refs))


def _process(batch: BatchRun, engine: Engine, item: tuple[Task, Sequence[ImageRef] | Failure]) -> _Outcome:
    task, refs = item
    if isinstance(refs, Failure):
        return _Outcome(frozenset(), Counter(), (refs,))
    missing, counts = set(refs), Counter[str]()
    failures: list[Failure] = []
    if not refs:
        failures.append(Failure(task.id, Reason.NO_IMAGE_IN_TASK, "its data holds no address of an image"))
    for ref in refs:
        ensure = partial(batch.retry.call_for_image, partial(engine.ensure, ref), batch.client.version)
        was_encoded = attempt(task.id, ensure)
        if was_encoded is None:
            return _Outcome(missing, counts, failures, is_stopped=True)
        if isinstance(was_encoded, Failure):
            failures.append(was_encoded)
        else:
            counts[ENCODED if was_encoded else CACHED] += 1
            missing.discard(ref)
    return _Outcome(missing, counts, failures)


def _digest(ref: ImageRef) -> bytes:
    return hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass")).digest()
