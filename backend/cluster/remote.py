"""Embeddings made by worker processes: images are enqueued in Redis, and results arrive as completion events.

A click on a cached image costs the same as in a single process: two look-ups in memory. Any other image is pending, see
`backend.cluster.pending`. One thread per process listens to the events.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from backend.cluster.listener import Listener
from backend.cluster.lookup import EncodeResult, SharedEmbeddings
from backend.cluster.monitor import ClusterState
from backend.cluster.parts import ClusterParts
from backend.cluster.pending import PendingImages
from backend.cluster.store import RedisStore
from backend.concurrency.byte_budget import ByteBudget
from backend.embeddings.content_index import source_key
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingStore
from backend.embeddings.waiting import wait_for
from backend.embeddings.word_boxes import Boxes
from backend.errors import BackendError, RetryLater
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from model.types import Embedding

POOL_THREADS = 16


class QueuedEmbeddings:
    """Gets embeddings from workers, without an encoder in this process; safe from many threads."""

    failure = ""  # always empty: the encoders are in the workers, which log their failures

    def __init__(
        self,
        parts: ClusterParts,
        memory: EmbeddingStore,
        store: RedisStore,
        metrics: Metrics,
        dtype: Dtype = "float16",
        *,
        clock: Callable[[], float] = time.monotonic,
        budget: ByteBudget | None = None,
    ) -> None:
        """Combine this process' memory with the shared state in Redis; `start` begins the threads."""
        self._parts, self._metrics = parts, metrics
        pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="redis")
        self._cached = SharedEmbeddings(parts, memory, store, pool, dtype, clock)
        self._pending = PendingImages(parts, self._cached, pool, metrics, clock, budget)
        self._prefetcher = Prefetcher(self._prefetch, metrics)
        self._listener = Listener(
            parts.link,
            parts.keys.events,
            on_message=self._pending.on_message,
            on_poll=self._pending.check,
            on_refresh=lambda: pool.submit(parts.monitor.refresh),
            on_outage=self._pending.on_outage,
        )

    @property
    def is_ready(self) -> bool:
        """Whether images can be encoded: Redis is reachable and a worker is alive."""
        return not self._parts.link.is_down and self.cluster.workers > 0

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
        return self._parts.monitor.state

    def start(self) -> None:
        """Begin listening; call it after a fork, not before. The first request calls it too."""
        self._listener.start()
        self._prefetcher.start()

    def close(self) -> None:
        """Fail all requests, and end the threads."""
        self._listener.close()
        self._pending.close()
        self._prefetcher.close()
        self._parts.link.close()

    def get(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get`."""
        embedding = self._get(ref, within_s, priority)
        assert isinstance(embedding, Embedding)
        return embedding

    def find(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Boxes:
        """Return what a worker's detector finds on an image; see `backend.embeddings.local.Embeddings.find`."""
        assert ref.words is not None
        boxes = self._get(ref, within_s, priority)
        assert isinstance(boxes, tuple)
        return boxes

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached; see `backend.embeddings.local.Embeddings.peek`."""
        address_key = source_key(ref)
        result = self._cached.get_local(ref, address_key)
        if result is None:
            with suppress(BackendError):
                cached = self._cached.fetch(ref, address_key, self._parts.contents.get(address_key))
                result = cached[0] if cached is not None else None
        return result if isinstance(result, Embedding) else None

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Have images encoded when no more urgent work waits; each image once for all web processes."""
        self.start()
        self._prefetcher.add(refs)

    def _get(self, ref: ImageRef, within_s: float, priority: Priority) -> EncodeResult:
        address_key = source_key(ref)
        result = self._cached.get_local(ref, address_key)
        if result is not None:
            self._metrics.record_lookup("memory")
            return result
        self.start()
        future = self._pending.join(ref, address_key, priority, within_s)
        return wait_for(future, within_s, self._metrics, self._timeout_error)

    def _timeout_error(self) -> RetryLater | None:
        """Return the error of a click whose deadline passed while no worker was alive; None if one was."""
        state = self.cluster
        if state.is_known and not state.workers and not self._parts.link.is_down:
            return self._parts.monitor.no_worker_error()  # asked again: one may have started since the state was taken
        return None

    def _prefetch(self, ref: ImageRef) -> None:
        address_key = source_key(ref)
        if self._cached.get_local(ref, address_key) is None and not self._cached.is_done(address_key):
            self._parts.queues.enqueue(ref, address_key, Priority.PREFETCH)
