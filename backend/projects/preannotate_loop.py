"""Makes masks for a project's tasks from the prompts that they hold; a run can be stopped, killed and resumed.

Tasks are processed independently, in threads: each one's predictions and prompts are read, and its masks are made. One
thread delivers the predictions in chunks: to Label Studio, or as pictures into a folder. A task that already holds a
prediction of this model is skipped, unless predictions are replaced; then an identical one is kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import msgspec

from backend.concurrency.batcher import Batcher
from backend.concurrency.parallel_map import parallel_map
from backend.errors import Kind
from backend.label_studio.prediction_writer import own
from backend.label_studio.task_reads import TaskReads
from backend.label_studio.types import NewPrediction, StoredPrediction
from backend.projects.engine import Engine
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, attempt, failures_about, recording_end
from backend.projects.run import BatchRun
from backend.protocol import messages
from backend.types import Prediction, Task

MADE, THERE, SAME, NOTHING, GONE = "made", "there already", "unchanged", "nothing marked", "deleted meanwhile"


@dataclass(frozen=True)
class PendingPrediction:
    """A task and the prediction that was made for it."""

    task: Task  # the task, with its predictions and, if needed, annotations
    prediction: Prediction  # the prediction, with at least one region
    new: NewPrediction
    replaced: frozenset[int]  # ids of the predictions that it replaces
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class TaskOutcome:
    """The outcome of a task; ``kind`` is empty if it failed."""

    kind: str = ""
    failures: tuple[Failure, ...] = ()


Sink: TypeAlias = Callable[[Sequence[PendingPrediction]], Sequence[TaskOutcome]]
"""Delivers predictions of different tasks, and returns the outcome of each."""


@dataclass(frozen=True)
class PreannotateContext:
    """What a run needs."""

    batch: BatchRun
    engine: Engine
    # makes the prediction of a task from its prompts, or from other sources; raises `RetryLater` to be called again
    segment: Callable[[Task], Prediction]
    needs_annotations: bool
    model_version: str
    replaces: bool = False  # whether existing predictions of this model are made again
    ignores_stored: bool = False  # whether to make predictions as if none were stored; nothing is stored then


def run(context: PreannotateContext, sink: Sink, progress: Progress) -> RunReport:
    """Make the predictions of a run's tasks in order, deliver them, and return a report.

    Once the run is stopped, no more tasks are started; predictions that are made are delivered.
    """
    batch, engine, stop = context.batch, context.engine, context.batch.stop
    report, read = RunReport((MADE, THERE, SAME, NOTHING, GONE)), TaskReads(batch.retry)

    def work(task: Task) -> PendingPrediction | TaskOutcome | None:
        outcome = attempt(task.id, partial(_process, context, read, task))
        return TaskOutcome(failures=(outcome,)) if isinstance(outcome, Failure) else outcome

    def record(outcomes: Iterable[TaskOutcome]) -> None:
        for outcome in outcomes:
            if outcome.kind:
                report.add(outcome.kind)
            report.failures += outcome.failures
            progress.advance()

    with Batcher(sink, lambda pending: len(bytes(pending.new.result))) as chunks:
        with recording_end(report, stop):
            for outcome in parallel_map(batch.tasks, work, engine.at_once, stop, engine.close):
                if isinstance(outcome, PendingPrediction):
                    chunks.add(outcome)
                elif outcome is not None:
                    record([outcome])
                record(chunks.poll())
        with recording_end(report, stop):
            record(chunks.flush())
    return report


def _process(context: PreannotateContext, read: TaskReads, task: Task) -> PendingPrediction | TaskOutcome:
    task_id, client = task.id, context.batch.client
    assert task_id is not None
    if (predictions := read(partial(client.predictions, task_id))) is None:
        return TaskOutcome(GONE)
    stored = () if context.ignores_stored else own(predictions.stored, context.model_version)
    if stored and not stored[-1].is_empty and not context.replaces:
        return TaskOutcome(THERE)
    complete = replace(task, predictions=predictions.raw)
    if context.needs_annotations:
        if (annotations := read(partial(client.annotations, task_id))) is None:
            return TaskOutcome(GONE)
        complete = replace(complete, annotations=annotations)
    return _predict(context, task_id, complete, stored)


def _predict(
    context: PreannotateContext, task_id: int, task: Task, stored: Sequence[StoredPrediction]
) -> PendingPrediction | TaskOutcome:
    retry = context.batch.retry
    retry.raise_if_stopped()
    prediction = retry.call_for_image(partial(context.segment, task), context.batch.client.version)
    failures = failures_of(task, prediction)
    if not prediction.is_complete:  # the next run would skip a task with a stored prediction
        return TaskOutcome(failures=failures)
    if not prediction.result:
        return TaskOutcome("" if failures else NOTHING, failures)
    result = msgspec.Raw(messages.dump_result(prediction))
    if len(stored) == 1 and msgspec.json.decode(stored[0].result) == msgspec.json.decode(result):
        return TaskOutcome(SAME, failures)
    new = NewPrediction(task_id, result, prediction.score, context.model_version)
    return PendingPrediction(task, prediction, new, frozenset(old.id for old in stored), failures)


def failures_of(task: Task, prediction: Prediction) -> tuple[Failure, ...]:
    """Return one failure for each reason, with its count, details and region ids."""
    failed = (skipped for skipped in prediction.skipped if skipped.reason.kind is not Kind.HARMLESS)
    return failures_about(task.id, failed)
