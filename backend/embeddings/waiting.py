"""Waits for an embedding with a timeout, counts the waiting requests, and gives each its own copy of an error."""

import concurrent.futures
import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from backend.errors import BackendError, Reason, RetryLater
from backend.metrics import Metrics

T = TypeVar("T")


def wait_for(
    future: "Future[T]",
    timeout_s: float,
    metrics: Metrics,
    on_timeout: Callable[[], RetryLater | None] = lambda: None,
) -> T:
    """Return the result of a future when it is ready.

    Raises:
        RetryLater: time is up (``budget_exceeded``, or what ``on_timeout`` returns); the work goes on.
        BackendError: the error of the future.
    """
    with metrics.waiting():
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            text = f"the image was not ready within {timeout_s:.1f} s; it will be soon"
            raise on_timeout() or RetryLater(text, Reason.BUDGET_EXCEEDED) from None
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, so each needs its own copy
