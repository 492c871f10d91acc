"""Embeddings in Redis, shared by all processes: bytes that describe and check themselves, for a limited time.

Nothing that comes from Redis is run or trusted: a value that is damaged, cut short, of another key or another format
reads as not there.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.embeddings.serialization import dump, load
from backend.embeddings.stores import EmbeddingKey, Shape, StoreStats, is_stale_usable
from backend.errors import RetryLater
from model.types import Embedding

logger = logging.getLogger(__name__)

NO_END, NOT_THERE = -1, -2
"""What Redis says of the time that is left of a key."""

COUNT_EVERY_S = 30.0
SCAN_KEYS, MOST_SCANNED = 1000, 100_000
"""How many keys are looked at in one step, and at most, to count the embeddings among them."""


class RedisStore:
    """Keeps embeddings in Redis until their time is up, or Redis needs the room (``maxmemory-policy volatile-lru``)."""

    name = "redis"

    def __init__(
        self,
        link: RedisConnection,
        keys: Keys,
        ttl_s: float,
        stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
        *,
        shape: Shape | None = None,
        on_drop: Callable[[str], None] = lambda tier: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            link: to Redis.
            keys: how things are called there.
            ttl_s: for how long an embedding is kept after it was written.
            stage: times ``redis_get`` and ``redis_put``.
            shape: of the network's embeddings; None takes any.
            on_drop: is told this store's name when it drops what cannot be used.
            clock: seconds, monotonic.
        """
        self._link, self._keys, self._ttl_s, self._stage = link, keys, ttl_s, stage
        self._shape, self._on_drop, self._clock = shape, on_drop, clock
        self._entries, self._counted_at = 0, float("-inf")

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
        name, longest_ms = self._keys.embedding(key), int(self._ttl_s * 1000)

        def work(client: "Redis") -> tuple[bytes | None, int]:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(name)
            pipeline.pttl(name)
            data, left_ms = answers(pipeline)
            if left_ms == NO_END:  # of a restored dump: Redis could not let it go when room is short
                with suppress(ResponseError):  # a replica only reads
                    client.pexpire(name, longest_ms)
            return data, left_ms

        with self._stage("redis_get"):
            data, left_ms = self._link.call(work)
        if data is None and left_ms == NOT_THERE:
            return None
        found = load(data, str(key)) if isinstance(data, bytes) else None
        if found is not None and is_stale_usable(found, key, self._shape):
            return found
        self._on_drop(self.name)
        logger.warning("event=embedding_dropped tier=%s key=%s", self.name, name)
        self._forget(key)
        return None

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
        """Return how full Redis is: embeddings of this installation, of every model; bytes of all that is there."""
        try:
            memory = memory_of(self._link)
            if self._clock() - self._counted_at >= COUNT_EVERY_S:
                self._entries, self._counted_at = self._link.call(self._count), self._clock()
        except RetryLater as error:
            return (StoreStats(self.name, 0, 0, 0, str(error)),)
        used, most = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
        return (StoreStats(self.name, self._entries, used, most, self._link.trouble),)

    def _count(self, client: "Redis") -> int:
        """Return how many embeddings there are; of a very large Redis an estimate from a part of its keys."""
        cursor, found, looked_at = 0, 0, 0
        try:
            while looked_at < MOST_SCANNED:
                cursor, names = client.scan(cursor, match=self._keys.embeddings, count=SCAN_KEYS)
                found, looked_at = found + len(names), looked_at + SCAN_KEYS
                if cursor == 0:
                    return found
            return round(found * max(int(client.dbsize()), looked_at) / looked_at)
        except ResponseError:  # its user may not ask; a number on a page is not worth more
            return found

    def _forget(self, key: EmbeddingKey) -> None:
        with suppress(RetryLater):
            self._link.call(lambda client: client.delete(self._keys.embedding(key)))


def memory_of(link: RedisConnection) -> dict[str, Any]:  # Any: redis-py types the answer to INFO so
    """Return what Redis says of its memory; nothing where its user may not ask.

    Raises:
        RetryLater: Redis does not answer.
    """

    def work(client: "Redis") -> dict[str, Any]:
        try:
            return dict(client.info("memory"))
        except ResponseError:  # an ACL, or a hosted Redis that has no INFO
            return {}

    return link.call(work)
