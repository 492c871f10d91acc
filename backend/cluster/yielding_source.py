"""Fetches that make way: a worker does one job at a time, and a slow download of bulk work must not hold up a click.

A fetch for which nobody waits at a screen is given up by the job, not by the network: it goes on in its thread, and
whoever comes for the same image next, the job itself or a click, finds it there.
"""

import concurrent.futures
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from backend.concurrency.byte_budget import IMAGES
from backend.embeddings.content_index import SourceKey, source_key
from backend.errors import Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority

LOOK_EVERY_S = 0.25
MAX_DETACHED = IMAGES - 1
"""How many fetches may go on aside: of the room for files, what a click needs is left."""

ASIDE_S = 60.0
"""For how long one that was set aside is taken for what the server would say now."""


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, known: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is still the known one."""
        ...


class Preempted(RetryLater):
    """Something more urgent waits, so the job is to be done later; its fetch goes on."""

    default_reason = Reason.SUPERSEDED


@dataclass(frozen=True)
class _Aside:
    known: Validators | None
    future: "Future[Fetched | None]"
    since: float


class PreemptibleFetcher:
    """Fetches images one at a time; to be used by one thread."""

    def __init__(
        self,
        source: Source,
        is_urgent: Callable[[], bool],
        *,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing.

        Args:
            source: where image files come from.
            is_urgent: whether somebody at a screen waits for his turn; may raise `RetryLater` where that is not known.
            look_every_s: how often that is asked while a fetch takes its time.
            clock: seconds, monotonic.
        """
        self._source, self._is_urgent = source, is_urgent
        self._look_every_s, self._clock = look_every_s, clock
        self._aside: OrderedDict[SourceKey, _Aside] = OrderedDict()

    def fetch(self, ref: ImageRef, known: Validators | None, priority: Priority) -> Fetched | None:
        """Return the image file, or None if it is still the ``known`` one.

        Raises:
            Preempted: somebody at a screen waits for another job, and nobody for this one.
            BackendError: as the source does.
        """
        place = source_key(ref)
        future = self._taken_up(place, known)
        if priority is Priority.INTERACTIVE:
            return self._source.fetch(ref, known) if future is None else future.result()
        if future is None:
            future = Future()
            threading.Thread(target=self._fetch, args=(ref, known, future), name="fetch", daemon=True).start()
        while True:
            try:
                return future.result(self._look_every_s)
            except concurrent.futures.TimeoutError:
                if future.done():  # it came a moment late, or the fetch itself ended so
                    return future.result()
                if len(self._aside) < MAX_DETACHED and self._has_to_yield():
                    self._aside[place] = _Aside(known, future, self._clock())
                    raise Preempted("a click waits for its turn") from None

    def _taken_up(self, place: SourceKey, known: Validators | None) -> "Future[Fetched | None] | None":
        """Return the fetch of an image that was set aside, None where there is none that is of use."""
        now = self._clock()
        for old in [one for one, aside in self._aside.items() if now - aside.since > ASIDE_S]:
            del self._aside[old]
        found = self._aside.pop(place, None)
        return None if found is None or found.known != known else found.future

    def _has_to_yield(self) -> bool:
        try:
            return self._is_urgent()
        except RetryLater:
            return False

    def _fetch(self, ref: ImageRef, known: Validators | None, future: "Future[Fetched | None]") -> None:
        try:
            fetched = self._source.fetch(ref, known)
        except BaseException as error:  # noqa: BLE001 - whoever comes for it raises it
            future.set_exception(error)
        else:
            future.set_result(fetched)
