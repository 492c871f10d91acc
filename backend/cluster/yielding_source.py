"""Fetches that can be preempted: a worker runs one job at a time, and a slow bulk download must not delay a click.

When a background job is preempted, its download is not cancelled: it goes on in its own thread, and the next job for
the same image, the same one again or a click, uses its result.
"""

import concurrent.futures
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from backend.embeddings.content_index import SourceKey, source_key
from backend.errors import Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority

POLL_EVERY_S = 0.25
MAX_DETACHED = 3
"""Most fetches that may be detached from their jobs, so that the budget for files has room for one image of a click."""

DETACHED_S = 60.0
"""Seconds for which the result of a detached fetch is used without a new request."""


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, cached: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is unchanged since the ``cached`` validators."""
        ...


class Preempted(RetryLater):
    """A more urgent job waits, so this job must run later; its fetch goes on."""

    default_reason = Reason.SUPERSEDED


@dataclass(frozen=True)
class _DetachedFetch:
    cached: Validators | None
    future: "Future[Fetched | None]"
    since: float


class PreemptibleFetcher:
    """Fetches images one at a time; used by one thread."""

    def __init__(
        self,
        source: Source,
        is_urgent: Callable[[], bool],
        *,
        poll_every_s: float = POLL_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch with ``source``, and preempt background fetches when ``is_urgent`` returns True.

        Args:
            source: fetches image files.
            is_urgent: returns whether a click waits in the queue; raises `RetryLater` if that is unknown.
            poll_every_s: seconds between calls of ``is_urgent`` during a fetch.
            clock: seconds, monotonic.
        """
        self._source, self._is_urgent = source, is_urgent
        self._poll_every_s, self._clock = poll_every_s, clock
        self._detached: OrderedDict[SourceKey, _DetachedFetch] = OrderedDict()

    def fetch(self, ref: ImageRef, cached: Validators | None, priority: Priority) -> Fetched | None:
        """Return the image file, or None if it is unchanged since the ``cached`` validators.

        Raises:
            Preempted: a click waits for another image, and ``priority`` is not `Priority.INTERACTIVE`.
            BackendError: as raised by the source.
        """
        address_key = source_key(ref)
        future = self._take_detached(address_key, cached)
        if priority is Priority.INTERACTIVE:
            return self._source.fetch(ref, cached) if future is None else future.result()
        if future is None:
            future = Future()
            threading.Thread(target=self._fetch, args=(ref, cached, future), name="fetch", daemon=True).start()
        while True:
            try:
                return future.result(self._poll_every_s)
            except concurrent.futures.TimeoutError:
                if future.done():  # it finished just now, or the fetch itself timed out
                    return future.result()
                if len(self._detached) < MAX_DETACHED and self._has_to_yield():
                    self._detached[address_key] = _DetachedFetch(cached, future, self._clock())
                    raise Preempted("a click waits for its turn") from None

    def _take_detached(self, address_key: SourceKey, cached: Validators | None) -> "Future[Fetched | None] | None":
        """Return the detached fetch of an image, None if there is none with these validators that is recent enough."""
        now = self._clock()
        for old in [key for key, detached in self._detached.items() if now - detached.since > DETACHED_S]:
            del self._detached[old]
        detached = self._detached.pop(address_key, None)
        return None if detached is None or detached.cached != cached else detached.future

    def _has_to_yield(self) -> bool:
        try:
            return self._is_urgent()
        except RetryLater:
            return False

    def _fetch(self, ref: ImageRef, cached: Validators | None, future: "Future[Fetched | None]") -> None:
        try:
            fetched = self._source.fetch(ref, cached)
        except BaseException as error:  # noqa: BLE001 - raised by the job that uses the result
            future.set_exception(error)
        else:
            future.set_result(fetched)
