"""Predictions stored through Label Studio's API so that each task ends up with exactly one of this model's version.

Label Studio keeps as many predictions of a version as it is given, and has no way to ask for one only if there is none.
So three things come together:

- it is looked before anything is stored, and again before it is tried again: an answer that got lost is no reason to
  store a second one;
- what takes another one's place is stored before that is deleted, so that there is no moment without either;
- two runs that store at the same time leave two, and whoever looks afterwards deletes all but one. Everybody keeps the
  same one: that shows something rather than nothing, and of several the last. Whatever is deleted has been seen beside
  a better one, so the best is never deleted, however many look at once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol

from backend.concurrency.retry import OutageRetry
from backend.errors import BackendError
from backend.label_studio import task_filters
from backend.label_studio.http import REFUSALS, FaultError, RefusedError
from backend.label_studio.task_filters import Selection
from backend.label_studio.task_iterator import ProjectTasks, TaskLists
from backend.label_studio.types import NewPrediction, Project, StoredPrediction, TaskPredictions

MOST_FAULTS = 4
"""How often Label Studio may fail over a prediction before it counts as the prediction's fault."""


class PredictionStore(TaskLists, Protocol):
    """Keeps predictions; see `backend.label_studio.client.LabelStudio`."""

    def predictions(self, task_id: int, /) -> TaskPredictions:
        """Return a task's predictions."""
        ...

    def create_prediction(self, new: NewPrediction, /) -> None:
        """Store a prediction."""
        ...

    def import_predictions(self, project_id: int, new: Sequence[NewPrediction], /) -> int:
        """Store predictions in one request, and return how many were taken."""
        ...

    def delete_prediction(self, prediction_id: int, /) -> None:
        """Delete a prediction, or find that somebody has."""
        ...

    def count_predictions(self, project_id: int, /) -> dict[str, int]:
        """Return how many predictions of each model version a project holds."""
        ...


class WriteResult(Enum):
    """What became of a prediction."""

    STORED = "stored"
    THERE = "there"
    """Somebody else has stored one meanwhile, which stays."""

    GONE = "gone"
    """The task has been deleted."""


@dataclass(frozen=True)
class WriteRequest:
    """A prediction to be stored.

    Attributes:
        new: what to store; shows something.
        replaced: ids of the predictions whose place it takes, seen before it was made.
    """

    new: NewPrediction
    replaced: frozenset[int] = field(default_factory=frozenset)

    @property
    def task_id(self) -> int:
        """The task it is about."""
        return self.new.task_id


@dataclass
class _Progress:
    """How far a chunk is: what became of tasks, which were tried, and how often Label Studio failed (0: over all)."""

    verdicts: dict[int, WriteResult | BackendError] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    faults: Counter[int] = field(default_factory=Counter)


def own(stored: Iterable[StoredPrediction], model_version: str) -> tuple[StoredPrediction, ...]:
    """Return the predictions of a version, the one that stays last; empty ones go before all others."""
    found = (one for one in stored if one.model_version == model_version)
    return tuple(sorted(found, key=lambda one: (not one.is_empty, one.id)))


