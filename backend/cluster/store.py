"""Embeddings in Redis, shared by all processes, with a limited time to live.

Data from Redis is never executed or trusted: a value that is damaged, truncated, of another key or of another format
counts as missing.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from backend.cluster.connection import RedisConnection, ValueChangedError, answers, read_large
from backend.cluster.keys import Keys
from backend.embeddings import word_boxes
from backend.embeddings.serialization import dump
from backend.embeddings.stores import EmbeddingKey, Shape, StoreStats, parse
from backend.embeddings.word_boxes import Boxes, BoxKey
from backend.errors import RetryLater
from model.types import Embedding

logger = logging.getLogger(__name__)

NO_END, NOT_THERE = -1, -2  # Redis' answers to ``PTTL`` for a key without expiry, and for a missing key
NOTED_LONGER_MS = 3_600_000  # an embedding is written after its file was noted
COUNT_EVERY_S = 30.0
SCAN_KEYS, MAX_SCANNED = 1000, 100_000
"""Number of keys scanned in one step, and at most, to count the embeddings among them."""


class RedisStore:
    """Keeps embeddings in Redis until they expire or Redis evicts them (``maxmemory-policy volatile-lru``)."""

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
        """Keep embeddings of a ``shape``, None for any, for ``ttl_s`` seconds in the Redis at ``link``.

        ``stage`` times ``redis_get`` and ``redis_put``; ``on_drop`` gets this store's name when it deletes an unusable
        embedding; ``clock`` is in s, monotonic.
        """
        self._link, self._keys, self._ttl_s, self._stage = link, keys, ttl_s, stage
        self._shape, self._on_drop, self._clock = shape, on_drop, clock
        self._entries, self._counted_at = 0, float("-inf")

    @property
    def last_error(self) -> str:
        """The current problem of Redis, empty if there is none."""
        return self._link.last_error

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is missing or unusable, or Redis does not answer."""
        try:
            return self.fetch(key)
        except RetryLater:
            return None

    def fetch(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is missing or unusable."""
        name, longest_ms = self._keys.embedding(key), int(self._ttl_s * 1000)

        def work(client: "Redis") -> tuple[memoryview | None, int]:
            value_bytes, left_ms = answers(client, ("STRLEN", name), ("PTTL", name))
            if left_ms == NO_END:  # from a restored dump; volatile-lru could not evict it
                with suppress(ResponseError):  # a replica is read-only
                    client.pexpire(name, longest_ms)
            try:
                return read_large(client, name, value_bytes) if value_bytes else None, left_ms
            except ValueChangedError:  # evicted in between
                return None, NOT_THERE

        with self._stage("redis_get"):
            data, left_ms = self._link.call(work)
        if data is None and left_ms == NOT_THERE:
            return None
        embedding = parse(data, key, self._shape) if data is not None else None
        if embedding is not None:
            return embedding
        self._on_drop(self.name)
        logger.warning("event=embedding_dropped tier=%s key=%s", self.name, name)
        self._delete(key)
        return None

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding; if Redis refuses it, it is dropped without an error, see `holds`."""
        data = dump(embedding, str(key), key.dtype)
        with suppress(RetryLater), self._stage("redis_put"):  # the link's trouble is in the log and on the status page
            self._link.call(lambda client: client.set(self._keys.embedding(key), data, px=int(self._ttl_s * 1000)))

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether Redis holds an embedding, without reading it."""
        return bool(self._link.call(lambda client: client.exists(self._keys.embedding(key))))

    def note_file(self, project_id: int | None, digest: str) -> None:
        """Store that a project uses a file, for longer than its embedding, so that `erase` finds it.

        Raises:
            RetryLater: Redis does not answer, or has no room.
        """
        if project_id is None:
            return
        name, ttl_ms = self._keys.files(project_id), int(self._ttl_s * 1000) + NOTED_LONGER_MS

        def work(client: "Redis") -> None:
            note, expiry = ("HSET", name, digest, ""), ("PEXPIRE", name, ttl_ms)
            if answers(client, note, expiry)[0] is None:  # a value of another type, which is not ours
                answers(client, ("DEL", name), note, expiry)

        self._link.call(work)

    def fetch_boxes(self, key: BoxKey) -> Boxes | None:
        """Return what a detector found on an image; None if that is missing or unusable."""
        data = self._link.call(lambda client: client.get(self._keys.embedding(key)))
        return word_boxes.load(data, key.words) if isinstance(data, bytes) else None

    def put_boxes(self, key: BoxKey, boxes: Boxes) -> None:
        """Keep what a detector found on an image, for as long as embeddings.

        Raises:
            RetryLater: Redis does not answer, or has no room.
        """
        data = word_boxes.dump(boxes, key.words)
        self._link.call(lambda client: client.set(self._keys.embedding(key), data, px=int(self._ttl_s * 1000)))

    def stats(self) -> tuple[StoreStats, ...]:
        """Return the fill level: number of this installation's embeddings of all models, bytes of all of Redis."""
        try:
            memory = memory_of(self._link)
            if self._clock() - self._counted_at >= COUNT_EVERY_S:
                self._entries, self._counted_at = self._link.call(self._count), self._clock()
        except RetryLater as error:
            return (StoreStats(self.name, 0, 0, 0, str(error)),)
        used, max_bytes = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
        return (StoreStats(self.name, self._entries, used, max_bytes, self._link.last_error),)

    def _count(self, client: "Redis") -> int:
        """Return the number of embeddings; for a very large Redis, an estimate from a part of its keys."""
        cursor, count, scanned = 0, 0, 0
        try:
            while scanned < MAX_SCANNED:
                cursor, names = client.scan(cursor, match=self._keys.embedding("*"), count=SCAN_KEYS)
                count, scanned = count + len(names), scanned + SCAN_KEYS
                if cursor == 0:
                    return count
            return round(count * max(int(client.dbsize()), scanned) / scanned)
        except ResponseError:  # its user may not scan; a number on the status page is not worth an error
            return count

    def _delete(self, key: EmbeddingKey) -> None:
        with suppress(RetryLater):
            self._link.call(lambda client: client.delete(self._keys.embedding(key)))


def memory_of(link: RedisConnection) -> dict[str, Any]:  # Any: redis-py types the answer to INFO so
    """Return Redis' ``INFO memory``; an empty dictionary if its user may not use ``INFO``."""

    def work(client: "Redis") -> dict[str, Any]:
        try:
            return dict(client.info("memory"))
        except ResponseError:  # an ACL, or a hosted Redis without INFO
            return {}

    return link.call(work)
