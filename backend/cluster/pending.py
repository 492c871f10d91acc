"""The images that one web process waits for.

An image is *pending* from the first request for it until its embedding or its failure is known. It is looked up in
Redis, enqueued if it is not there, and then costs no further request until a worker publishes on the event channel that
it is done or why it failed. If no worker is alive, the image is enqueued for the next one, and its requests fail at
once. Every two seconds all pending images are checked in one round trip, since an event may be missed, a worker may die
and Redis may restart empty.
"""

import copy
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from backend.cluster.content_index import LookupResult, parse_event
from backend.cluster.lookup import EncodeResult, SharedEmbeddings
from backend.cluster.parts import ClusterParts
from backend.cluster.queues import JobState
from backend.concurrency.byte_budget import ByteBudget, Share
from backend.embeddings.content_index import SourceKey
from backend.errors import BackendError, Reason, RetryLater, internal
from backend.metrics import Metrics
from backend.types import ImageRef, Priority

logger = logging.getLogger(__name__)

OUTAGE_S = 3.0  # seconds for which waiting clicks survive an outage of Redis
LINGER_S = 60.0  # seconds for which an image stays pending after the deadline of the last click on it


@dataclass(eq=False)
class _PendingImage:
    """An image that this process waits for."""

    ref: ImageRef
    address_key: SourceKey  # its key in ``_images`` and in Redis
    priority: Priority  # the most urgent one of its requests
    until: float  # time on the clock at which it is given up
    enqueued_as: Priority | None = None  # priority of its job; None before it is enqueued
    # whether the last check found the job `JobState.TAKEN`; if the next one does too, it is lost
    maybe_lost: bool = False
    address_share: Share | None = None
    future: "Future[EncodeResult]" = field(default_factory=Future)


