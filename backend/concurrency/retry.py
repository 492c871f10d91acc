"""Retries a call with backoff during an outage, until it succeeds, the run stops, or time is up.

The service reports an outage to its client at once; a run over a whole project waits until the outage is over.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from backend.errors import Kind, Reason, RetryLater

logger = logging.getLogger(__name__)

T = TypeVar("T")

LASTS_S = 600.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0
LOG_EVERY_S = 60.0
ATTEMPTS = 3  # how often a call is tried whose error may concern one image only
BETWEEN_ATTEMPTS_S = 4.0
"""Longer than a transient failure of an image is cached, see `backend.embeddings.content_index`."""


class Stopped(RetryLater):
    """The run must end; work that has not begun is left for the next run."""

    def __init__(self) -> None:
        super().__init__("the run was stopped", Reason.SUPERSEDED)


class OutageError(RetryLater):
    """An outage has lasted longer than `OutageRetry` waits."""


class OutageRetry:
    """Repeats calls during an outage; safe from many threads.

    >>> retry = OutageRetry(threading.Event())
    >>> retry.call(lambda: "done")
    'done'
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        lasts_s: float = LASTS_S,
        first_wait_s: float = FIRST_WAIT_S,
        between_attempts_s: float = BETWEEN_ATTEMPTS_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Retry until ``stop`` is set, which also interrupts waits, or an outage has lasted ``lasts_s``.

        The second try comes after about ``first_wait_s``; each further wait is twice as long, up to `LONGEST_WAIT_S`.
        """
        self._stop, self._lasts_s, self._first_wait_s, self._clock = stop, lasts_s, first_wait_s, clock
        self._between_attempts_s = between_attempts_s
        self._lock, self._logged_at = threading.Lock(), float("-inf")

    def call(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, retrying during outages; the first try is made even if ``stop`` is set.

        Raises:
            Stopped: the run must end, and the call would have to be retried.
            OutageError: ``work`` has failed for ``lasts_s`` with a reason of the kind `Kind.OUTAGE`.
            BackendError: any other error that ``work`` raises.
        """
        wait_s, failing_since = self._first_wait_s, float("inf")
        while True:
            try:
                return work()
            except RetryLater as error:
                if error.reason.kind is not Kind.OUTAGE:
                    raise
                failing_since = min(failing_since, self._clock())
                if self._clock() - failing_since >= self._lasts_s:
                    lasts_s = self._lasts_s
                    lasts = f"{lasts_s / 60:.0f} minutes" if lasts_s >= 120 else f"{lasts_s:.0f} seconds"
                    raise OutageError(f"for {lasts}: {error}", error.reason) from error
                requested_s = min(error.retry_after_s or 0.0, self._lasts_s)
                self._log_outage(error)
            self._sleep(max(requested_s, wait_s * random.uniform(0.5, 1.0)))  # noqa: S311 - spreads the retries of many threads
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def call_for_image(self, work: Callable[[], T], probe: Callable[[], object]) -> T:
        """Return what ``work`` about one image returns, retrying outages with `call` and other failures a few times.

        In between ``probe`` makes a request to Label Studio, since no image can be fetched from it during an outage.

        Raises:
            Stopped: the run must end.
            OutageError: an outage has lasted too long.
            BackendError: the last of `ATTEMPTS` tries failed, or a try failed for good.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.call(work)
            except (OutageError, Stopped):
                raise
            except RetryLater:
                if attempt == ATTEMPTS:
                    raise
            self._sleep(self._between_attempts_s)
            self.call(probe)
        raise AssertionError("the last attempt returns or raises")

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if the run must end."""
        if self._stop.is_set():
            raise Stopped

    def _log_outage(self, error: RetryLater) -> None:
        with self._lock:
            if self._clock() - self._logged_at < LOG_EVERY_S:
                return
            self._logged_at = self._clock()
        logger.warning("event=waiting reason=%s detail=%r", error.reason, str(error))

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped
