"""Embeddings made in the calling thread: for runs over whole projects in one process.

No annotator waits here and no image is requested twice, so there is no queue: while one image is encoded, other
threads fetch and decode the next ones. The embeddings are written to the store that the service reads.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from backend.embeddings import encode
from backend.embeddings.content_index import source_key
from backend.embeddings.content_journal import ContentJournal, Entry
from backend.embeddings.encode import Encoder, EncodeSpec, Preprocessor, Stopwatch
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.errors import Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority
from model.types import Embedding

DECODED_AT_ONCE = 2
"""One image is encoded while the next is decoded; each may take hundreds of megabytes."""


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, cached: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is unchanged since the ``cached`` validators."""
        ...


class LastingStore(EmbeddingStore, Protocol):
    """Keeps embeddings after this process has ended; see `backend.embeddings.stores.FileStore`."""

    def holds(self, key: EmbeddingKey, /) -> bool:
        """Whether the store holds an embedding, without reading it."""
        ...


class DirectEmbeddings:
    """Makes embeddings in the calling threads; safe from many threads."""

    def __init__(
        self,
        source: Source,
        encoder: Encoder,
        store: LastingStore,
        journal: ContentJournal,
        stopwatch: Stopwatch,
        *,
        spec: EncodeSpec,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Encode with ``encoder`` what ``store`` does not hold.

        Args:
            source: fetches image files.
            encoder: makes the embeddings.
            store: receives the embeddings, and may hold them already.
            journal: the content last seen at each address.
            stopwatch: times the work.
            spec: how files become embeddings.
            check: called before an encode; raises if the run must end.
        """
        self._source, self._encoder, self._store, self._journal = source, encoder, store, journal
        self._stopwatch, self._spec, self._check = stopwatch, spec, check
        self._preprocessor = Preprocessor(spec, stopwatch)
        self._slots = threading.BoundedSemaphore(DECODED_AT_ONCE)

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.BULK, /) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get`. The deadline is ignored."""
        key, file = self._locate(ref)
        if file is None:
            cached = self._store.get(key)
            if cached is not None:
                return cached
            file = self._fetch(ref)  # the store has evicted it, or it is damaged
        return self._encode(key, file)

    def ensure(self, ref: ImageRef) -> bool:
        """Put the embedding of an image into the store unless it is there; return whether it was encoded now.

        Raises:
            BackendError: see `get`; `RetryLater` if the store does not keep it (``store_unavailable``).
        """
        key, file = self._locate(ref)
        if file is None:
            return False
        self._encode(key, file)
        if not self._store.holds(key):
            trouble = "; ".join(medium.trouble for medium in self._store.stats() if medium.trouble)
            raise RetryLater(f"the embedding cannot be stored: {trouble or 'no room'}", Reason.STORE_UNAVAILABLE)
        return True

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return None: no embedding is kept in memory here; see `backend.embeddings.local.Embeddings.peek`."""
        return None

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Do nothing: the callers have no more urgent work for which prefetching would have to wait."""

    def _locate(self, ref: ImageRef) -> tuple[EmbeddingKey, Fetched | None]:
        """Return the embedding's key, and the image file unless the store holds the embedding already."""
        address_key = source_key(ref)
        entry = self._journal.get(address_key)
        key = None if entry is None else self._spec.key(entry.digest)
        is_cached = key is not None and self._store.holds(key)
        if entry is not None and key is not None and is_cached and entry.immutable:
            return key, None
        with self._stopwatch.stage("fetch"):
            fetched = self._source.fetch(ref, entry.version if entry is not None and is_cached else None)
        if fetched is None:
            assert key is not None  # a version was given
            return key, None
        key = self._spec.key_of(fetched.data)
        self._journal.put(address_key, Entry(key.digest, fetched.version, fetched.immutable))
        return key, None if self._store.holds(key) else fetched

    def _encode(self, key: EmbeddingKey, file: Fetched) -> Embedding:
        try:
            with self._slots:
                self._check()
                model_input = self._preprocessor.prepare(file.data, key)
                embedding = encode.encode(self._encoder, model_input, key, self._stopwatch)
        finally:
            file.release()
        self._store.put(key, embedding)
        return embedding

    def _fetch(self, ref: ImageRef) -> Fetched:
        with self._stopwatch.stage("fetch"):
            fetched = self._source.fetch(ref)
        assert fetched is not None  # no version was given
        return fetched
