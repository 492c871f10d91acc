"""Stores predictions through Label Studio's API so that each task ends up with exactly one of this model's version.

Label Studio stores any number of predictions of a version, and has no request to store one only if there is none. So
the writer works like this:

- it reads a task's predictions before it stores one, and again before each retry, since the answer to a stored
  prediction may get lost;
- it stores a new prediction before it deletes the old one, so that the task has one at any time;
- two runs that store at the same time leave two predictions, and the next one to read them deletes all but one. All
  keep the same one: the last that is not empty. A prediction is deleted only if a better one was seen beside it, so the
  best one is never deleted, even by several writers at once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from backend.concurrency.retry import OutageRetry
from backend.errors import BackendError
from backend.label_studio import task_filters
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import REFUSALS, FaultError, RefusedError
from backend.label_studio.task_filters import Selection
from backend.label_studio.task_iterator import ProjectTasks
from backend.label_studio.types import NewPrediction, Project, StoredPrediction

MOST_FAULTS = 4  # how often Label Studio may fail (500) on a prediction before that prediction counts as refused


class WriteResult(Enum):
    """The outcome of storing a prediction."""

    STORED = "stored"
    ALREADY_STORED = "already stored"  # another run has stored one meanwhile, which is kept
    GONE = "gone"  # the task has been deleted


@dataclass(frozen=True)
class WriteRequest:
    """A prediction with regions to be stored, and the ids of those that it replaces, read before it was made."""

    new: NewPrediction
    replaced: frozenset[int] = field(default_factory=frozenset)

    @property
    def task_id(self) -> int:
        """The id of its task."""
        return self.new.task_id


@dataclass
class _Progress:
    """Progress of a chunk by task id: outcomes, tasks tried, and failures of Label Studio (0: of the whole request)."""

    outcomes: dict[int, WriteResult | BackendError] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    faults: Counter[int] = field(default_factory=Counter)


def own(stored: Iterable[StoredPrediction], model_version: str) -> tuple[StoredPrediction, ...]:
    """Return the predictions of a version, empty ones first and the one to keep last."""
    of_version = (prediction for prediction in stored if prediction.model_version == model_version)
    return tuple(sorted(of_version, key=lambda prediction: (not prediction.is_empty, prediction.id)))


class PredictionWriter:
    """Stores predictions of one project; several writers may run at once, in one process or many."""

    def __init__(self, label_studio: LabelStudio, retry: OutageRetry, project: Project) -> None:
        """Write predictions of ``project``; ``retry`` repeats calls while Label Studio cannot be reached."""
        self._label_studio, self._retry, self._project = label_studio, retry, project

    def write(self, chunk: Sequence[WriteRequest]) -> list[tuple[WriteRequest, WriteResult | BackendError]]:
        """Store predictions of different tasks in one request, and return the outcome of each, in order.

        A refusal that concerns one task is that task's outcome, also if its new prediction is stored and an old one
        cannot be deleted.

        Raises:
            Stopped: the run is being stopped while Label Studio cannot be reached; unstored predictions are lost.
            OutageError: Label Studio has been unreachable for too long.
            AccessError: Label Studio refuses the API key.
        """
        progress = _Progress()
        self._retry.call(lambda: self._attempt(chunk, progress))
        outcomes = progress.outcomes
        for request in chunk:
            if request.replaced and outcomes[request.task_id] in (WriteResult.STORED, WriteResult.ALREADY_STORED):
                try:
                    self._delete(sorted(request.replaced))
                except REFUSALS as error:
                    outcomes[request.task_id] = error
        return [(request, outcomes[request.task_id]) for request in chunk]

    def delete_duplicates(self, model_version: str) -> int:
        """Delete all but one of this version's predictions of every task; return how many were deleted.

        Two requests find out whether there are any duplicates. A refusal that concerns one task is raised after the
        other tasks are done.

        Raises:
            Stopped: the run is being stopped; the next call finds the remaining duplicates.
            BackendError: Label Studio refuses, or has been unreachable for too long.
        """
        counts = self._retry.call(lambda: self._label_studio.count_predictions(self._project.id))
        selection = Selection((task_filters.holding(model_version),))
        holders = ProjectTasks(self._label_studio, self._retry, self._project, selection)
        # The filter matches any version that contains the text, so versions that contain this one spoil its count.
        has_lookalikes = any(model_version in other for other in counts if other != model_version)
        if counts.get(model_version, 0) < 2 or (not has_lookalikes and counts[model_version] <= holders.count()):
            return 0
        deleted = 0
        refusal: BackendError | None = None
        for task in holders:
            assert task.id is not None
            self._retry.raise_if_stopped()
            try:
                surplus = [prediction.id for prediction in self._own(task.id, model_version)[:-1]]
                self._delete(surplus)
                deleted += len(surplus)
            except REFUSALS as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return deleted

    def _attempt(self, chunk: Sequence[WriteRequest], progress: _Progress) -> None:
        """Store the predictions that are still missing; raises `RetryLater` to be called again."""
        waiting = self._missing(chunk, progress)
        if not waiting:
            return
        progress.tried.update(request.task_id for request in waiting)
        if self._import(waiting, progress.faults):
            progress.outcomes.update({request.task_id: WriteResult.STORED for request in waiting})
            return
        for request in self._missing(waiting, progress):
            progress.outcomes[request.task_id] = self._store_alone(request, progress.faults)

    def _import(self, waiting: Sequence[WriteRequest], faults: Counter[int]) -> bool:
        if faults[0] >= MOST_FAULTS:
            return False
        try:
            stored = self._label_studio.import_predictions(self._project.id, [request.new for request in waiting])
        except REFUSALS:  # one refused prediction makes the whole request fail
            return False
        except FaultError:
            faults[0] += 1
            raise
        return stored == len(waiting)

    def _store_alone(self, request: WriteRequest, faults: Counter[int]) -> WriteResult | BackendError:
        try:
            self._label_studio.create_prediction(request.new)
        except REFUSALS as error:
            return error
        except FaultError as error:
            faults[request.task_id] += 1
            if faults[request.task_id] < MOST_FAULTS:
                raise
            return error
        return WriteResult.STORED

    def _missing(self, chunk: Sequence[WriteRequest], progress: _Progress) -> list[WriteRequest]:
        """Return the predictions still to be stored, and record the outcome of the others."""
        waiting = []
        for request in chunk:
            if request.task_id in progress.outcomes:
                continue
            try:
                existing = own(self._label_studio.predictions(request.task_id).stored, request.new.model_version)
            except REFUSALS as error:
                is_gone = isinstance(error, RefusedError) and error.is_gone
                progress.outcomes[request.task_id] = WriteResult.GONE if is_gone else error
                continue
            if any(not other.is_empty and other.id not in request.replaced for other in existing):
                progress.outcomes[request.task_id] = (
                    WriteResult.STORED if request.task_id in progress.tried else WriteResult.ALREADY_STORED
                )
            else:
                waiting.append(request)
        return waiting

    def _own(self, task_id: int, model_version: str) -> tuple[StoredPrediction, ...]:
        try:
            stored = self._retry.call(lambda: self._label_studio.predictions(task_id)).stored
        except RefusedError as error:
            if not error.is_gone:
                raise
            return ()
        return own(stored, model_version)

    def _delete(self, ids: Iterable[int]) -> None:
        for prediction_id in ids:
            self._retry.call(partial(self._label_studio.delete_prediction, prediction_id))
