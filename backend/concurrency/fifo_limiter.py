"""Lets a few threads through at a time, in the order in which they came.

More threads than cores do not finish sooner together, they only get in each other's way; and among threads that fight
for the interpreter, or for a `threading.Semaphore`, some go before others that came long before them.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from backend.errors import Reason, RetryLater


class FifoLimiter:
    """``with turns:`` waits for its turn; safe from many threads, and not to be entered twice by one."""

    def __init__(self, at_once: int) -> None:
        """``at_once`` threads, at least one, may be inside."""
        if at_once < 1:
            raise ValueError(f"at_once: expected at least 1, got {at_once}")
        self._free = at_once
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._take(math.inf)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Wait for a turn, but no longer than ``seconds``; one that is free is taken however little that is.

        Raises:
            RetryLater: the turn did not come in time (``budget_exceeded``).
        """
        if not self._take(seconds):
            raise RetryLater(f"no turn came within {max(0.0, seconds):.1f} s", Reason.BUDGET_EXCEEDED)
        try:
            yield
        finally:
            self._leave()

    def _take(self, within_s: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        # Whoever leaves hands its place over, so nobody slips in between.
        if gate.acquire(timeout=min(max(0.0, within_s), threading.TIMEOUT_MAX)):
            return True
        with self._lock:
            if gate not in self._waiting:
                return True  # the place was handed over a moment ago
            self._waiting.remove(gate)
            return False

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
