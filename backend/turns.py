"""Lets a few threads through at a time, in the order in which they came.

More threads than cores do not finish sooner together, they only get in each other's way; and among threads that fight
for the interpreter, or for a `threading.Semaphore`, some go before others that came long before them.
"""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """``with turns:`` waits for its turn; safe from many threads, and not to be entered twice by one."""

    def __init__(self, at_once: int) -> None:
        """``at_once`` threads, at least one, may be inside."""
        if at_once < 1:
            raise ValueError(f"at_once: expected at least 1, got {at_once}")
        self._free = at_once
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()  # whoever leaves hands its place over, so nobody slips in between

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
