"""Predictions that were not ready when Label Studio asked for them: made in the background, stored through its API.

They wait in memory: what is left when the process ends is asked for with the button again, or made by ``preannotate``.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Protocol

import msgspec

from backend.concurrency.retry import OutageRetry, Stopped
from backend.errors import BackendError, Reason
from backend.label_studio import task_filters
from backend.label_studio.prediction_writer import PredictionStore, PredictionWriter, WriteRequest, WriteResult, own
from backend.label_studio.task_filters import Selection
from backend.label_studio.task_iterator import ProjectTasks
from backend.label_studio.types import NewPrediction, Project
from backend.protocol import messages
from backend.segmentation.claims import DEDUP_WINDOW_S, RecentlyAnswered
from backend.segmentation.retrieval import DeferredTask
from backend.segmentation.tasks import TaskSegmenter

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
AT_ONCE = 4
"""Tasks in hand at a time: while one is decoded the next images are fetched and encoded."""

IMAGE_S = 600.0
"""For how long a task's images are waited for at a time."""

SAMPLED = 20
"""How many of a project's tasks with predictions of this version are looked at for one that shows something."""

UNWANTED_S = 300.0
"""For how long a project without any is not looked at again."""


class Studio(PredictionStore, Protocol):
    """Keeps predictions and knows projects; see `backend.label_studio.client.LabelStudio`."""

    def project(self, project_id: int, /) -> Project:
        """Return a project."""
        ...

    def version(self) -> str:
        """Return Label Studio's release."""
        ...


class Observer(Protocol):
    """Is told what fails; see `backend.metrics.Metrics`."""

    def background_failure(self, reason: Reason, /) -> None:
        """Count a failure that nobody waits for."""
        ...


