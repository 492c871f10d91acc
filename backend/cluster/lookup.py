"""Looks up existing embeddings, in this process' memory and in Redis, where all processes share them.

A stale embedding is used, and a worker checks meanwhile whether its image has changed.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeAlias

from cachetools import TTLCache

from backend.cluster.content_index import LookupResult, SharedRecord
from backend.cluster.parts import ClusterParts
from backend.cluster.store import RedisStore
from backend.embeddings.content_index import MAX_ENTRIES, ContentIndex, SourceKey
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.embeddings.word_boxes import Boxes, BoxKey, BoxMemory
from backend.errors import BackendError
from backend.types import ImageRef, Priority
from model.types import Embedding

logger = logging.getLogger(__name__)

RECHECK_AGAIN_S = 30.0

EncodeResult: TypeAlias = Embedding | Boxes
"""What a worker makes of an image: the boxes of its words where it comes with any, else its embedding."""


class SharedEmbeddings:
    """Embeddings that one web process can read from its memory and from Redis; safe from many threads."""

    def __init__(
        self,
        parts: ClusterParts,
        memory: EmbeddingStore,
        store: RedisStore,
        pool: ThreadPoolExecutor,
        dtype: Dtype,
        clock: Callable[[], float],
    ) -> None:
        """Combine this process' memory with the shared state in Redis; revalidations run on the threads of ``pool``."""
        self._parts, self._memory, self._store, self._pool, self._dtype = parts, memory, store, pool, dtype
        self._boxes, self._contents = BoxMemory(), ContentIndex(clock)
        self._rechecked: TTLCache[SourceKey, bool] = TTLCache(MAX_ENTRIES, RECHECK_AGAIN_S, timer=clock)
        self._lock = threading.Lock()

    def get_local(self, ref: ImageRef, address_key: SourceKey) -> EncodeResult | None:
        """Return what is in this process' memory of an image; during an outage of Redis, regardless of its age."""
        record, is_down = self._contents.get(address_key), self._parts.link.is_down
        if record is None or not (self._contents.is_stale_usable(record) or is_down):
            return None
        result = self._in_memory(ref, record.digest)
        if result is not None and not (self._contents.is_fresh(record) or is_down):
            self.revalidate(ref, address_key)
        return result

    def fetch(self, ref: ImageRef, address_key: SourceKey, looked_up: LookupResult) -> tuple[EncodeResult, str] | None:
        """Return what was made of a looked-up content and its tier, ``memory`` or ``redis``; None if it is missing.

        It is kept in memory.
        """
        record = looked_up.record
        if record is None:
            return None
        self._learn(address_key, record)
        if (result := self._in_memory(ref, record.digest)) is not None:
            return result, "memory"
        if ref.words is not None:
            box_key = BoxKey(record.digest, ref.words)
            if (boxes := self._store.fetch_boxes(box_key)) is not None:
                self._boxes.put(box_key, boxes)
            return None if boxes is None else (boxes, "redis")
        key = self._key(record.digest)
        if (embedding := self._store.fetch(key)) is not None:
            self._memory.put(key, embedding)
        return None if embedding is None else (embedding, "redis")

    def is_done(self, address_key: SourceKey) -> bool:
        """Whether Redis holds a fresh embedding of an address, or a recent failure."""
        looked_up = self._parts.contents.get(address_key)
        record = looked_up.record
        return looked_up.failure is not None or (
            record is not None and record.is_fresh and self._store.holds(self._key(record.digest))
        )

    def refresh(self, address_key: SourceKey, record: SharedRecord) -> None:
        """Update the content of an address, if this process' index has the address."""
        if self._contents.get(address_key) is not None:
            self._learn(address_key, record)

    def _learn(self, address_key: SourceKey, record: SharedRecord) -> None:
        self._contents.put(address_key, record.digest, record.version, immutable=record.immutable, age_s=record.age_s)

    def revalidate(self, ref: ImageRef, address_key: SourceKey) -> None:
        """Have a worker check whether an image has changed, at most once in `RECHECK_AGAIN_S`."""
        with self._lock:
            if address_key in self._rechecked:
                return
            self._rechecked[address_key] = True
        with suppress(RuntimeError):  # the process is stopping
            self._pool.submit(self._recheck, ref, address_key)

    def _recheck(self, ref: ImageRef, address_key: SourceKey) -> None:
        try:
            record = self._parts.contents.get(address_key).record
            if record is not None and record.is_fresh:
                self._learn(address_key, record)
            else:
                self._parts.queues.enqueue(ref, address_key, Priority.PREFETCH)
        except BackendError as error:
            logger.info("event=recheck_failed project=%s reason=%s", ref.project_id, error.reason)
        except Exception:
            logger.exception("event=recheck_defect project=%s task=%s", ref.project_id, ref.task_id)

    def _in_memory(self, ref: ImageRef, digest: str) -> EncodeResult | None:
        if ref.words is not None:
            return self._boxes.get(BoxKey(digest, ref.words))
        return self._memory.get(self._key(digest))

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._parts.keys.model_version, self._dtype)
