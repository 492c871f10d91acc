"""Threads that fetch images, the urgent ones first, with places that are spared for those that somebody waits for.

A fetch may take half a minute, and one that has begun is not given up for another. So bulk work and what is encoded
ahead never take every place, or a slow server of theirs would make annotators wait who look at other images.
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
    """A fetch that was asked for; for `PriorityExecutor.promote`."""

    work: Callable[[], None]
    priority: Priority
    is_taken: bool = False


class PriorityExecutor:
    """Does fetches on a few threads, which begin when they are needed; safe from many threads."""

    def __init__(self, at_once: int, reserved: int) -> None:
        """Start nothing yet.

        Args:
            at_once: how many fetches may run.
            reserved: how many of those places only `Priority.INTERACTIVE` may take.
        """
        if not 0 <= reserved < at_once:
            raise ValueError(f"spared: expected from 0 to {at_once - 1}, got {reserved}")
        self._at_once, self._in_background = at_once, at_once - reserved
        self._heap: list[tuple[Priority, int, Fetch]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._background = 0  # that run
        self._is_closed = False

    def submit(self, work: Callable[[], None], priority: Priority) -> Fetch:
        """Do ``work`` in its turn; after closing it is dropped."""
        fetch = Fetch(work, priority)
        with self._changed:
            if not self._is_closed:
                self._push(fetch)
                if len(self._threads) < self._at_once:
                    thread = threading.Thread(target=self._work, name=f"fetch-{len(self._threads)}", daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return fetch

    def promote(self, fetch: Fetch, priority: Priority) -> None:
        """Move a fetch forward if it still waits."""
        with self._changed:
            if priority < fetch.priority and not fetch.is_taken and not self._is_closed:
                fetch.priority = priority
                self._push(fetch)  # its old place in the heap is passed over when it comes up

    def close(self) -> None:
        """Drop what waits, finish what runs, and end the threads."""
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
            except Exception:  # the thread outlives any defect
                logger.exception("event=fetch_defect")
            with self._changed:
                self._background -= is_background
                self._changed.notify_all()

    def _next(self) -> Fetch | None:
        """Return the most urgent fetch that there is a place for, waiting for one; None when closed."""
        with self._changed:
            while not self._is_closed:
                fetch = self._first()
                if fetch is not None:
                    fetch.is_taken = True
                    self._background += fetch.priority is not Priority.INTERACTIVE
                    return fetch
                self._changed.wait()
            return None

    def _first(self) -> Fetch | None:
        """Take the most urgent fetch off the heap, None where there is none or no place for it."""
        while self._heap:
            priority, _, fetch = self._heap[0]
            if not fetch.is_taken and priority is not Priority.INTERACTIVE and self._background >= self._in_background:
                return None
            heapq.heappop(self._heap)
            if not fetch.is_taken:
                return fetch
        return None
