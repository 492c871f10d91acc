"""What a run asks Label Studio about single tasks, through outages, and without waiting for one that always fails."""

import threading
from collections.abc import Callable
from typing import TypeVar

from backend.concurrency.retry import OutageRetry
from backend.errors import BackendError
from backend.label_studio.http import FaultError
from backend.label_studio.prediction_writer import MOST_FAULTS

T = TypeVar("T")


class TaskReads:
    """Makes calls about tasks; safe from many threads."""

    def __init__(self, patience: OutageRetry) -> None:
        """Ask nothing yet; ``patience`` waits while Label Studio is away."""
        self._patience, self._lock, self._so_far = patience, threading.Lock(), 0

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what Label Studio tells of a task, through outages.

        Raises:
            Stopped: the run is to end.
            BackendError: it refuses, or fails over this task again and again and answers about others in between.
        """
        faults, read_before = 0, self._so_far

        def read() -> T:
            nonlocal faults, read_before
            are_read = self._so_far  # before this is asked: an outage may end meanwhile
            try:
                found = call()
            except FaultError as error:
                faults += are_read > read_before
                read_before = self._so_far
                if faults >= MOST_FAULTS:
                    raise BackendError(str(error), error.reason) from error
                raise
            with self._lock:
                self._so_far += 1
            return found

        return self._patience.call(read)
