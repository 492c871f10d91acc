"""Looks up existing embeddings, in this process' memory and in Redis, where all processes share them."""

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
    """An embedding found in a cache.

    Attributes:
        embedding: the embedding of the content at the address.
        is_fresh: whether the content record needs no revalidation.
        tier: where the embedding was found, ``memory`` or ``redis``.
    """

    embedding: Embedding
    is_fresh: bool
    tier: str


class SharedEmbeddings:
    """Embeddings that one web process can read from its memory and from Redis; safe from many threads."""

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
        """Combine this process' memory with the shared state in Redis.

        Args:
            link: connection to Redis.
            memory: embeddings of this process.
            store: embeddings in Redis.
            contents: the content at each address, in Redis.
            model_version: name and digest of the weights that made the embeddings.
            dtype: number format of the stored embeddings.
            clock: seconds, monotonic.
        """
        self._link, self._memory, self._store, self._shared = link, memory, store, contents
        self._model_version, self._dtype = model_version, dtype
        self._contents = ContentIndex(clock)

    def get_local(self, address_key: SourceKey) -> CachedEmbedding | None:
        """Return the embedding if it is in this process' memory; during an outage of Redis, regardless of its age."""
        record = self._contents.get(address_key)
        if record is None or not (self._contents.is_stale_usable(record) or self._link.is_down):
            return None
        embedding = self._memory.get(self._key(record.digest))
        if embedding is None:
            return None
        return CachedEmbedding(embedding, self._contents.is_fresh(record) or self._link.is_down, "memory")

    def look_up(self, address_key: SourceKey) -> LookupResult:
        """Return the content and the failure that Redis holds for an address.

        Raises:
            RetryLater: Redis does not answer.
        """
        return self._shared.get(address_key)

    def fetch(self, address_key: SourceKey, looked_up: LookupResult) -> CachedEmbedding | None:
        """Return the embedding of a looked-up content from memory or Redis, and keep it in memory; None if missing.

        Raises:
            RetryLater: Redis does not answer.
        """
        if looked_up.record is None:
            return None
        self.learn(address_key, looked_up.record)
        key = self._key(looked_up.record.digest)
        embedding, tier = self._memory.get(key), "memory"
        if embedding is None:
            embedding, tier = self._store.fetch(key), "redis"
        if embedding is None:
            return None
        self._memory.put(key, embedding)
        return CachedEmbedding(embedding, looked_up.record.is_fresh, tier)

    def is_done(self, address_key: SourceKey) -> bool:
        """Whether Redis holds a fresh embedding of an address, or a recent failure.

        Raises:
            RetryLater: Redis does not answer.
        """
        looked_up = self._shared.get(address_key)
        if looked_up.failure is not None:
            return True
        record = looked_up.record
        return record is not None and record.is_fresh and self._store.holds(self._key(record.digest))

    def learn(self, address_key: SourceKey, record: SharedRecord) -> None:
        """Keep the content of an address in this process' index."""
        self._contents.put(address_key, record.digest, record.version, immutable=record.immutable, age_s=record.age_s)

    def refresh(self, address_key: SourceKey, record: SharedRecord) -> None:
        """Update the content of an address, if this process' index has the address."""
        if self._contents.get(address_key) is not None:
            self.learn(address_key, record)

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._model_version, self._dtype)
