"""Embeddings in Redis, shared by all processes: bytes that describe and check themselves, for a limited time.

Nothing that comes from Redis is run or trusted: a value that is damaged, cut short, of another key or another format
reads as not there.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from backend.embedding_bytes import dump, load
from backend.errors import RetryLater
from backend.redis_keys import Keys
from backend.redis_link import Link
from backend.store import EmbeddingKey, StoreStats
from model.types import Embedding


class RedisStore:
    """Keeps embeddings in Redis until their time is up, or Redis needs the room (``maxmemory-policy volatile-lru``)."""

    name = "redis"

    def __init__(
        self,
        link: Link,
        keys: Keys,
        ttl_s: float,
        stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    ) -> None:
        """Connect to nothing yet.

        Args:
            link: to Redis.
            keys: how things are called there.
            ttl_s: for how long an embedding is kept after it was written.
            stage: times ``redis_get`` and ``redis_put``.
        """
        self._link, self._keys, self._ttl_s, self._stage = link, keys, ttl_s, stage

    @property
    def trouble(self) -> str:
        """What is wrong with Redis, empty when nothing is."""
        return self._link.trouble

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is not there, not usable, or Redis does not answer."""
        try:
            return self.fetch(key)
        except RetryLater:
            return None

    def fetch(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is not there or not usable.

        Raises:
            RetryLater: Redis does not answer.
        """
        with self._stage("redis_get"):
            data = self._link.call(lambda client: client.get(self._keys.embedding(key)))
        if not isinstance(data, bytes):
            return None
        found = load(data, str(key))
        if found is None:
            self._forget(key)
        return found

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding; dropped without a word if Redis does not take it, see `holds`."""
        data = dump(embedding, str(key), key.dtype)
        try:
            with self._stage("redis_put"):
                self._link.call(lambda client: client.set(self._keys.embedding(key), data, px=int(self._ttl_s * 1000)))
        except RetryLater:
            pass  # the link's trouble says why, in the log and on the status page

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether an embedding is there, without reading it.

        Raises:
            RetryLater: Redis does not answer.
        """
        return bool(self._link.call(lambda client: client.exists(self._keys.embedding(key))))

    def stats(self) -> tuple[StoreStats, ...]:
        """Return how full Redis is; the bytes are all that is in it, whoever put it there."""
        try:
            memory, entries = self._link.call(lambda client: (client.info("memory"), client.dbsize()))
        except RetryLater as error:
            return (StoreStats(self.name, 0, 0, 0, str(error)),)
        values: dict[str, Any] = dict(memory)  # Any: redis-py types the answer to INFO so
        used, most = int(values.get("used_memory", 0)), int(values.get("maxmemory", 0))
        return (StoreStats(self.name, int(entries), used, most, self._link.trouble),)

    def _forget(self, key: EmbeddingKey) -> None:
        with suppress(RetryLater):
            self._link.call(lambda client: client.delete(self._keys.embedding(key)))
