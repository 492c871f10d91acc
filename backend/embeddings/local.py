"""From an image's address to its embedding: cached, fetched once and encoded once for all requests, with a deadline.

`LocalEmbeddings` does all of it in this process. A click on a cached image costs two look-ups: the content at the
address, and the embedding of that content. Otherwise the image goes through `EmbeddingPipeline`, by priority. All
clicks on it wait for the same fetch and the same encode. A click whose deadline passes gets an error; the work goes on.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from backend.concurrency.byte_budget import ByteBudget
from backend.embeddings.content_index import ContentIndex, source_key
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.pipeline import EmbeddingPipeline, Result, Source
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.stores import EmbeddingStore
from backend.embeddings.waiting import wait_for
from backend.embeddings.word_boxes import Boxes, BoxKey
from backend.errors import BackendError, Reason, RetryLater
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from model.types import Embedding

REVALIDATED_AT_ONCE = 2


class Embeddings(Protocol):
    """Supplies embeddings to the segmentation service."""

    def get(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image, waiting at most ``within_s`` seconds.

        Raises:
            ImageError: the image cannot be segmented.
            AccessError: it may not be fetched.
            RetryLater: time ran out (``budget_exceeded``; the work goes on), or a transient failure occurred.
        """

    def find(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Boxes:
        """Return what a detector finds on an image; ``ref.words`` say what it looks for.

        From the same download the image is encoded where anything is found, so that `get` is warm afterwards.

        Args:
            ref: the image.
            within_s: how long to wait, in seconds from now.
            priority: its place in the queues of fetches and of the device, if the boxes are not cached.

        Raises:
            BackendError: as in `get`; there is no such detector, or it cannot look for a word.
        """
        ...

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached, else None; starts no download or encode, never raises."""

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images in the background, after all interactive requests; returns at once and never raises."""


class LocalEmbeddings:
    """Makes embeddings in this process; safe from many threads."""

    def __init__(
        self,
        source: Source,
        load_encoder: Callable[[], Encoder],
        spec: EncodeSpec,
        store: EmbeddingStore,
        metrics: Metrics,
        contents: ContentIndex | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        """Connect source, encoder and store; `start` begins the threads.

        ``load_encoder`` is called in the background, and again after a failure. ``contents`` is the content at each
        address, in memory alone by default; ``budget`` the memory for ``data:`` addresses.
        """
        self._spec, self._store, self._metrics = spec, store, metrics
        self._contents = contents or ContentIndex()
        self._pipeline = EmbeddingPipeline(
            source, load_encoder, spec, store, metrics, self._contents, budget or ByteBudget()
        )
        self._revalidations = threading.BoundedSemaphore(REVALIDATED_AT_ONCE)
        self._prefetcher = Prefetcher(self._prefetch, metrics)

    @property
    def is_ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._pipeline.encoder.is_ready

    @property
    def failure(self) -> str:
        """Why the encoder could not be loaded; empty if it was loaded, or if loading has not been tried."""
        return self._pipeline.encoder.failure

    @property
    def encoding(self) -> int:
        """Number of images that wait for the encoder or are being encoded."""
        return len(self._pipeline.encoder)

    @property
    def ahead(self) -> int:
        """Number of images that wait to be prefetched."""
        return len(self._prefetcher)

    def start(self) -> None:
        """Begin loading the encoder; call it after a fork, not before. The first request calls it too."""
        self._pipeline.encoder.start()
        self._prefetcher.start()

    def close(self, *, wait: bool = True) -> None:
        """Fail all requests except the current encode, and end the threads.

        ``wait`` for the current encode and the current fetches, which may take half a minute.
        """
        self._pipeline.close(wait=wait)
        self._prefetcher.close()

    def get(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `Embeddings.get`."""
        cached = self.peek(ref)
        if cached is not None:
            return cached
        result = wait_for(self._submit(ref, priority), within_s, self._metrics)
        embedding = result.embedding or self._store.get(result.key)
        if embedding is None:  # it joined work that did not read it, and what the store holds is damaged
            embedding = wait_for(self._submit(ref, priority), within_s, self._metrics).embedding
        if embedding is None:
            raise RetryLater("the stored embedding is damaged, and will be made again", Reason.STORE_UNAVAILABLE)
        return embedding

    def find(self, ref: ImageRef, within_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Boxes:
        """Return what a detector finds on an image; see `Embeddings.find`."""
        assert ref.words is not None
        record = self._contents.get(source_key(replace(ref, words=None)))
        if record is not None and self._contents.is_stale_usable(record):
            cached = self._spec.require_detector().memory.get(BoxKey(record.digest, ref.words))
            if cached is not None:
                if not self._contents.is_fresh(record) and source_key(ref) not in self._pipeline:
                    self._revalidate(ref)
                return cached
        boxes = wait_for(self._submit(ref, priority), within_s, self._metrics).boxes
        assert boxes is not None  # the image came with words
        return boxes

    def ensure(self, ref: ImageRef) -> bool:
        """Put the embedding of an image into the store unless it is there; return whether it was encoded now.

        It raises as `get`, and `RetryLater` if the store does not keep the embedding (``store_unavailable``).
        """
        record = self._contents.get(source_key(ref))
        is_settled = record is not None and (record.immutable or self._contents.is_fresh(record))
        if record is not None and is_settled and self._store.holds(self._spec.key(record.digest)):
            return False
        result = wait_for(self._submit(ref, Priority.BULK, reads=False), threading.TIMEOUT_MAX, self._metrics)
        if result.is_new and not self._store.holds(result.key):
            trouble = "; ".join(medium.trouble for medium in self._store.stats() if medium.trouble)
            raise RetryLater(f"the embedding cannot be stored: {trouble or 'no room'}", Reason.STORE_UNAVAILABLE)
        return result.is_new

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached, and revalidate a stale one; see `Embeddings.peek`."""
        address_key = source_key(ref)
        record = self._contents.get(address_key)
        if record is None or not self._contents.is_stale_usable(record):
            return None
        cached = self._store.get(self._spec.key(record.digest))
        if cached is not None and not self._contents.is_fresh(record) and address_key not in self._pipeline:
            self._revalidate(ref)
        return cached

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images when no more urgent work waits: those of the newest call first, in their order."""
        self.start()
        self._prefetcher.add(refs)

    def _submit(self, ref: ImageRef, priority: Priority, *, reads: bool = True) -> "Future[Result]":
        self.start()
        return self._pipeline.submit(ref, priority, reads=reads)

    def _revalidate(self, ref: ImageRef) -> None:
        """Check in the background whether an image has changed, while clicks on it are still answered."""
        if not self._revalidations.acquire(blocking=False):
            return
        try:
            future = self._pipeline.submit(ref, Priority.PREFETCH, reads=False)
        except BackendError:  # it failed a moment ago
            self._revalidations.release()
        else:
            future.add_done_callback(lambda _: self._revalidations.release())

    def _prefetch(self, ref: ImageRef) -> "Future[Result] | None":
        if self.peek(ref) is not None:
            return None
        return self._pipeline.submit(ref, Priority.PREFETCH, reads=False)