class PredictionWriter:
    """Stores predictions of one project; several may be at it at once, in one process or in many."""

    def __init__(self, store: PredictionStore, patience: OutageRetry, project: Project) -> None:
        """Store nothing yet; ``patience`` waits while Label Studio is away."""
        self._store, self._patience, self._project = store, patience, project

    def write(self, chunk: Sequence[WriteRequest]) -> list[tuple[WriteRequest, WriteResult | BackendError]]:
        """Store predictions of different tasks in one request, and return what became of each, in order.

        What Label Studio refuses about a task is that task's verdict, also where its new prediction is stored and an
        old one may not be deleted.

        Raises:
            Stopped: the run is to end, and Label Studio is away; what was not stored is lost.
            OutageError: Label Studio has been away for too long.
            AccessError: Label Studio refuses the API key.
        """
        progress = _Progress()
        self._patience.call(lambda: self._attempt(chunk, progress))
        verdicts = progress.verdicts
        for one in chunk:
            if one.replaced and verdicts[one.task_id] in (WriteResult.STORED, WriteResult.THERE):
                try:
                    self._delete(sorted(one.replaced))
                except REFUSALS as error:
                    verdicts[one.task_id] = error
        return [(one, verdicts[one.task_id]) for one in chunk]

    def delete_duplicates(self, model_version: str) -> int:
        """Delete all but one of this version's predictions of every task; return how many were deleted.

        Two questions tell whether there is anything to do.

        Raises:
            Stopped: the run is to end; what is left is found by whoever looks the next time.
            BackendError: Label Studio refuses, or has been away for too long. What it refuses about one task is raised
                once the others are seen to.
        """
        counts = self._patience.call(lambda: self._store.count_predictions(self._project.id))
        holders = ProjectTasks(
            self._store, self._patience, self._project, Selection((task_filters.holding(model_version),))
        )
        has_lookalikes = any(model_version in other for other in counts if other != model_version)
        if counts.get(model_version, 0) < 2 or (not has_lookalikes and counts[model_version] <= holders.count()):
            return 0
        deleted = 0
        refusal: BackendError | None = None
        for task in holders:
            assert task.id is not None
            self._patience.check()
            try:
                surplus = [one.id for one in self._held(task.id, model_version)[:-1]]
                self._delete(surplus)
                deleted += len(surplus)
            except REFUSALS as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return deleted

    def _attempt(self, chunk: Sequence[WriteRequest], progress: _Progress) -> None:
        """Store what is not there yet; raises `RetryLater` to be called again."""
        waiting = self._not_there(chunk, progress)
        if not waiting:
            return
        progress.tried.update(one.task_id for one in waiting)
        if self._imported(waiting, progress.faults):
            progress.verdicts.update({one.task_id: WriteResult.STORED for one in waiting})
            return
        for one in self._not_there(waiting, progress):
            progress.verdicts[one.task_id] = self._stored_alone(one, progress.faults)

    def _imported(self, waiting: Sequence[WriteRequest], faults: Counter[int]) -> bool:
        """Store all in one request; return whether all were taken."""
        if faults[0] >= MOST_FAULTS:
            return False
        try:
            return self._store.import_predictions(self._project.id, [one.new for one in waiting]) == len(waiting)
        except REFUSALS:  # one of them spoils it for all
            return False
        except FaultError:
            faults[0] += 1
            raise

    def _stored_alone(self, one: WriteRequest, faults: Counter[int]) -> WriteResult | BackendError:
        try:
            self._store.create_prediction(one.new)
        except REFUSALS as error:
            return error
        except FaultError as error:
            faults[one.task_id] += 1
            if faults[one.task_id] < MOST_FAULTS:
                raise
            return error
        return WriteResult.STORED

    def _not_there(self, chunk: Sequence[WriteRequest], progress: _Progress) -> list[WriteRequest]:
        """Return what is still to be stored, after noting the verdict on what is not."""
        waiting = []
        for one in chunk:
            if one.task_id in progress.verdicts:
                continue
            try:
                found = own(self._store.predictions(one.task_id).stored, one.new.model_version)
            except REFUSALS as error:
                is_gone = isinstance(error, RefusedError) and error.is_gone
                progress.verdicts[one.task_id] = WriteResult.GONE if is_gone else error
                continue
            if any(not other.is_empty and other.id not in one.replaced for other in found):
                progress.verdicts[one.task_id] = (
                    WriteResult.STORED if one.task_id in progress.tried else WriteResult.THERE
                )
            else:
                waiting.append(one)
        return waiting

    def _held(self, task_id: int, model_version: str) -> tuple[StoredPrediction, ...]:
        try:
            stored = self._patience.call(lambda: self._store.predictions(task_id)).stored
        except RefusedError as error:
            if not error.is_gone:
                raise
            return ()
        return own(stored, model_version)

    def _delete(self, ids: Iterable[int]) -> None:
        for prediction_id in ids:
            self._patience.call(partial(self._store.delete_prediction, prediction_id))
