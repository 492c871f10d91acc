"""Makes the embeddings of a project's images before annotators open its tasks; a run can be stopped and resumed.

Images whose embeddings are in the store are skipped, so a second run only does the rest of the first.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from backend.concurrency.parallel_map import parallel_map
from backend.concurrency.retry import OutageError, OutageRetry, Stopped
from backend.errors import BackendError, Reason
from backend.labeling import task_images
from backend.labeling.config_types import LabelConfig
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, recording_end
from backend.types import ImageRef, Task

logger = logging.getLogger(__name__)

ENCODED, CACHED = "encoded", "cached"

_TaskImages: TypeAlias = tuple[Task, tuple[ImageRef, ...]]


@dataclass(frozen=True)
class Room:
    """The store's capacity; further embeddings would evict those of the first tasks, which are needed first.

    Attributes:
        embeddings: maximum number of embeddings of this model.
        remedy: how to increase it.
    """

    embeddings: int
    remedy: str


@dataclass(frozen=True)
class PrecomputeContext:
    """What a run needs.

    Attributes:
        ensure: makes sure that the embedding of an image is in the store, and returns whether it had to be made.
        look: sends a small request to Label Studio, to check that it is available.
        retry: retries calls during an outage.
        at_once: how many tasks to process at a time.
        room: the store's capacity; None if it has no limit.
        cancel_waits: is called when the run is stopped, to end waits for work of other processes.
    """

    ensure: Callable[[ImageRef], bool]
    look: Callable[[], object]
    retry: OutageRetry
    at_once: int
    room: Room | None = None
    cancel_waits: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Outcome:
    """The outcome of a task; ``missing`` are its images whose embeddings are not in the store."""

    missing: frozenset[ImageRef] = frozenset()
    encoded: int = 0
    cached: int = 0
    failures: tuple[Failure, ...] = ()
    is_stopped: bool = False


def run(
    tasks: Iterable[Task],
    project_id: int,
    controls: LabelConfig,
    context: PrecomputeContext,
    stop: threading.Event,
    progress: Progress,
) -> RunReport:
    """Make the embeddings of all images of these tasks that are not in the store; return a report, counted in images.

    Args:
        tasks: in the order in which they are processed.
        project_id: the tasks' project.
        controls: the project's labeling config.
        context: what the run needs.
        stop: once it is set, no more tasks are started.
        progress: is advanced for every finished task.
    """
    report = RunReport((ENCODED, CACHED))
    kept: set[bytes] = set()  # digests of images that are in the store or being processed

    def with_images() -> Iterator[_TaskImages]:
        for task in tasks:
            try:
                yield task, task_images.image_refs(controls, task, project_id)
            except BackendError as error:
                report.failures.append(Failure.of(task.id, error))
                progress.advance()

    items = _while_room_lasts(with_images(), context.room, kept, report)
    with recording_end(report, stop):
        for outcome in parallel_map(
            items, lambda item: _process(*item, context), context.at_once, stop, context.cancel_waits
        ):
            kept.difference_update(map(_digest, outcome.missing))
            report.add(ENCODED, outcome.encoded)
            report.add(CACHED, outcome.cached)
            report.failures += outcome.failures
            if not outcome.is_stopped:
                progress.advance()
    return report


def _while_room_lasts(
    items: Iterable[_TaskImages], room: Room | None, kept: set[bytes], report: RunReport
) -> Iterator[_TaskImages]:
    """Yield tasks and add their images to ``kept``; end the run before there are more than the store has room for."""
    for task, refs in items:
        more = {_digest(ref) for ref in refs} - kept
        if room is not None and len(kept) + len(more) > room.embeddings:
            report.ended = f"the cache holds {room.embeddings} embeddings of this model; {room.remedy}"
            return
        kept.update(more)
        yield task, refs


def _process(task: Task, refs: Sequence[ImageRef], context: PrecomputeContext) -> _Outcome:
    encoded, cached = 0, 0
    failures: list[Failure] = []
    missing = set(refs)
    if not refs:
        failures.append(Failure(task.id, Reason.NO_IMAGE_IN_TASK, "its data holds no address of an image"))
    for ref in refs:
        try:
            made = context.retry.call_for_image(partial(context.ensure, ref), context.look)
        except Stopped:
            return _Outcome(frozenset(missing), encoded, cached, tuple(failures), is_stopped=True)
        except OutageError:
            raise
        except BackendError as error:
            failures.append(Failure.of(task.id, error))
        except Exception as error:  # a defect over one image leaves the others alone
            logger.exception("event=defect task=%s", task.id)
            failures.append(Failure(task.id, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"))
        else:
            encoded, cached = encoded + made, cached + (not made)
            missing.discard(ref)
    return _Outcome(frozenset(missing), encoded, cached, tuple(failures))


def _digest(ref: ImageRef) -> bytes:
    """Return a digest that identifies an image, short even if the address is a data URI."""
    return hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass")).digest()
