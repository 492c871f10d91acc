"""Masks for a project's tasks, from the prompts that these hold: a run that can be stopped, killed and taken up again.

Each task is done for itself, in threads: its predictions are looked at, its prompts read, its masks made. What is made
is delivered in chunks, by one thread: to Label Studio, or as pictures into a folder. A task that holds a prediction of
this model already is passed over, unless predictions are to be replaced; then one that is the same already is left.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from backend.concurrency.batcher import Batcher
from backend.concurrency.parallel_map import parallel_map
from backend.concurrency.retry import OutageError, OutageRetry, Stopped
from backend.errors import BackendError, Reason
from backend.label_studio.http import RefusedError
from backend.label_studio.prediction_writer import own
from backend.label_studio.task_reads import TaskReads
from backend.label_studio.types import NewPrediction, StoredPrediction, TaskPredictions
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, failures_about, recording_end
from backend.protocol import messages
from backend.types import Prediction, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

MADE, THERE, SAME, NOTHING, GONE = "made", "there already", "unchanged", "nothing marked", "deleted meanwhile"

NO_FAILURE = frozenset(
    (
        Reason.NO_CONTEXT,
        Reason.NO_PROMPT,
        Reason.NOT_A_PROMPT,
        Reason.ONLY_NEGATIVE_POINTS,
        Reason.EMPTY_MASK,
        Reason.NOT_IN_COCO_FILE,
    )
)
"""Why a task may have no masks although nothing went wrong."""


class Tasks(Protocol):
    """Knows what a task holds; see `backend.label_studio.client.LabelStudio`."""

    def annotations(self, task_id: int, /) -> msgspec.Raw:
        """Return a task's annotations."""
        ...

    def predictions(self, task_id: int, /) -> TaskPredictions:
        """Return a task's predictions."""
        ...

    def version(self) -> str:
        """Return something small."""
        ...


@dataclass(frozen=True)
class PendingPrediction:
    """A task and the prediction that was made for it.

    Attributes:
        task: the task, with what was read of it.
        prediction: shows something.
        new: the same, as it is stored.
        replaced: ids of the predictions whose place it takes.
        failures: what could not be made.
    """

    task: Task
    prediction: Prediction
    new: NewPrediction
    replaced: frozenset[int]
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class TaskOutcome:
    """What became of a task in the end; ``kind`` is empty where it failed."""

    kind: str = ""
    failures: tuple[Failure, ...] = ()


class Sink(Protocol):
    """Where predictions go."""

    def __call__(self, chunk: Sequence[PendingPrediction], /) -> Sequence[TaskOutcome]:
        """Deliver predictions of different tasks, and return what became of each."""
        ...


@dataclass(frozen=True)
class PreannotateContext:
    """What a run works with.

    Attributes:
        tasks: Label Studio.
        segment: makes the prediction of a task from what it holds, or from whatever else it knows; raises `RetryLater`
            to be called again.
        needs_annotations: whether ``segment`` looks at a task's annotations.
        model_version: that predictions carry.
        patience: waits while something is away.
        at_once: how many tasks are in hand at a time.
        cancel_waits: is called once the run is to stop, so that whoever waits for others' work leaves.
        replaces: whether predictions of this model that are there already are made anew.
        ignores_stored: whether to make predictions as if there were none; nothing is stored then.
    """

    tasks: Tasks
    segment: Callable[[Task], Prediction]
    needs_annotations: bool
    model_version: str
    patience: OutageRetry
    at_once: int
    cancel_waits: Callable[[], None] = lambda: None
    replaces: bool = False
    ignores_stored: bool = False


def run(
    tasks: Iterable[Task], means: PreannotateContext, sink: Sink, stop: threading.Event, progress: Progress
) -> RunReport:
    """Make the predictions of these tasks and deliver them; return what became of them.

    Args:
        tasks: in the order in which their masks are wanted.
        means: what to work with.
        sink: where predictions go.
        stop: once it is set, no more tasks are begun; what is made is delivered.
        progress: is told of every task that is done.
    """
    tally = RunReport((MADE, THERE, SAME, NOTHING, GONE))

    def settle(settled: Iterable[TaskOutcome]) -> None:
        for one in settled:
            if one.kind:
                tally.add(one.kind)
            tally.failures += one.failures
            progress.advance()

    with Batcher(sink, lambda made: len(bytes(made.new.result))) as chunks:
        with recording_end(tally, stop):
            for outcome in parallel_map(tasks, _Work(means), means.at_once, stop, means.cancel_waits):
                if isinstance(outcome, PendingPrediction):
                    chunks.add(outcome)
                elif outcome is not None:
                    settle([outcome])
                settle(chunks.delivered())
        with recording_end(tally, stop):
            settle(chunks.finish())
    return tally


class _Work:
    """What is done about one task; whatever happens to it, the others are left alone."""

    def __init__(self, means: PreannotateContext) -> None:
        self._means = means
        self._read = TaskReads(means.patience)

    def __call__(self, task: Task) -> "PendingPrediction | TaskOutcome | None":
        """Return what was made of a task, or what became of it; None where the run ended over it."""
        try:
            return self._done(task)
        except Stopped:
            return None
        except OutageError:
            raise
        except BackendError as error:
            return TaskOutcome(failures=(Failure.of(task.id, error),))
        except Exception as error:
            logger.exception("event=defect task=%s", task.id)
            return TaskOutcome(failures=(Failure(task.id, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"),))

    def _done(self, task: Task) -> PendingPrediction | TaskOutcome:
        means, task_id = self._means, task.id
        assert task_id is not None
        try:
            found = self._read(partial(means.tasks.predictions, task_id))
            held = () if means.ignores_stored else own(found.stored, means.model_version)
            if held and not held[-1].is_empty and not means.replaces:
                return TaskOutcome(THERE)
            whole = replace(task, predictions=found.raw)
            if means.needs_annotations:
                whole = replace(whole, annotations=self._read(partial(means.tasks.annotations, task_id)))
        except RefusedError as error:
            if not error.is_gone:
                raise
            return TaskOutcome(GONE)
        return self._made(task_id, whole, held)

    def _made(self, task_id: int, task: Task, held: Sequence[StoredPrediction]) -> PendingPrediction | TaskOutcome:
        means = self._means
        means.patience.check()
        prediction = means.patience.call_for_image(partial(means.segment, task), means.tasks.version)
        failures = failures_of(task, prediction)
        if not prediction.is_complete:  # what is stored would hide from the next run that an image is missing
            return TaskOutcome(failures=failures)
        if not prediction.result:
            return TaskOutcome("" if failures else NOTHING, failures)
        result = msgspec.Raw(messages.dump_result(prediction))
        if len(held) == 1 and _is_same(held[0].result, result):
            return TaskOutcome(SAME, failures)
        new = NewPrediction(task_id, result, prediction.score, means.model_version)
        return PendingPrediction(task, prediction, new, frozenset(one.id for one in held), failures)


def failures_of(task: Task, prediction: Prediction) -> tuple[Failure, ...]:
    """Return one failure for each reason, with how often it was met, what was said and about which regions."""
    return failures_about(task.id, (one for one in prediction.skipped if one.reason not in NO_FAILURE))


def _is_same(stored: msgspec.Raw, made: msgspec.Raw) -> bool:
    return bool(msgspec.json.decode(stored) == msgspec.json.decode(made))