class DeferredPredictions:
    """Makes and stores predictions one after the other, the oldest first; safe from many threads."""

    def __init__(
        self,
        segmenter: TaskSegmenter,
        studio: Studio,
        claims: RecentlyAnswered,
        observer: Observer,
        patience: Callable[[threading.Event], OutageRetry] = OutageRetry,
        settled_s: float = DEDUP_WINDOW_S,
    ) -> None:
        """Start nothing yet.

        Args:
            segmenter: makes the predictions.
            studio: stores them.
            claims: sees to it that a task is answered once; shared with those that answer in time.
            observer: is told what fails.
            patience: how long outages are waited for.
            settled_s: how long after the last answer in a project duplicates are looked for.
        """
        self._segmenter, self._studio, self._claims, self._observer = segmenter, studio, claims, observer
        self._stop = threading.Event()
        self._patience, self._settled_s = patience(self._stop), settled_s
        self._waiting: OrderedDict[Hashable, DeferredTask] = OrderedDict()
        self._in_hand: dict[Hashable, DeferredTask] = {}
        self._projects: dict[int, Project] = {}
        self._unwanted_until: dict[int, float] = {}
        self._tidy_at: dict[int, float] = {}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        """How many tasks wait or are in hand."""
        return len(self._waiting) + len(self._in_hand)

    def add(self, late: Iterable[DeferredTask], /) -> None:
        """See to tasks after those that wait already; of one that waits, the newest prompts count."""
        with self._changed:
            if self._stop.is_set():
                return
            for one in late:
                if one.project_id is None or one.task.id is None:
                    continue  # an API caller's own; there is nothing to store it with
                if one.key not in self._waiting and len(self._waiting) >= MAX_WAITING:
                    self._observer.background_failure(Reason.OVERLOADED)
                    continue
                self._waiting[one.key] = one
            self._start()
            self._changed.notify_all()

    def answered(self, project_id: int, /) -> None:
        """See in a while that no task of a project was answered twice: other processes answer as well."""
        with self._changed:
            self._tidy_at[project_id] = time.monotonic() + self._settled_s
            self._start()
            self._changed.notify_all()

    def stop(self) -> None:
        """Drop what waits; tasks in hand are finished unless they have to wait for something."""
        with self._changed:
            self._stop.set()
            self._waiting.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop and end the threads; embeddings that they may wait for must have been closed."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        while len(self._threads) < min(AT_ONCE, len(self._waiting) or len(self._tidy_at)) and not self._stop.is_set():
            thread = threading.Thread(target=self._work, name="push", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, int):
                self._tidy(work)
            else:
                self._see_to(work)

    def _next(self) -> DeferredTask | int | None:
        """Return a task, or a project to be tidied; None in the end."""
        with self._changed:
            while not self._stop.is_set():
                # A task that is asked for again while it is in hand waits for that.
                free = next((key for key in self._waiting if key not in self._in_hand), None)
                if free is not None:
                    late = self._in_hand[free] = self._waiting.pop(free)
                    return late
                project_id, due = min(self._tidy_at.items(), key=lambda one: one[1], default=(0, None))
                if due is not None and due <= time.monotonic():
                    del self._tidy_at[project_id]
                    return project_id
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            return None

    def _tidy(self, project_id: int) -> None:
        try:
            self._writer(project_id).delete_duplicates(self._segmenter.model_version)
        except BackendError as error:
            logger.info("event=not_tidied project=%s reason=%s", project_id, error.reason)
        except Exception:
            logger.exception("event=tidy_defect project=%s", project_id)

    def _see_to(self, late: DeferredTask) -> None:
        try:
            self._push(late)
        except Stopped:
            pass
        except BackendError as error:
            self._failed(late, error.reason, str(error))
        except Exception:
            logger.exception("event=push_defect project=%s task=%s", late.project_id, late.task.id)
            self._observer.background_failure(Reason.INTERNAL_ERROR)
        finally:
            with self._changed:
                del self._in_hand[late.key]
                self._changed.notify_all()

    def _push(self, late: DeferredTask) -> None:
        assert late.project_id is not None
        assert late.task.id is not None  # see `add`
        if late.only_if_predictions_in_use and not self._is_wanted(late.project_id):
            return
        segment = partial(self._segmenter.segment, late.task, late.asked, late.controls, late.project_id, IMAGE_S)
        made = self._patience.call_for_image(segment, self._studio.version)
        if not made.result or not made.is_complete:
            self._failed(late, made.reasons[0] if made.reasons else Reason.EMPTY_MASK, "nothing to store")
            return
        if not self._claims.take(late.key, late.asked_at):
            return
        held = own(self._patience.call(partial(self._studio.predictions, late.task.id)).stored, made.model_version)
        new = NewPrediction(late.task.id, msgspec.Raw(messages.dump_result(made)), made.score, made.model_version)
        empty = frozenset(one.id for one in held if one.is_empty)
        [(_, verdict)] = self._writer(late.project_id).write([WriteRequest(new, empty)])
        if isinstance(verdict, BackendError):
            raise verdict
        self.answered(late.project_id)
        if verdict is WriteResult.STORED:
            logger.info("event=pushed project=%s task=%s regions=%d", late.project_id, late.task.id, len(made.result))

    def _is_wanted(self, project_id: int) -> bool:
        """Whether predictions of this version are in use in a project; empty ones only say that a task is settled."""
        project, version = self._project(project_id), self._segmenter.model_version
        if self._unwanted_until.get(project.id, 0.0) > self._claims.now():
            return False
        selection = Selection((task_filters.holding(version),))
        for task in ProjectTasks(self._studio, self._patience, project, selection, SAMPLED):
            assert task.id is not None
            stored = self._patience.call(partial(self._studio.predictions, task.id)).stored
            if any(not one.is_empty for one in own(stored, version)):
                return True
        self._unwanted_until[project.id] = self._claims.now() + UNWANTED_S
        return False

    def _project(self, project_id: int) -> Project:
        if project_id not in self._projects:
            self._projects[project_id] = self._patience.call(partial(self._studio.project, project_id))
        return self._projects[project_id]

    def _writer(self, project_id: int) -> PredictionWriter:
        return PredictionWriter(self._studio, self._patience, self._project(project_id))

    def _failed(self, late: DeferredTask, reason: Reason, detail: str) -> None:
        self._observer.background_failure(reason)
        logger.warning(
            "event=push_failed project=%s task=%s reason=%s detail=%r", late.project_id, late.task.id, reason, detail
        )
