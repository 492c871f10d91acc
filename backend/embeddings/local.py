"""From an image's address to its embedding: cached, fetched once and encoded once for all requests, with a deadline.

`LocalEmbeddings` does all of it in this process. A click on a cached image costs two look-ups: the content at the
address, and the embedding of that content. Otherwise the image is fetched in the background and then encoded, both by
priority, images that an annotator waits for first. All clicks on it wait for the same fetch and the same encode. A
click whose deadline passes gets an error; the work goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from backend.concurrency.byte_budget import ByteBudget, Share
from backend.concurrency.priority_executor import Fetch, PriorityExecutor
from backend.embeddings.content_index import ContentIndex, ContentRecord, SourceKey, source_key
from backend.embeddings.encode import Encoder, EncodeSpec, Preprocessor
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.embeddings.waiting import Observer, wait_for
from backend.errors import BackendError, Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority
from model.types import Embedding

logger = logging.getLogger(__name__)

FETCHERS = 8
SPARED = 3
"""Number of the fetchers that are reserved for images that an annotator waits for."""

RECHECKS = 2


class Embeddings(Protocol):
    """Supplies embeddings to the segmentation service."""

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image.

        Args:
            ref: the image.
            deadline_s: how long to wait, in seconds from now.
            priority: its place in the queues of fetches and encodes, if the image is not cached.

        Raises:
            ImageError: the image cannot be segmented.
            AccessError: it may not be fetched.
            RetryLater: time ran out (``budget_exceeded``; the work goes on), or a transient failure occurred.
        """
        ...

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached, else None; starts no download or encode, never raises."""
        ...

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images in the background, after all interactive requests; returns at once and never raises."""
        ...


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, cached: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is unchanged since the ``cached`` validators."""
        ...


@dataclass
class _PendingImage:
    """An image that is being fetched or encoded, and the future that its requests wait for.

    Attributes:
        priority: the most urgent one of its requests.
        fetch: the submitted fetch.
        key: set once the file was fetched and handed to the encoder.
        address_share: bytes held for a long ``data:`` address.
        future: resolved with the embedding or the error.
    """

    priority: Priority
    fetch: Fetch | None = None
    key: EmbeddingKey | None = None
    address_share: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)


class LocalEmbeddings:
    """Makes embeddings in this process; safe from many threads."""

    def __init__(
        self,
        source: Source,
        load_encoder: Callable[[], Encoder],
        spec: EncodeSpec,
        store: EmbeddingStore,
        observer: Observer,
        *,
        budget: ByteBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect source, encoder and store; `start` begins the threads.

        Args:
            source: fetches image files.
            load_encoder: returns the encoder; called in the background, and again after a failure.
            spec: how files become embeddings of the encoder that will be loaded.
            store: keeps the embeddings.
            observer: counts and times the work.
            budget: the memory for ``data:`` addresses; None for a new one.
            clock: seconds, monotonic; measures the age of content records.
        """
        self._source, self._store, self._observer = source, store, observer
        self._spec, self._preprocessor = spec, Preprocessor(spec, observer)
        self._encoder = EncoderThread(load_encoder, store, observer)
        self._contents = ContentIndex(clock)
        self._fetchers = PriorityExecutor(FETCHERS, SPARED)
        self._pending: dict[SourceKey, _PendingImage] = {}
        self._revalidating: set[SourceKey] = set()
        self._prefetcher = Prefetcher(self._prefetch)
        self._budget = budget or ByteBudget()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder.is_ready

    @property
    def failure(self) -> str:
        """Why the encoder could not be loaded; empty if it was loaded, or if loading has not been tried."""
        return self._encoder.failure

    @property
    def encoding(self) -> int:
        """Number of images that wait for the encoder or are being encoded."""
        return len(self._encoder)

    @property
    def ahead(self) -> int:
        """Number of images that wait to be prefetched."""
        return len(self._prefetcher)

    def start(self) -> None:
        """Begin loading the encoder; call it after a fork, not before. The first request calls it too."""
        self._encoder.start()
        self._prefetcher.start()

    def close(self) -> None:
        """Finish the current image, fail all other requests, and end the threads."""
        with self._lock:
            self._is_closed = True
        self._fetchers.close()
        self._encoder.close()
        for address_key, pending in list(self._pending.items()):  # images whose fetch has not begun
            self._finish(address_key, pending, RetryLater("the service is stopping", Reason.MODEL_NOT_READY))
        self._prefetcher.close()

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `Embeddings.get`."""
        address_key = source_key(ref)
        cached = self._get_cached(ref, address_key)
        if cached is not None:
            return cached
        future = self._join(ref, address_key, priority)
        return wait_for(future, deadline_s, self._observer)

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is cached; see `Embeddings.peek`."""
        return self._get_cached(ref, source_key(ref))

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images when no more urgent work waits: those of the newest call first, in their order."""
        self.start()
        self._prefetcher.add(refs)

    def _get_cached(self, ref: ImageRef, address_key: SourceKey) -> Embedding | None:
        """Return the embedding if it needs no download and no encode; revalidate a stale one in the background."""
        record = self._contents.get(address_key)
        if record is None or not self._contents.is_stale_usable(record):
            return None
        cached = self._store.get(self._spec.key(record.digest))
        if cached is not None and not self._contents.is_fresh(record):
            self._revalidate(ref, address_key, record)
        return cached

    def _join(self, ref: ImageRef, address_key: SourceKey, priority: Priority) -> "Future[Embedding]":
        """Return the future of an image's embedding; submit the fetch if the image is not pending yet."""
        self.start()
        with self._lock:
            failure = self._contents.failure(address_key)
            if failure is not None:
                raise failure
            pending = self._pending.get(address_key)
            if pending is not None:
                self._observer.record_join()
                pending.priority = min(pending.priority, priority)
                if pending.fetch is not None:
                    self._fetchers.promote(pending.fetch, priority)
                if pending.key is not None:
                    self._encoder.promote(pending.key, priority)
                return pending.future
            if self._is_closed:
                raise RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
            address_share = self._budget.take_address(ref.uri)
            pending = self._pending[address_key] = _PendingImage(priority, address_share=address_share)
            pending.fetch = self._fetchers.submit(partial(self._fetch_and_submit, ref, address_key, pending), priority)
            return pending.future

    def _fetch_and_submit(self, ref: ImageRef, address_key: SourceKey, pending: _PendingImage) -> None:
        """Fetch an image and hand it to the encoder; every outcome, also a defect, resolves the future."""
        try:
            outcome = self._fetch(ref, address_key, pending)
        except BackendError as error:
            outcome = error
        except Exception as error:  # a defect must not leave clicks waiting
            logger.exception("event=fetch_defect project=%s task=%s", ref.project_id, ref.task_id)
            outcome = BackendError(f"internal error: {error}")
        if isinstance(outcome, Future):
            outcome.add_done_callback(
                lambda done: self._finish(address_key, pending, done.exception() or done.result())
            )
        else:
            self._finish(address_key, pending, outcome)

    def _fetch(
        self, ref: ImageRef, address_key: SourceKey, pending: _PendingImage
    ) -> "Embedding | Future[Embedding] | BackendError":
        record = self._contents.get(address_key)
        cached = self._store.get(self._spec.key(record.digest)) if record is not None else None
        validators = record.version if record is not None and cached is not None else None
        with self._observer.stage("fetch"):
            fetched = self._source.fetch(ref, validators)
        if fetched is None:
            assert cached is not None
            self._contents.mark_fresh(address_key)
            return cached
        try:
            key = self._record_content(address_key, fetched)
            cached = self._store.get(key)
            if cached is not None:
                fetched.release()
                return cached
            model_input = self._preprocessor.prepare(fetched.data, key)
            with self._lock:
                pending.key = key
                return self._encoder.submit(key, model_input, pending.priority, fetched.share)
        except BaseException:
            fetched.release()
            raise

    def _record_content(self, address_key: SourceKey, fetched: Fetched) -> EmbeddingKey:
        """Check that the file is an image, store the content of its address, and return the embedding's key."""
        key = self._spec.key_of(fetched.data)
        self._contents.put(address_key, key.digest, fetched.version, immutable=fetched.immutable)
        return key

    def _finish(self, address_key: SourceKey, pending: _PendingImage, outcome: "Embedding | BaseException") -> None:
        with self._lock:
            self._pending.pop(address_key, None)
            if isinstance(outcome, BackendError):
                self._contents.fail(address_key, outcome)
        if pending.address_share is not None:
            pending.address_share.release()
        if isinstance(outcome, BaseException):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _revalidate(self, ref: ImageRef, address_key: SourceKey, record: ContentRecord) -> None:
        """Check in the background whether an image has changed, while clicks on it are still answered."""
        with self._lock:
            if address_key in self._revalidating or len(self._revalidating) >= RECHECKS or self._is_closed:
                return
            self._revalidating.add(address_key)
            self._fetchers.submit(partial(self._recheck, ref, address_key, record), Priority.PREFETCH)

    def _recheck(self, ref: ImageRef, address_key: SourceKey, record: ContentRecord) -> None:
        try:
            with self._observer.stage("fetch"):
                fetched = self._source.fetch(ref, record.version)
            if fetched is None:
                self._contents.mark_fresh(address_key)
                return
            key = self._record_content(address_key, fetched)
            if key.digest != record.digest and self._store.get(key) is None:
                model_input = self._preprocessor.prepare(fetched.data, key)
                self._encoder.submit(key, model_input, Priority.PREFETCH, fetched.share)
        except BackendError as error:
            logger.info("event=recheck_failed project=%s reason=%s", ref.project_id, error.reason)
            if not error.retry:
                self._contents.fail(address_key, error)
        except Exception:
            logger.exception("event=recheck_defect project=%s task=%s", ref.project_id, ref.task_id)
        finally:
            with self._lock:
                self._revalidating.discard(address_key)

    def _prefetch(self, ref: ImageRef) -> None:
        try:
            address_key = source_key(ref)
            if self._get_cached(ref, address_key) is None:
                self._join(ref, address_key, Priority.PREFETCH).result()
        except BackendError as error:
            self._observer.background_failure(error.reason)
            logger.info("event=prefetch_failed task=%s reason=%s", ref.task_id, error.reason)
        except Exception:  # a defect must not end the prefetch thread
            logger.exception("event=prefetch_defect task=%s", ref.task_id)
