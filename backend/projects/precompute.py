"""The embeddings of a project's images, made before anybody opens a task: a run that can be stopped and taken up again.

What is in the store already is passed over, so a second run only does what is left of the first.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

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


@dataclass(frozen=True)
class Room:
    """How much the store can hold; more would push out what was made first, which is wanted most.

    Attributes:
        embeddings: of this model.
        remedy: how to have more.
    """

    embeddings: int
    remedy: str


@dataclass(frozen=True)
class PrecomputeContext:
    """What a run works with.

    Attributes:
        ensure: has the embedding of an image in the store, and returns whether it was made for that.
        look: asks Label Studio for something small, to see whether it is there.
        patience: waits while something is away.
        at_once: how many tasks are in hand at a time.
        room: how much the store can hold; None where it has no limit.
        cancel_waits: is called once the run is to stop, so that whoever waits for others' work leaves.
    """

    ensure: Callable[[ImageRef], bool]
    look: Callable[[], object]
    patience: OutageRetry
    at_once: int
    room: Room | None = None
    cancel_waits: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Outcome:
    """What became of a task; ``missing`` are those of its images that are not in the store."""

    missing: frozenset[ImageRef] = frozenset()
    encoded: int = 0
    cached: int = 0
    failures: tuple[Failure, ...] = ()
    is_left: bool = False


def run(
    tasks: Iterable[Task],
    project_id: int,
    controls: LabelConfig,
    means: PrecomputeContext,
    stop: threading.Event,
    progress: Progress,
) -> RunReport:
    """Have the embeddings of all images of these tasks in the store; return what became of them, counted in images.

    Args:
        tasks: in the order in which their embeddings are wanted.
        project_id: whose they are.
        controls: the project's labeling config.
        means: what to work with.
        stop: once it is set, no more tasks are begun.
        progress: is told of every task that is done.
    """
    tally = RunReport((ENCODED, CACHED))
    kept: set[bytes] = set()  # names of images that are in the store, or in hand

    def while_there_is_room() -> Iterator[tuple[Task, tuple[ImageRef, ...]]]:
        for task in tasks:
            try:
                refs = task_images.image_refs(controls, task, project_id)
            except BackendError as error:
                tally.failures.append(Failure.of(task.id, error))
                progress.advance()
                continue
            more = {_name(ref) for ref in refs} - kept
            if means.room is not None and len(kept) + len(more) > means.room.embeddings:
                tally.ended = f"the cache holds {means.room.embeddings} embeddings of this model; {means.room.remedy}"
                return
            kept.update(more)
            yield task, refs

    def work(item: tuple[Task, tuple[ImageRef, ...]]) -> _Outcome:
        task, refs = item
        return _task(task, refs, means)

    with recording_end(tally, stop):
        for outcome in parallel_map(while_there_is_room(), work, means.at_once, stop, means.cancel_waits):
            kept.difference_update(map(_name, outcome.missing))
            tally.add(ENCODED, outcome.encoded)
            tally.add(CACHED, outcome.cached)
            tally.failures += outcome.failures
            if not outcome.is_left:
                progress.advance()
    return tally


def _task(task: Task, refs: Sequence[ImageRef], means: PrecomputeContext) -> _Outcome:
    encoded, cached = 0, 0
    failures: list[Failure] = []
    missing = set(refs)
    if not refs:
        failures.append(Failure(task.id, Reason.NO_IMAGE_IN_TASK, "its data holds no address of an image"))
    for ref in refs:
        try:
            made = means.patience.call_for_image(partial(means.ensure, ref), means.look)
        except Stopped:
            return _Outcome(frozenset(missing), encoded, cached, tuple(failures), is_left=True)
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


def _name(ref: ImageRef) -> bytes:
    """Return what tells images apart, short also where the address holds the image itself."""
    return hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass")).digest()
