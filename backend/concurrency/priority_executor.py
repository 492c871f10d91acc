"""Threads that fetch images by priority; some of them are reserved for images that an annotator waits for.

A fetch may take half a minute, and a running one is not interrupted for another. Bulk work and prefetching therefore
never use every thread; otherwise one slow server would delay annotators who look at images from other servers.
"""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from backend.types import Priority

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Fetch:
    """A submitted fetch; the argument of `PriorityExecutor.promote`."""

    work: Callable[[], None]
    priority: Priority
    has_started: bool = False


class PriorityExecutor:
    """Runs fetches on a few threads, which are started on demand; safe from many threads.

    >>> executor = PriorityExecutor(threads=2, reserved=1)
    >>> fetch = executor.submit(lambda: None, Priority.BULK)
    >>> executor.promote(fetch, Priority.INTERACTIVE)
    >>> executor.close()
    """

    def __init__(self, threads: int, reserved: int) -> None:
        """Allow ``threads`` fetches at a time.

        Args:
            threads: how many fetches may run at a time.
            reserved: how many of the threads run only `Priority.INTERACTIVE` fetches.

        Raises:
            ValueError: ``reserved`` is negative, or leaves no thread for other fetches.
        """
        if not 0 <= reserved < threads:
            raise ValueError(f"reserved: expected from 0 to {threads - 1}, got {reserved}")
        self._max_threads, self._max_background = threads, threads - reserved
        self._heap: list[tuple[Priority, int, Fetch]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._running_background = 0  # how many that are not interactive run now
        self._is_closed = False

    def submit(self, work: Callable[[], None], priority: Priority) -> Fetch:
        """Queue ``work`` with a priority; it is dropped if the executor is closed."""
        fetch = Fetch(work, priority)
        with self._changed:
            if not self._is_closed:
                self._push(fetch)
                if len(self._threads) < self._max_threads:
                    thread = threading.Thread(target=self._work, name=f"fetch-{len(self._threads)}", daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return fetch

    def promote(self, fetch: Fetch, priority: Priority) -> None:
        """Raise the priority of a fetch that has not started yet."""
        with self._changed:
            if priority < fetch.priority and not fetch.has_started and not self._is_closed:
                fetch.priority = priority
                self._push(fetch)  # the older heap entry is skipped when it is popped

    def close(self) -> None:
        """Drop waiting fetches, wait for the running ones, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._heap.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _push(self, fetch: Fetch) -> None:
        heapq.heappush(self._heap, (fetch.priority, next(self._order), fetch))
        self._changed.notify_all()

    def _work(self) -> None:
        while (fetch := self._next()) is not None:
            is_background = fetch.priority is not Priority.INTERACTIVE
            try:
                fetch.work()
            except Exception:  # a defect must not end the thread
                logger.exception("event=fetch_defect")
            with self._changed:
                self._running_background -= is_background
                self._changed.notify_all()

    def _next(self) -> Fetch | None:
        """Return the most urgent fetch that may run now, waiting for one; None when closed."""
        with self._changed:
            while not self._is_closed:
                fetch = self._first()
                if fetch is not None:
                    fetch.has_started = True
                    self._running_background += fetch.priority is not Priority.INTERACTIVE
                    return fetch
                self._changed.wait()
            return None

    def _first(self) -> Fetch | None:
        """Pop the most urgent fetch; return None if there is none, or only the reserved threads are free for it."""
        while self._heap:
            priority, _, fetch = self._heap[0]
            if (
                not fetch.has_started
                and priority is not Priority.INTERACTIVE
                and self._running_background >= self._max_background
            ):
                return None
            heapq.heappop(self._heap)
            if not fetch.has_started:
                return fetch
        return None
