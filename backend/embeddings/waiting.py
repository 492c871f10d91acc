"""Waiting for an embedding that is on its way: counted, no longer than told, each waiter with an error of its own."""

import concurrent.futures
import copy
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from backend.embeddings.encode import Stopwatch
from backend.errors import BackendError, Reason, RetryLater
from model.types import Embedding


class Observer(Stopwatch, Protocol):
    """Is told what happens; see `backend.metrics.Metrics`."""

    def waiting(self) -> AbstractContextManager[None]:
        """Count a request as waiting while inside."""
        ...

    def shared(self) -> None:
        """Count a request that joined work already on its way."""
        ...

    def background_failure(self, reason: Reason, /) -> None:
        """Count an image that could not be encoded ahead."""
        ...


def wait_for(
    future: "Future[Embedding]",
    within_s: float,
    observer: Observer,
    late: Callable[[], RetryLater | None] = lambda: None,
) -> Embedding:
    """Return an embedding when it is there.

    Args:
        future: the embedding to come.
        within_s: for how long to wait.
        observer: counts who waits.
        late: says why it is late, None where it simply takes its time.

    Raises:
        RetryLater: time is up; the work goes on.
        BackendError: what the future failed with.
    """
    with observer.waiting():
        try:
            return future.result(within_s)
        except concurrent.futures.TimeoutError:
            text = f"the image was not ready within {within_s:.1f} s; it will be soon"
            raise late() or RetryLater(text, Reason.BUDGET_EXCEEDED) from None
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, each its own
