"""Prevents two requests from answering the same task within 30 s.

Two people press "Retrieve predictions" at once, or one presses it again before the first answer arrives. Label Studio
chooses the tasks to request some time before it sends the request, and stores an answer some time after it received
it. A second answer in that time would be stored as a duplicate of the first.
"""

import math
import threading
from collections.abc import Callable, Hashable

from cachetools import LRUCache

DEDUP_WINDOW_S = 30.0
"""Longest time after an answer in which Label Studio may still request the same task, for any user."""

REMEMBERED = 100_000  # maximum number of tasks in memory; the oldest are forgotten first


class RecentlyAnswered:
    """The tasks that were answered recently; thread-safe.

    >>> answered = RecentlyAnswered(lambda: 0.0)
    >>> requested_at = answered.now()
    >>> answered.try_claim(7, requested_at), answered.try_claim(7, requested_at)
    (True, False)
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns seconds, monotonic."""
        self._clock = clock
        self._claimed_at: LRUCache[Hashable, float] = LRUCache(REMEMBERED)
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the current time, to pass to `try_claim` later."""
        return self._clock()

    def try_claim(self, task: Hashable, requested_at: float) -> bool:
        """Return whether a request made at ``requested_at`` may answer a task; only the first caller may."""
        with self._lock:
            if self._claimed_at.get(task, -math.inf) + DEDUP_WINDOW_S > requested_at:
                return False
            self._claimed_at[task] = self._clock()
            return True
