"""Runs work for a key once, however many requests for the key come while it waits or runs."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from backend.concurrency.priority_executor import PriorityExecutor, QueuedTask, Work
from backend.types import Priority

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class SingleFlight(Generic[K, R]):
    """Work on the threads of an executor, by its key; safe from many threads.

    >>> executor = PriorityExecutor(threads=1)
    >>> flights = SingleFlight[str, int](executor)
    >>> flights.run("a.png", lambda task: 3, Priority.BULK).result()
    3
    >>> executor.close()
    """

    def __init__(self, executor: PriorityExecutor, on_join: Callable[[], None] = lambda: None) -> None:
        """Run on ``executor``; ``on_join`` is called for each request that joins work for its key."""
        self._executor, self._on_join = executor, on_join
        self._tasks: dict[K, QueuedTask[R]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def run(self, key: K, work: Work[R], priority: Priority) -> "Future[R]":
        """Return the future of the work for a key: of ``work``, or of what waits or runs already, with its priority."""

        def run(task: QueuedTask[R]) -> R:
            try:
                return work(task)
            finally:
                with self._lock:
                    del self._tasks[key]

        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                task = self._executor.submit(run, priority)
                if not task.future.done():  # it is once the executor is closed
                    self._tasks[key] = task
                return task.future
        self._on_join()
        self._executor.promote(task, priority)
        return task.future

    def promote(self, key: K, priority: Priority) -> None:
        """Raise the priority of the work for a key, if there is any."""
        task = self._tasks.get(key)
        if task is not None:
            self._executor.promote(task, priority)
