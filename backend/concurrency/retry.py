"""Sees calls through outages: tried again, ever less often, until they succeed, somebody says stop, or time is up.

A service answers at once that something is away; a run over a whole project rather waits until it is back.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from backend.errors import Reason, RetryLater

logger = logging.getLogger(__name__)

T = TypeVar("T")

LASTS_S = 600.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0
TOLD_EVERY_S = 60.0
ATTEMPTS = 3
"""How often what may be wrong with one image alone is tried."""

BETWEEN_ATTEMPTS_S = 4.0
"""Longer than a passing failure of an image is remembered, see `backend.embeddings.content_index`."""

OUTAGES = frozenset(
    (
        Reason.LABEL_STUDIO_UNREACHABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.MODEL_NOT_READY,
        Reason.NO_WORKER,
        Reason.OVERLOADED,
        Reason.BUDGET_EXCEEDED,
    )
)
"""What goes wrong for everything at once, and passes."""


class Stopped(RetryLater):
    """The run is to end; what has not begun is left for the next one."""

    def __init__(self) -> None:
        super().__init__("the run was stopped", Reason.SUPERSEDED)


class OutageError(RetryLater):
    """Something has been away for longer than patience lasts."""


class OutageRetry:
    """Repeats calls for as long as it lasts; safe from many threads."""

    def __init__(
        self,
        stop: threading.Event,
        *,
        lasts_s: float = LASTS_S,
        first_wait_s: float = FIRST_WAIT_S,
        between_attempts_s: float = BETWEEN_ATTEMPTS_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait for nothing yet.

        Args:
            stop: is set when the run is to end; whoever waits then stops waiting.
            lasts_s: for how long an outage is waited for.
            first_wait_s: about how long to wait before the second try; every further wait is twice as long.
            between_attempts_s: how long to wait before an image is tried again.
            clock: seconds, monotonic.
        """
        self._stop, self._lasts_s, self._first_wait_s, self._clock = stop, lasts_s, first_wait_s, clock
        self._between_attempts_s = between_attempts_s
        self._lock, self._told_at = threading.Lock(), float("-inf")

    def call(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, after however many tries; the first is made in any case.

        Raises:
            Stopped: the run is to end, and there is something to wait for.
            OutageError: it has failed for too long with a reason that is one of `OUTAGES`.
            BackendError: whatever else ``work`` raises.
        """
        wait_s, since = self._first_wait_s, float("inf")
        while True:
            try:
                return work()
            except RetryLater as error:
                if error.reason not in OUTAGES:
                    raise
                since = min(since, self._clock())
                if self._clock() - since >= self._lasts_s:
                    raise OutageError(f"for {_span(self._lasts_s)}: {error}", error.reason) from error
                asked_s = min(error.retry_after_s or 0.0, self._lasts_s)
                self._tell(error)
            self._pause(max(asked_s, wait_s * random.uniform(0.5, 1.0)))  # noqa: S311 - so that not all come back at once
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def call_for_image(self, work: Callable[[], T], look: Callable[[], object]) -> T:
        """Return what ``work`` about one image returns: outages are waited for, its own failures tried a few times.

        Args:
            work: fetches an image, among other things.
            look: asks Label Studio for something; an image cannot be fetched while that is away.

        Raises:
            Stopped: the run is to end.
            OutageError: something has been away for too long.
            BackendError: it cannot be done.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.call(work)
            except (OutageError, Stopped):
                raise
            except RetryLater:
                if attempt == ATTEMPTS:
                    raise
            self._pause(self._between_attempts_s)
            self.call(look)
        raise AssertionError("the last attempt returns or raises")

    def check(self) -> None:
        """Return if the run goes on.

        Raises:
            Stopped: it is to end.
        """
        if self._stop.is_set():
            raise Stopped

    def _tell(self, error: RetryLater) -> None:
        """Note an outage in the log, now and then while it lasts."""
        with self._lock:
            if self._clock() - self._told_at < TOLD_EVERY_S:
                return
            self._told_at = self._clock()
        logger.warning("event=waiting reason=%s detail=%r", error.reason, str(error))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
