"""Embeddings made by whoever asks for them, in the asking thread: for runs over whole projects in one process.

Nobody waits at a screen here and nothing is asked for twice, so there is no queue: while one image is encoded,
other threads fetch and decode the next ones. What is made goes where the service looks for it.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from backend.embeddings import encode
from backend.embeddings.content_index import source_key
from backend.embeddings.content_journal import ContentJournal, Entry
from backend.embeddings.encode import Encoder, Stopwatch
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.errors import Reason, RetryLater
from backend.images import decode
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority
from model.types import Embedding

DECODED_AT_ONCE = 2
"""One picture is encoded while the next is decoded; each may take hundreds of megabytes."""


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, known: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is still the known one."""
        ...


class LastingStore(EmbeddingStore, Protocol):
    """Keeps embeddings beyond this process; see `backend.embeddings.stores.FileStore`."""

    def holds(self, key: EmbeddingKey, /) -> bool:
        """Whether an embedding is there, without reading it."""
        ...


class DirectEmbeddings:
    """Embeddings made in the threads that ask; safe from many of them."""

    def __init__(
        self,
        source: Source,
        encoder: Encoder,
        store: LastingStore,
        journal: ContentJournal,
        stopwatch: Stopwatch,
        *,
        limits: decode.Limits,
        dtype: Dtype,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Put the parts together.

        Args:
            source: where image files come from.
            encoder: makes the embeddings.
            store: where they go, and may be already.
            journal: what lay behind which address the last time.
            stopwatch: times the work.
            limits: of the images.
            dtype: what embeddings are stored as.
            check: is called before an encode, and raises where the run is to end.
        """
        self._source, self._encoder, self._store, self._journal = source, encoder, store, journal
        self._stopwatch, self._limits, self._dtype, self._check = stopwatch, limits, dtype, check
        self._room = threading.BoundedSemaphore(DECODED_AT_ONCE)

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.BULK, /) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get`. However long it takes."""
        key, file = self._find(ref)
        if file is None:
            held = self._store.get(key)
            if held is not None:
                return held
            file = self._file(ref)  # the store has let go of it, or it is damaged
        return self._made(key, file)

    def ensure(self, ref: ImageRef) -> bool:
        """Have the embedding of an image in the store; return whether it was made now.

        Raises:
            BackendError: see `get`; `RetryLater` where the store does not take it (``store_unavailable``).
        """
        key, file = self._find(ref)
        if file is None:
            return False
        self._made(key, file)
        if not self._store.holds(key):
            trouble = "; ".join(one.trouble for one in self._store.stats() if one.trouble)
            raise RetryLater(f"the embedding cannot be stored: {trouble or 'no room'}", Reason.STORE_UNAVAILABLE)
        return True

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return None: nothing is to be had here without asking; see `backend.embeddings.local.Embeddings.peek`."""
        return None

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Do nothing: whoever asks here has nothing more urgent to do."""

    def _find(self, ref: ImageRef) -> tuple[EmbeddingKey, Fetched | None]:
        """Return an image's key, and its file unless the embedding is in the store already."""
        place = source_key(ref)
        entry = self._journal.get(place)
        key = None if entry is None else self._key(entry.digest)
        is_held = key is not None and self._store.holds(key)
        if entry is not None and key is not None and is_held and entry.immutable:
            return key, None
        with self._stopwatch.stage("fetch"):
            fetched = self._source.fetch(ref, entry.version if entry is not None and is_held else None)
        if fetched is None:
            assert key is not None  # a version was given
            return key, None
        decode.check(fetched.data, self._limits)
        digest = decode.digest(fetched.data)
        self._journal.put(place, Entry(digest, fetched.version, fetched.immutable))
        key = self._key(digest)
        return key, None if self._store.holds(key) else fetched

    def _made(self, key: EmbeddingKey, file: Fetched) -> Embedding:
        try:
            with self._room:
                self._check()
                made = encode.encode(self._encoder, file.data, key, self._limits, self._stopwatch)
        finally:
            file.release()
        self._store.put(key, made)
        return made

    def _file(self, ref: ImageRef) -> Fetched:
        with self._stopwatch.stage("fetch"):
            fetched = self._source.fetch(ref)
        assert fetched is not None  # no version was given
        return fetched

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._encoder.model_version, self._dtype)
