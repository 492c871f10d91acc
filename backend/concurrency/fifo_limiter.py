"""Limits how many threads run a section at a time, and admits them in the order of arrival.

More threads than cores do not finish sooner together; they only slow each other down. Neither the interpreter lock nor
`threading.Semaphore` is fair: some threads run before others that arrived long before them.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import Reason, RetryLater


class FifoLimiter:
    """A fair semaphore: ``with limiter:`` waits for a slot; one thread must not enter it twice.

    >>> limiter = FifoLimiter(2)
    >>> with limiter:
    ...     with limiter.slot(0.5):
    ...         "both slots are taken"
    'both slots are taken'
    """

    def __init__(self, at_once: int) -> None:
        if at_once < 1:
            raise ValueError(f"at_once: expected at least 1, got {at_once}")
        self.free = at_once  # number of free slots
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a slot."""
        return len(self._waiting)

    def __enter__(self) -> None:
        self._acquire(math.inf)

    def __exit__(self, *exception: object) -> None:
        self._release()

    @contextmanager
    def slot(self, timeout_s: float) -> Iterator[None]:
        """Wait for a slot, at most ``timeout_s``; a free slot is taken however short that is, even zero or negative.

        Raises:
            RetryLater: no slot became free in time (``budget_exceeded``).
        """
        if not self._acquire(timeout_s):
            raise RetryLater(f"no slot became free within {max(0.0, timeout_s):.1f} s", Reason.BUDGET_EXCEEDED)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, timeout_s: float) -> bool:
        with self._lock:
            if self.free:
                self.free -= 1
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        # A thread that leaves hands its slot to the first in the queue, so that no later one can take it.
        if gate.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX)):
            return True
        with self._lock:
            if gate not in self._waiting:
                return True  # the slot was handed over just before the lock was taken
            self._waiting.remove(gate)
            return False

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.free += 1
