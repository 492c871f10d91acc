"""Encodes ahead the images that annotators open next: those of opened or new tasks, and of the tasks after them."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cachetools import LRUCache

from backend.embeddings.local import Embeddings
from backend.errors import BackendError
from backend.labeling import config as labeling_config
from backend.labeling import task_images
from backend.request_steps import StepLimit
from backend.types import ImageRef, PredictRequest, Task

logger = logging.getLogger(__name__)

REMEMBERED_TASKS = 1000  # for how many tasks it is remembered that the tasks after them were prefetched


class Background(Protocol):
    """Runs short functions in another thread; see `backend.concurrency.background.BackgroundTasks`."""

    def submit(self, function: Callable[[], None], /) -> None:
        """Run ``function`` soon, in another thread; drop it if too many are waiting."""


class NextTasks(Protocol):
    """Returns the tasks that an annotator opens next; see `backend.label_studio.client.LabelStudio`."""

    def next_tasks(self, project_id: int, after_task_id: int, count: int, /) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks after a task."""


class ImagePrefetch:
    """Prefetches the images of tasks; thread-safe. Nothing here raises: no answer depends on it."""

    def __init__(
        self, embeddings: Embeddings, background: Background, next_tasks: NextTasks | None, count: int
    ) -> None:
        """Encode ``count`` of a project's next tasks ahead, as ``next_tasks`` returns them; None: only the opened."""
        self._embeddings, self._background, self._next_tasks, self._count = embeddings, background, next_tasks, count
        self._prefetched_after: LRUCache[tuple[int, int], None] = LRUCache(REMEMBERED_TASKS)
        self._lock = threading.Lock()

    def around(self, request: PredictRequest, opened: Sequence[Task] = ()) -> None:
        """Prefetch the images of opened tasks, and of the tasks after a single requested one."""
        try:
            self.images(request.label_config, request.project_id, opened)
            if len(request.tasks) == 1:
                self._next(request, request.tasks[0].id)
        except Exception:  # the answer does not depend on it
            logger.exception("event=defect where=prefetch")

    def images(self, config: str, project_id: int | None, tasks: Iterable[Task]) -> None:
        """Prefetch the images of tasks."""
        try:
            controls = labeling_config.parse(config)
        except BackendError:
            return  # a click reports it
        step_limit = StepLimit()
        refs: list[ImageRef] = []
        try:
            for task in tasks:
                refs += task_images.image_refs(controls, task, project_id, step_limit)
        except BackendError as error:
            logger.warning("event=prefetch_cut project=%s reason=%s detail=%r", project_id, error.reason, str(error))
        if refs:
            self._embeddings.prefetch(refs)

    def _next(self, request: PredictRequest, task_id: int | None) -> None:
        """Prefetch the tasks after this one: whenever it is opened, and at a click if that has not happened before."""
        source, project_id, config = self._next_tasks, request.project_id, request.label_config
        if source is None or not self._count or not config or project_id is None or task_id is None:
            return
        key = project_id, task_id
        with self._lock:
            if request.context and key in self._prefetched_after:
                return
            self._prefetched_after[key] = None

        def prefetch() -> None:
            try:
                tasks = source.next_tasks(project_id, task_id, self._count)
            except BackendError as error:
                logger.info("event=next_tasks_unknown project=%s reason=%s", project_id, error.reason)
                with self._lock:
                    self._prefetched_after.pop(key, None)
                return
            self.images(config, project_id, tasks)

        self._background.submit(prefetch)