class PendingImages:
    """Requests for images, joined per address; safe from many threads."""

    def __init__(
        self,
        parts: ClusterParts,
        cached: SharedEmbeddings,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
        clock: Callable[[], float],
        budget: ByteBudget | None = None,
    ) -> None:
        """Look images up and enqueue them on the threads of ``pool``; ``budget`` bounds long ``data:`` addresses."""
        self._parts, self._cached, self._pool = parts, cached, pool
        self._metrics, self._clock = metrics, clock
        self._budget = budget or ByteBudget()
        self._images: dict[SourceKey, _PendingImage] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def join(
        self, ref: ImageRef, address_key: SourceKey, priority: Priority, within_s: float
    ) -> "Future[EncodeResult]":
        """Return the future of what a worker makes of an image; start the look-up if the image is not pending yet.

        Raises:
            RetryLater: the process is stopping, or has no room for a long address.
        """
        until = self._clock() + within_s + LINGER_S
        with self._lock:
            if self._is_closed:
                raise _stopping()
            pending = self._images.get(address_key)
            if pending is None:
                address_share = self._budget.take_address(ref.uri)
                pending = _PendingImage(ref, address_key, priority, until, address_share=address_share)
                self._images[address_key] = pending
                self._pool.submit(self._run_step, pending, self._start)
                return pending.future
            self._metrics.record_join()
            pending.until = max(pending.until, until)
            if priority < pending.priority:
                pending.priority = priority
                self._pool.submit(self._run_step, pending, self._enqueue)
            return pending.future

    def close(self) -> None:
        """Fail all requests, also later ones, and end the pool's threads."""
        with self._lock:
            self._is_closed = True
        self._fail(_stopping())
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fail(_stopping())  # added before the pool ended

    def on_message(self, data: bytes) -> None:
        """Use a worker's completion event; called on the listener's thread, like the methods below."""
        event = parse_event(data)
        if event is None:
            return
        address_key, result = event
        if result.record is not None:
            self._cached.refresh(address_key, result.record)
        pending = self._images.get(address_key)
        if pending is not None:
            self._pool.submit(self._run_step, pending, lambda pending: self._check(pending, result))

    def check(self) -> None:
        """Check all pending images; one round trip covers those that are leased or enqueued, which most are."""
        with self._lock:
            images = list(self._images.values())
        for pending in images:
            if self._clock() > pending.until:
                self._finish(pending, RetryLater("no request waits for the image any more", Reason.BUDGET_EXCEEDED))
        if images and (no_worker := self._parts.monitor.no_worker_error()) is not None:
            self._fail(no_worker)
            return
        jobs = [(pending.address_key, pending.enqueued_as or pending.priority) for pending in images]
        for pending, state in zip(images, self._parts.queues.job_states(jobs), strict=True):
            if state in (JobState.LEASED, JobState.QUEUED):
                pending.maybe_lost = False
            elif not pending.future.done():
                self._pool.submit(self._run_step, pending, self._check)

    def on_outage(self, error: RetryLater) -> None:
        """Fail all requests once an outage of Redis has lasted for `OUTAGE_S`."""
        if self._parts.link.down_s >= OUTAGE_S:
            self._fail(error)

    def _run_step(self, pending: _PendingImage, step: Callable[[_PendingImage], None]) -> None:
        try:
            step(pending)
        except BackendError as error:
            self._finish(pending, error)
        except Exception as error:  # a defect must not leave clicks waiting
            logger.exception("event=pending_defect project=%s task=%s", pending.ref.project_id, pending.ref.task_id)
            self._finish(pending, internal(error))

    def _start(self, pending: _PendingImage) -> None:
        """Look the image up in Redis; enqueue it if it is missing."""
        if not self._finish_if_known(pending, self._parts.contents.get(pending.address_key)):
            self._metrics.record_lookup("miss")
            self._enqueue(pending)  # also without a worker, for the next one that starts
            if (no_worker := self._parts.monitor.no_worker_error()) is not None:
                self._finish(pending, no_worker)

    def _finish_if_known(self, pending: _PendingImage, looked_up: LookupResult) -> bool:
        """Resolve the future if the look-up has a failure or what was made; return whether it did."""
        if looked_up.failure is not None:
            self._finish(pending, looked_up.failure)
            return True
        cached = self._cached.fetch(pending.ref, pending.address_key, looked_up)
        if cached is None:
            return False
        result, tier = cached
        self._metrics.record_lookup(tier)
        self._finish(pending, result)
        if looked_up.record is not None and not looked_up.record.is_fresh:
            self._cached.revalidate(pending.ref, pending.address_key)
        return True

    def _enqueue(self, pending: _PendingImage) -> None:
        priority = pending.priority
        if not self._parts.queues.enqueue(pending.ref, pending.address_key, priority):
            self._metrics.record_join()
        pending.enqueued_as, pending.maybe_lost = priority, False

    def _check(self, pending: _PendingImage, looked_up: LookupResult | None = None) -> None:
        """Finish an image whose result is known; enqueue one again whose job is lost."""
        if self._finish_if_known(pending, looked_up or self._parts.contents.get(pending.address_key)):
            return
        if pending.enqueued_as is None:
            return
        (state,) = self._parts.queues.job_states([(pending.address_key, pending.enqueued_as)])
        if state in (JobState.LEASED, JobState.QUEUED):
            pending.maybe_lost = False
        elif state is JobState.TAKEN and not pending.maybe_lost:
            pending.maybe_lost = True
        else:
            logger.warning("event=job_lost task=%s", pending.ref.task_id)
            self._parts.queues.clear_marker(pending.address_key, pending.enqueued_as)
            self._enqueue(pending)

    def _fail(self, error: RetryLater) -> None:
        for pending in list(self._images.values()):
            self._finish(pending, copy.copy(error))

    def _finish(self, pending: _PendingImage, outcome: "EncodeResult | BackendError") -> None:
        with self._lock:
            if self._images.get(pending.address_key) is not pending:
                return
            del self._images[pending.address_key]
        if pending.address_share is not None:
            pending.address_share.release()
        if isinstance(outcome, BackendError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
