"""Processes one encode job: checks the cache, fetches the image, encodes it and publishes the result.

A job may run twice, on two workers at once, or again after a worker died in the middle of it: a worker holds a lease on
the address and on the content it works on, and the lease expires when the worker dies.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from backend.cluster.content_index import SharedContentIndex, SharedRecord
from backend.cluster.keys import Keys
from backend.cluster.lease import Lease, Leases
from backend.cluster.store import RedisStore
from backend.cluster.yielding_source import Preempted
from backend.embeddings.content_index import SourceKey, source_key
from backend.embeddings.encode import EncodeSpec, Preprocessor, Stopwatch
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import EmbeddingKey
from backend.errors import BackendError, ImageError, Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How many workers may die on an image before it fails for a while."""

POLL_EVERY_S = 0.1


class Source(Protocol):
    """Fetches image files; see `backend.cluster.yielding_source.PreemptibleFetcher`."""

    def fetch(self, ref: ImageRef, cached: Validators | None, priority: Priority, /) -> Fetched | None:
        """Return the file, None if it is unchanged since ``cached``; raises `Preempted` if the job must run later."""
        ...


class EncodeJob:
    """Processes jobs one at a time, and publishes the result of each, also after a defect."""

    def __init__(
        self,
        source: Source,
        queue: EncoderThread,
        store: RedisStore,
        contents: SharedContentIndex,
        leases: Leases,
        keys: Keys,
        observer: Stopwatch,
        *,
        spec: EncodeSpec,
        ask_again: Callable[[ImageRef, SourceKey, Priority], object],
        count: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Combine fetcher, encoder and the shared state in Redis.

        Args:
            source: fetches image files.
            queue: the encoder; it also writes to ``store``.
            store: the embeddings in Redis, read by the web processes.
            contents: the content at each address, and the failures.
            leases: acquires the leases on addresses and contents.
            keys: the names in Redis.
            observer: times the work.
            spec: how files become embeddings.
            ask_again: enqueues the job of an image again after it was preempted.
            count: called with ``fetch`` after a successful fetch, ``encode`` before an encode, and ``failure``.
        """
        self._source, self._queue, self._store, self._contents = source, queue, store, contents
        self._leases, self._keys, self._observer, self._count = leases, keys, observer, count
        self._spec, self._preprocessor, self._ask_again = spec, Preprocessor(spec, observer), ask_again

    def run(self, ref: ImageRef, priority: Priority, job_id: str) -> None:
        """Encode an image unless it is cached or another worker has its lease; enqueue it again if it is preempted.

        Raises:
            RetryLater: Redis does not answer; the waiting web processes will enqueue the image again.
        """
        address_key = source_key(ref)
        lease = self._leases.acquire(
            self._keys.lease(address_key), marker_key=self._keys.enqueued(address_key, priority), job_id=job_id
        )
        if lease is None:
            return  # its holder publishes the result; if its lease expires, the web processes enqueue the image again
        is_preempted = False
        with lease:
            try:
                record = self._ensure_encoded(ref, address_key, priority, lease)
                self._contents.put(address_key, record, lease)
            except Preempted:
                is_preempted = True
            except BackendError as error:
                self._report_failure(address_key, error, lease, ref)
            except Exception as error:  # a defect must not leave clicks waiting
                logger.exception("event=job_defect project=%s task=%s", ref.project_id, ref.task_id)
                self._report_failure(address_key, BackendError(f"internal error: {error}"), lease, ref)
        if is_preempted:  # after the release of the lease; otherwise a worker that takes the job at once would skip it
            self._ask_again(ref, address_key, priority)

    def _report_failure(self, address_key: SourceKey, error: BackendError, lease: Lease, ref: ImageRef) -> None:
        self._count("failure")
        logger.info("event=job_failed project=%s task=%s reason=%s", ref.project_id, ref.task_id, error.reason)
        self._contents.fail(address_key, error, lease)

    def _ensure_encoded(self, ref: ImageRef, address_key: SourceKey, priority: Priority, lease: Lease) -> SharedRecord:
        if lease.attempt > MAX_ATTEMPTS:
            lease.resets_attempts = False
            raise ImageError(
                f"{lease.attempt - 1} workers in a row did not come back from this image", Reason.ENCODE_FAILED
            )
        cached = self._contents.get(address_key)
        if cached.failure is not None:
            raise cached.failure
        record = cached.record
        is_stored = record is not None and self._store.holds(self._spec.key(record.digest))
        if record is not None and is_stored and record.is_fresh:
            return record
        with self._observer.stage("fetch"):
            fetched = self._source.fetch(ref, record.version if record is not None and is_stored else None, priority)
        self._count("fetch")
        if fetched is None:
            assert record is not None
            return SharedRecord(record.digest, record.version, record.immutable)
        try:
            key = self._spec.key_of(fetched.data)
            self._encode(key, fetched.data, priority)
        finally:
            fetched.release()
        return SharedRecord(key.digest, fetched.version, fetched.immutable)

    def _encode(self, key: EmbeddingKey, data: bytes, priority: Priority) -> None:
        """Put the embedding into the store; if another worker encodes the same content, wait for that one."""
        while (lease := self._leases.acquire(self._keys.content_lease(key))) is None:
            time.sleep(POLL_EVERY_S)
            if self._store.holds(key):
                return
        with lease:
            if self._store.holds(key):
                return
            self._count("encode")
            model_input = self._preprocessor.prepare(data, key)
            embedding = self._queue.submit(key, model_input, priority).result()
            if not self._store.holds(key):  # Redis was unreachable or restarted meanwhile
                self._store.put(key, embedding)
                if not self._store.holds(key):
                    raise RetryLater(
                        f"the embedding cannot be stored: {self._store.trouble or 'Redis does not keep it'}",
                        Reason.STORE_UNAVAILABLE,
                    )
