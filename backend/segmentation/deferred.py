"""Makes predictions that were not ready in time, in background threads, and stores them through Label Studio's API.

Waiting tasks are kept in memory and lost when the process ends; the button "Retrieve predictions" requests them again,
or ``preannotate`` makes them.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import partial

import msgspec

from backend.concurrency.retry import OutageRetry, Stopped
from backend.errors import BackendError, Reason
from backend.label_studio.client import LabelStudio
from backend.label_studio.prediction_writer import PredictionWriter, WriteRequest, WriteResult, own
from backend.label_studio.types import NewPrediction, Project
from backend.metrics import Metrics
from backend.protocol import messages
from backend.segmentation.recently_answered import DEDUP_WINDOW_S, RecentlyAnswered
from backend.segmentation.retrieval import DeferredTask
from backend.segmentation.tasks import TaskSegmenter

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
AT_ONCE = 4  # tasks processed at a time: while one is decoded the next images are fetched and encoded
IMAGE_S = 600.0  # how long one attempt waits for each of a task's images


class DeferredPredictions:
    """Makes and stores predictions in background threads, in the order in which they were added; thread-safe."""

    def __init__(
        self,
        segmenter: TaskSegmenter,
        label_studio: LabelStudio,
        answered: RecentlyAnswered,
        metrics: Metrics,
        retry: Callable[[threading.Event], OutageRetry] = OutageRetry,
        dedup_delay_s: float = DEDUP_WINDOW_S,
    ) -> None:
        """Create an empty queue; the first task starts its threads.

        ``answered`` is shared with `backend.segmentation.retrieval.Retrieval`; ``retry`` returns what retries calls
        during an outage, until the event is set. Duplicates are deleted ``dedup_delay_s`` after the last answer in a
        project.
        """
        self._segmenter, self._label_studio = segmenter, label_studio
        self._answered, self._metrics = answered, metrics
        self._stop = threading.Event()
        self._retry, self._dedup_delay_s = retry(self._stop), dedup_delay_s
        self._waiting: OrderedDict[Hashable, DeferredTask] = OrderedDict()
        self._running: dict[Hashable, DeferredTask] = {}
        self._projects: dict[int, Project] = {}
        self._dedup_at: dict[int, float] = {}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        """How many tasks are waiting or running."""
        return len(self._waiting) + len(self._running)

    def add(self, tasks: Iterable[DeferredTask], /) -> None:
        """Queue tasks; a task that waits already keeps its position and gets the new prompts."""
        with self._changed:
            if self._stop.is_set():
                return
            for task in tasks:
                if task.project_id is None or task.task.id is None:
                    continue  # from an API caller: without these ids it cannot be stored
                if task.key not in self._waiting and len(self._waiting) >= MAX_WAITING:
                    self._metrics.background_failure(Reason.OVERLOADED)
                    continue
                self._waiting[task.key] = task
            self._start()
            self._changed.notify_all()

    def answered(self, project_id: int, /) -> None:
        """Schedule the deletion of duplicate predictions in a project: other processes may have answered as well."""
        with self._changed:
            self._dedup_at[project_id] = time.monotonic() + self._dedup_delay_s
            self._start()
            self._changed.notify_all()

    def stop(self) -> None:
        """Drop waiting tasks; running tasks are finished unless they have to wait for an image or an outage."""
        with self._changed:
            self._stop.set()
            self._waiting.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop and join the threads; the embeddings that they may wait for must be closed before."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        while len(self._threads) < min(AT_ONCE, len(self._waiting) or len(self._dedup_at)) and not self._stop.is_set():
            thread = threading.Thread(target=self._work, name="deferred", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, int):
                self._delete_duplicates(work)
            else:
                self._process(work)

    def _next(self) -> DeferredTask | int | None:
        """Return a task, or the id of a project whose duplicates are due to be deleted; None once stopped."""
        with self._changed:
            while not self._stop.is_set():
                # A task that is requested again while it is running waits until that run ends.
                free = next((key for key in self._waiting if key not in self._running), None)
                if free is not None:
                    task = self._running[free] = self._waiting.pop(free)
                    return task
                project_id, due = min(self._dedup_at.items(), key=lambda item: item[1], default=(0, None))
                if due is not None and due <= time.monotonic():
                    del self._dedup_at[project_id]
                    return project_id
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            return None

    def _delete_duplicates(self, project_id: int) -> None:
        try:
            self._writer(project_id).delete_duplicates(self._segmenter.version_of(project_id))
        except BackendError as error:
            logger.info("event=dedup_failed project=%s reason=%s", project_id, error.reason)
        except Exception:
            logger.exception("event=dedup_defect project=%s", project_id)

    def _process(self, task: DeferredTask) -> None:
        try:
            self._segment_and_store(task)
        except Stopped:
            pass
        except BackendError as error:
            self._record_failure(task, error.reason, str(error))
        except Exception:
            logger.exception("event=deferred_defect project=%s task=%s", task.project_id, task.task.id)
            self._metrics.background_failure(Reason.INTERNAL_ERROR)
        finally:
            with self._changed:
                del self._running[task.key]
                self._changed.notify_all()

    def _segment_and_store(self, task: DeferredTask) -> None:
        project_id, task_id = task.project_id, task.task.id
        assert project_id is not None
        assert task_id is not None  # see `add`
        segment = partial(self._segmenter.segment, task.task, task.prompts, task.controls, project_id, IMAGE_S)
        answer = self._retry.call_for_image(segment, self._label_studio.version)
        if not answer.result or not answer.is_complete:
            self._record_failure(task, answer.reasons[0] if answer.reasons else Reason.EMPTY_MASK, "nothing to store")
            return
        if not self._answered.try_claim(task.key, task.requested_at):
            return
        stored = own(self._retry.call(partial(self._label_studio.predictions, task_id)).stored, answer.model_version)
        new = NewPrediction(task_id, msgspec.Raw(messages.dump_result(answer)), answer.score, answer.model_version)
        empty = frozenset(prediction.id for prediction in stored if prediction.is_empty)
        [(_, result)] = self._writer(project_id).write([WriteRequest(new, empty)])
        if isinstance(result, BackendError):
            raise result
        self.answered(project_id)
        if result is WriteResult.STORED:
            logger.info("event=deferred_stored project=%s task=%s regions=%d", project_id, task_id, len(answer.result))

    def _project(self, project_id: int) -> Project:
        if project_id not in self._projects:
            self._projects[project_id] = self._retry.call(partial(self._label_studio.project, project_id))
        return self._projects[project_id]

    def _writer(self, project_id: int) -> PredictionWriter:
        return PredictionWriter(self._label_studio, self._retry, self._project(project_id))

    def _record_failure(self, task: DeferredTask, reason: Reason, detail: str) -> None:
        self._metrics.background_failure(reason)
        logger.warning(
            "event=deferred_failed project=%s task=%s reason=%s detail=%r",
            task.project_id,
            task.task.id,
            reason,
            detail,
        )
