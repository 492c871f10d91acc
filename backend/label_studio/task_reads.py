"""Reads single tasks from Label Studio, with retries in outages and a limit for a task that always fails."""

import threading
from collections.abc import Callable
from typing import TypeVar

from backend.concurrency.retry import OutageRetry
from backend.errors import BackendError
from backend.label_studio.http import FaultError, RefusedError
from backend.label_studio.prediction_writer import MOST_FAULTS

T = TypeVar("T")


class TaskReads:
    """Calls Label Studio about single tasks, with ``retry`` in outages; safe from many threads."""

    def __init__(self, retry: OutageRetry) -> None:
        self._retry, self._lock, self._reads = retry, threading.Lock(), 0

    def __call__(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call about one task, retried in outages; None if the task was deleted meanwhile.

        Raises:
            Stopped: the run is being stopped.
            BackendError: Label Studio refuses, or fails on this task repeatedly while it answers about others.
        """
        faults, last_reads = 0, self._reads

        def read() -> T:
            nonlocal faults, last_reads
            reads_at_start = self._reads  # taken before the call: an outage may end meanwhile
            try:
                result = call()
            except FaultError as error:
                faults += reads_at_start > last_reads
                last_reads = self._reads
                if faults >= MOST_FAULTS:
                    raise BackendError(str(error), error.reason) from error
                raise
            with self._lock:
                self._reads += 1
            return result

        try:
            return self._retry.call(read)
        except RefusedError as error:
            if not error.is_gone:
                raise
            return None
