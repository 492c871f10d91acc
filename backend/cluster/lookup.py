"""Embeddings that somebody has made already: in this process' memory, or in Redis, where they are everybody's."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import LookupResult, SharedContentIndex, SharedRecord
from backend.cluster.store import RedisStore
from backend.embeddings.content_index import ContentIndex, SourceKey
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from model.types import Embedding


@dataclass(frozen=True)
class CachedEmbedding:
    """An embedding that is there.

    Attributes:
        embedding: of what lies behind the address.
        is_fresh: whether that needs no asking.
        tier: where the embedding was found, ``memory`` or ``redis``.
    """

    embedding: Embedding
    is_fresh: bool
    tier: str


class SharedEmbeddings:
    """What the team has made, as one web process sees it; safe from many threads."""

    def __init__(
        self,
        link: RedisConnection,
        memory: EmbeddingStore,
        store: RedisStore,
        contents: SharedContentIndex,
        model_version: str,
        dtype: Dtype = "float16",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            link: to Redis.
            memory: this process' own embeddings.
            store: everybody's.
            contents: what everybody knows of the addresses.
            model_version: of the embeddings.
            dtype: what embeddings are stored as.
            clock: seconds, monotonic.
        """
        self._link, self._memory, self._store, self._shared = link, memory, store, contents
        self._model_version, self._dtype = model_version, dtype
        self._contents = ContentIndex(clock)

    def warm(self, place: SourceKey) -> CachedEmbedding | None:
        """Return the embedding if this process holds it; as old as may be while nobody can be asked for a newer one."""
        content = self._contents.get(place)
        if content is None or not (self._contents.is_stale_usable(content) or self._link.is_down):
            return None
        found = self._memory.get(self._key(content.digest))
        if found is None:
            return None
        return CachedEmbedding(found, self._contents.is_fresh(content) or self._link.is_down, "memory")

    def known(self, place: SourceKey) -> LookupResult:
        """Return what everybody knows of an address.

        Raises:
            RetryLater: Redis does not answer.
        """
        return self._shared.get(place)

    def held(self, place: SourceKey, known: LookupResult) -> CachedEmbedding | None:
        """Return the embedding that is known to lie behind an address, from here on in this process' memory too.

        Raises:
            RetryLater: Redis does not answer.
        """
        if known.note is None:
            return None
        self.learn(place, known.note)
        key = self._key(known.note.digest)
        found, tier = self._memory.get(key), "memory"
        if found is None:
            found, tier = self._store.fetch(key), "redis"
        if found is None:
            return None
        self._memory.put(key, found)
        return CachedEmbedding(found, known.note.is_fresh, tier)

    def is_done(self, place: SourceKey) -> bool:
        """Whether somebody has made a fresh embedding, or found that none can be made for the time being.

        Raises:
            RetryLater: Redis does not answer.
        """
        known = self._shared.get(place)
        if known.failure is not None:
            return True
        return known.note is not None and known.note.is_fresh and self._store.holds(self._key(known.note.digest))

    def learn(self, place: SourceKey, note: SharedRecord) -> None:
        """Remember what lies behind an address."""
        self._contents.put(place, note.digest, note.version, immutable=note.immutable, age_s=note.age_s)

    def refresh(self, place: SourceKey, note: SharedRecord) -> None:
        """Remember what lies behind an address, if this process remembers anything of it."""
        if self._contents.get(place) is not None:
            self.learn(place, note)

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._model_version, self._dtype)
