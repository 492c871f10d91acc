"""Threads that run work by priority; some of them are reserved for work that an annotator waits for.

Fetching an image may take half a minute, and running work is not interrupted. Bulk work and prefetching therefore never
use every thread; otherwise one slow server would delay annotators who look at images from other servers.
"""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeAlias, TypeVar

from backend.errors import Reason, RetryLater
from backend.types import Priority

logger = logging.getLogger(__name__)

R = TypeVar("R")

Work: TypeAlias = Callable[["QueuedTask[R]"], R]
"""What a thread runs; its argument is the task itself, whose priority may have been raised."""


class QueuedTask(Generic[R]):
    """Submitted work: the future of its result, and the highest priority of its requests.

    ``on_promote`` is called with the new priority when it is raised while the work runs; the work may set it.
    """

    def __init__(self, work: Work[R], priority: Priority) -> None:
        self.work: Work[R] | None = work  # None once it has started, so that its data is not kept by old heap entries
        self.priority = priority
        self.future: Future[R] = Future()
        self.on_promote: Callable[[Priority], None] = lambda priority: None

    def run(self, work: Work[R]) -> None:
        """Resolve the future with the result of ``work``."""
        try:
            result = work(self)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for the future
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class PriorityExecutor:
    """Runs work on a few threads, the most urgent first; safe from many threads.

    >>> executor = PriorityExecutor(threads=2, reserved=1)
    >>> task = executor.submit(lambda task: task.priority.name, Priority.INTERACTIVE)
    >>> task.future.result()
    'INTERACTIVE'
    >>> executor.close()
    """

    def __init__(self, threads: int, reserved: int = 0, name: str = "work") -> None:
        """Start up to ``threads`` threads when work is submitted; ``reserved`` run only `Priority.INTERACTIVE` work."""
        if not 0 <= reserved < threads:
            raise ValueError(f"reserved: expected from 0 to {threads - 1}, got {reserved}")
        self._max_threads, self._max_background, self._name = threads, threads - reserved, name
        self._heap: list[tuple[Priority, int, QueuedTask[Any]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._running_background = 0  # how many that are not interactive run now
        self._is_closed = False

    def submit(self, work: Work[R], priority: Priority) -> QueuedTask[R]:
        """Queue ``work`` with a priority; if the executor is closed, its future fails with `RetryLater`."""
        task = QueuedTask(work, priority)
        with self._changed:
            if self._is_closed:
                task.future.set_exception(_stopping())
                return task
            self._push(task)
            if len(self._threads) < self._max_threads:
                thread = threading.Thread(target=self._loop, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return task

    def promote(self, task: QueuedTask[Any], priority: Priority) -> None:
        """Raise the priority of a task; work that runs already is informed by ``on_promote``."""
        with self._changed:
            if priority >= task.priority:
                return
            task.priority = priority
            if task.work is not None and not self._is_closed:
                self._push(task)  # the older heap entry is skipped when it is popped
        task.on_promote(priority)

    def close(self, *, wait: bool = True) -> None:
        """Fail the waiting tasks with `RetryLater`, and end the threads; ``wait`` for the running tasks."""
        with self._changed:
            self._is_closed = True
            waiting = {id(task): task for _, _, task in self._heap if task.work is not None}
            self._heap.clear()
            self._changed.notify_all()
        for task in waiting.values():
            task.work = None
            task.future.set_exception(_stopping())
        for thread in self._threads if wait else ():
            thread.join()

    def _push(self, task: QueuedTask[Any]) -> None:
        heapq.heappush(self._heap, (task.priority, next(self._order), task))
        self._changed.notify_all()

    def _loop(self) -> None:
        while (started := self._start_next()) is not None:
            task, work, is_background = started
            task.run(work)
            del task, work, started  # the thread waits for the next one without the data of the last
            with self._changed:
                self._running_background -= is_background
                self._changed.notify_all()

    def _start_next(self) -> tuple[QueuedTask[Any], Work[Any], bool] | None:
        """Return the most urgent task that may run now, waiting for one; None when closed."""
        with self._changed:
            while not self._is_closed:
                task = self._first()
                if task is not None and task.work is not None:
                    work, task.work = task.work, None
                    is_background = task.priority is not Priority.INTERACTIVE
                    self._running_background += is_background
                    return task, work, is_background
                self._changed.wait()
            return None

    def _first(self) -> QueuedTask[Any] | None:
        """Pop the most urgent task; return None if there is none, or only the reserved threads are free for it."""
        while self._heap:
            priority, _, task = self._heap[0]
            is_full = self._running_background >= self._max_background
            if task.work is not None and priority is not Priority.INTERACTIVE and is_full:
                return None
            heapq.heappop(self._heap)
            if task.work is not None:
                return task
        return None


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
