"""Embeddings made by worker processes: images are enqueued in Redis, and results arrive as completion events.

A click on a cached image costs the same as in a single process: two look-ups in memory. Otherwise the image is
*pending*: one look-up in Redis, one job if none is enqueued yet, and then no further request until a worker publishes
on the event channel that the image is done or why it failed. If no worker is alive, the image is enqueued for the next
one, and the click fails at once. One thread per process listens. Every two seconds it also checks all pending images in
one round trip, since an event may be missed, a worker may die and Redis may restart empty.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import LookupResult, SharedContentIndex, parse_event
from backend.cluster.listener import Listener, ListenerCallbacks
from backend.cluster.lookup import SharedEmbeddings
from backend.cluster.monitor import ClusterMonitor, ClusterState
from backend.cluster.queues import JobQueues
from backend.cluster.store import RedisStore
from backend.concurrency.byte_budget import ByteBudget, Share
from backend.embeddings.content_index import SourceKey, source_key
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingStore
from backend.embeddings.waiting import Observer, wait_for
from backend.errors import BackendError, Reason, RetryLater
from backend.types import ImageRef, Priority
from model.types import Embedding

logger = logging.getLogger(__name__)

POOL_THREADS = 16
OUTAGE_S = 3.0
"""Seconds for which waiting clicks survive an outage of Redis."""

RECOVERY_S = 7.0
"""Seconds after an outage of Redis, which may have lost their heartbeats, until all workers have sent one again."""

LINGER_S = 60.0
"""Seconds for which an image stays pending after the deadline of the last click on it."""

RECHECK_AGAIN_S = 30.0


@dataclass
class _PendingImage:
    """An image that this process waits for.

    It is looked up until ``enqueued_as`` is set, then enqueued or leased by a worker, and done or failed once
    ``future`` is resolved.

    Attributes:
        ref: the image.
        address_key: its key in ``_pending`` and in Redis.
        priority: the most urgent one of its requests.
        until: time on the clock at which it is given up.
        enqueued_as: priority of its job; None before it is enqueued.
        maybe_lost: whether the last check found the job's marker, but neither the job in its queue nor a lease; if the
            next check finds the same, the job is lost and the image is enqueued again.
        address_share: bytes held for a long ``data:`` address.
        future: resolved with the embedding or the error.
    """

    ref: ImageRef
    address_key: SourceKey
    priority: Priority
    until: float
    enqueued_as: Priority | None = None
    maybe_lost: bool = False
    address_share: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)


class QueuedEmbeddings:
    """Gets embeddings from workers, without an encoder in this process; safe from many threads."""

    def __init__(
        self,
        link: RedisConnection,
        cluster: ClusterMonitor,
        memory: EmbeddingStore,
        store: RedisStore,
        contents: SharedContentIndex,
        queues: JobQueues,
        model_version: str,
        observer: Observer,
        *,
        dtype: Dtype = "float16",
        budget: ByteBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Combine this process' memory with the shared state in Redis; `start` begins the threads.

        Args:
            link: connection to Redis.
            cluster: monitors the workers and the queues.
            memory: embeddings of this process.
            store: embeddings in Redis.
            contents: the content at each address, in Redis.
            queues: the job queues.
            model_version: name and digest of the weights of the workers' encoders and of this process' decoder.
            observer: counts and times the work.
            dtype: number format of the stored embeddings.
            budget: the memory for ``data:`` addresses; None for a new one.
            clock: seconds, monotonic.
        """
        self._link, self._cluster, self._queues, self._observer, self._clock = link, cluster, queues, observer, clock
        self._cached = SharedEmbeddings(link, memory, store, contents, model_version, dtype, clock)
        self._pending: dict[SourceKey, _PendingImage] = {}
        self._revalidated_until: dict[SourceKey, float] = {}
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="redis")
        self._prefetcher = Prefetcher(self._prefetch)
        callbacks = ListenerCallbacks(
            self._on_message, self._check_all, lambda: self._submit(self._cluster.refresh), self._fail_all
        )
        self._listener = Listener(link, cluster.channel, callbacks, clock)
        self._budget = budget or ByteBudget()
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether images can be encoded: Redis is reachable and a worker is alive."""
        return not self._link.is_down and self.cluster.workers > 0

    @property
    def failure(self) -> str:
        """Always empty: the encoders are in the workers, which log their failures."""
        return ""

    @property
    def encoding(self) -> int:
        """Number of images that this process waits for."""
        return len(self._pending)

    @property
    def ahead(self) -> int:
        """Number of images that this process has yet to enqueue for prefetching."""
        return len(self._prefetcher)

    @property
    def cluster(self) -> ClusterState:
        """State of the workers and the queues a few seconds ago."""
        return self._cluster.state

    def start(self) -> None:
        """Begin listening; call it after a fork, not before. The first request calls it too."""
        self._listener.start()
        self._prefetcher.start()

    def close(self) -> None:
        """Fail all requests, and end the threads."""
        with self._lock:
            self._stopped.set()
        for pending in list(self._pending.values()):
            self._finish(pending, _stopping())
        self._pool.shutdown(wait=True, cancel_futures=True)
        for pending in list(self._pending.values()):  # added before the pool ended
            self._finish(pending, _stopping())
        self._listener.close()
        self._prefetcher.close()
        self._link.close()

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get`."""
        address_key = source_key(ref)
        embedding = self._get_local(ref, address_key)
        if embedding is not None:
            self._observer.record_lookup("memory")
            return embedding
        future = self._join(ref, address_key, priority, deadline_s)
        return wait_for(future, deadline_s, self._observer, self._timeout_error)

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached; see `backend.embeddings.local.Embeddings.peek`."""
        address_key = source_key(ref)
        embedding = self._get_local(ref, address_key)
        if embedding is None:
            with suppress(BackendError):
                cached = self._cached.fetch(address_key, self._cached.look_up(address_key))
                embedding = cached.embedding if cached is not None else None
        return embedding

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Have images encoded when no more urgent work waits; each image once for all web processes."""
        self.start()
        self._prefetcher.add(refs)

    def _get_local(self, ref: ImageRef, address_key: SourceKey) -> Embedding | None:
        """Return the embedding if it is in this process' memory; revalidate a stale one in the background."""
        cached = self._cached.get_local(address_key)
        if cached is None:
            return None
        if not cached.is_fresh:
            self._revalidate(ref, address_key)
        return cached.embedding

    def _join(
        self, ref: ImageRef, address_key: SourceKey, priority: Priority, deadline_s: float
    ) -> "Future[Embedding]":
        """Return the future of an image's embedding; start the look-up if the image is not pending yet."""
        self.start()
        until = self._clock() + deadline_s + LINGER_S
        with self._lock:
            if self._stopped.is_set():
                raise _stopping()
            pending = self._pending.get(address_key)
            if pending is not None:
                self._observer.shared()
                pending.until = max(pending.until, until)
                if priority < pending.priority:
                    pending.priority = priority
                    self._pool.submit(self._run_step, pending, self._enqueue)
                return pending.future
            address_share = self._budget.take_address(ref.uri)
            pending = _PendingImage(ref, address_key, priority, until, address_share=address_share)
            self._pending[address_key] = pending
            self._pool.submit(self._run_step, pending, self._start)
            return pending.future

    def _timeout_error(self) -> RetryLater | None:
        """Return the error of a click whose deadline passed while no worker was alive; None if one was."""
        state = self.cluster
        if state.is_known and not state.workers and not self._link.is_down:
            return self._no_worker_error()  # asked anew: one may have started since the state was taken
        return None

    def _no_worker_error(self) -> RetryLater | None:
        """Return the error of waiting requests if no worker is alive, busy or loading its model; None if one is.

        None also if that is unknown: during an outage of Redis, and for `RECOVERY_S` after it, since Redis may have
        lost the workers' heartbeats.
        """
        try:
            other_models = self._cluster.other_models_if_alone()
        except RetryLater:
            return None
        if other_models is None or self._link.up_s < RECOVERY_S:
            return None
        return _no_worker(other_models)

    # Steps of a pending image, on the pool's threads

    def _run_step(self, pending: _PendingImage, step: Callable[[_PendingImage], None]) -> None:
        """Run a step of a pending image; any error, also a defect, resolves its future."""
        try:
            step(pending)
        except BackendError as error:
            self._finish(pending, error)
        except Exception as error:  # a defect must not leave clicks waiting
            logger.exception("event=flight_defect project=%s task=%s", pending.ref.project_id, pending.ref.task_id)
            self._finish(pending, BackendError(f"internal error: {error}"))

    def _start(self, pending: _PendingImage) -> None:
        """Look the image up in Redis; enqueue it if it is missing."""
        if not self._finish_if_known(pending, self._cached.look_up(pending.address_key)):
            self._observer.record_lookup("miss")
            self._enqueue(pending)  # also without a worker, for the next one that starts
            if (no_worker := self._no_worker_error()) is not None:
                self._finish(pending, no_worker)

    def _finish_if_known(self, pending: _PendingImage, looked_up: LookupResult) -> bool:
        """Resolve the future if the look-up has a failure or a cached embedding; return whether it did."""
        if looked_up.failure is not None:
            self._finish(pending, looked_up.failure)
            return True
        cached = self._cached.fetch(pending.address_key, looked_up)
        if cached is None:
            return False
        self._observer.record_lookup(cached.tier)
        self._finish(pending, cached.embedding)
        if not cached.is_fresh:
            self._revalidate(pending.ref, pending.address_key)
        return True

    def _enqueue(self, pending: _PendingImage) -> None:
        """Enqueue the image, unless another process has."""
        priority = pending.priority
        if not self._queues.ask(pending.ref, pending.address_key, priority):
            self._observer.shared()
        pending.enqueued_as, pending.maybe_lost = priority, False

    def _check(self, pending: _PendingImage) -> None:
        """Check whether an image is done, leased, enqueued or lost; enqueue a lost one again."""
        if self._finish_if_known(pending, self._cached.look_up(pending.address_key)):
            return
        if (
            pending.enqueued_as is None
            or self._cluster.is_worked_on(pending.address_key)
            or self._queues.is_queued(pending.address_key, pending.enqueued_as)
        ):
            pending.maybe_lost = False
        elif not pending.maybe_lost and self._cluster.is_announced(pending.address_key, pending.enqueued_as):
            pending.maybe_lost = True  # a worker may just be about to begin
        else:
            logger.warning("event=job_lost task=%s", pending.ref.task_id)
            self._queues.clear_marker(pending.address_key, pending.enqueued_as)
            self._enqueue(pending)

    def _finish(self, pending: _PendingImage, outcome: "Embedding | BackendError") -> None:
        with self._lock:
            if self._pending.get(pending.address_key) is not pending:
                return
            del self._pending[pending.address_key]
        if pending.address_share is not None:
            pending.address_share.release()
        if isinstance(outcome, BackendError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _submit(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the pool is shut down before the listener ends
            self._pool.submit(function, *arguments)

    # Callbacks of the listener's thread

    def _on_message(self, data: bytes) -> None:
        event = parse_event(data)
        if event is None:
            return
        if event.result.record is not None:
            self._cached.refresh(event.address_key, event.result.record)
        with self._lock:
            pending = self._pending.get(event.address_key)
        if pending is not None:
            self._submit(self._run_step, pending, lambda pending: self._on_event(pending, event.result))

    def _on_event(self, pending: _PendingImage, looked_up: LookupResult) -> None:
        if not self._finish_if_known(pending, looked_up):
            self._check(pending)

    def _check_all(self) -> None:
        """Check all pending images; one round trip covers those that are leased or enqueued, which most are."""
        now = self._clock()
        with self._lock:
            images = list(self._pending.values())
        for pending in images:
            if now > pending.until:
                self._finish(pending, RetryLater("nobody waits any more", Reason.BUDGET_EXCEEDED))
        if images and (no_worker := self._no_worker_error()) is not None:
            for pending in images:
                self._finish(pending, copy.copy(no_worker))
            return
        jobs = [(pending.address_key, pending.enqueued_as) for pending in images]
        for pending, is_in_progress in zip(images, self._cluster.are_in_progress(jobs), strict=True):
            if is_in_progress:
                pending.maybe_lost = False
            elif not pending.future.done():
                self._submit(self._run_step, pending, self._check)

    def _fail_all(self, error: RetryLater) -> None:
        """Fail all requests once an outage of Redis has lasted for `OUTAGE_S`."""
        if self._link.down_s < OUTAGE_S:
            return
        for pending in list(self._pending.values()):
            self._finish(pending, copy.copy(error))

    # Background work

    def _prefetch(self, ref: ImageRef) -> None:
        address_key = source_key(ref)
        try:
            if self._get_local(ref, address_key) is None and not self._cached.is_done(address_key):
                self._queues.ask(ref, address_key, Priority.PREFETCH)
        except BackendError as error:
            self._observer.background_failure(error.reason)
            logger.info("event=prefetch_failed task=%s reason=%s", ref.task_id, error.reason)
        except Exception:
            logger.exception("event=prefetch_defect task=%s", ref.task_id)

    def _revalidate(self, ref: ImageRef, address_key: SourceKey) -> None:
        """Have a worker check whether an image has changed, while clicks on it are still answered."""
        now = self._clock()
        with self._lock:
            if self._revalidated_until.get(address_key, 0.0) > now or self._stopped.is_set():
                return
            self._revalidated_until = {key: until for key, until in self._revalidated_until.items() if until > now}
            self._revalidated_until[address_key] = now + RECHECK_AGAIN_S
            self._pool.submit(self._recheck, ref, address_key)

    def _recheck(self, ref: ImageRef, address_key: SourceKey) -> None:
        try:
            looked_up = self._cached.look_up(address_key)
            if looked_up.record is not None and looked_up.record.is_fresh:
                self._cached.learn(address_key, looked_up.record)
            else:
                self._queues.ask(ref, address_key, Priority.PREFETCH)
        except BackendError as error:
            logger.info("event=recheck_failed project=%s reason=%s", ref.project_id, error.reason)
        except Exception:
            logger.exception("event=recheck_defect project=%s task=%s", ref.project_id, ref.task_id)


def _no_worker(other_models: Sequence[str]) -> RetryLater:
    others = f"; those that run encode with other weights: {', '.join(other_models)}" if other_models else ""
    return RetryLater(f"no worker is alive that could encode the image{others}", Reason.NO_WORKER)


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
