"""What a worker does about one image: see whether it is done, fetch it, encode it, tell everybody.

Safe to run twice, on two workers at once, and after a worker died in the middle: an address and a content are each
under a lease while they are worked on, and a lease lapses with its holder.
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
from backend.embeddings.encode import Stopwatch
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingKey
from backend.errors import BackendError, ImageError, Reason, RetryLater
from backend.images import decode
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How many workers may die over an image before it is left alone for a while."""

LOOK_EVERY_S = 0.1


class Source(Protocol):
    """Fetches image files; see `backend.cluster.yielding_source.PreemptibleFetcher`."""

    def fetch(self, ref: ImageRef, known: Validators | None, priority: Priority, /) -> Fetched | None:
        """Return the file, None if it is still the known one; raises `Preempted` where the job is to be done later."""
        ...


class EncodeJob:
    """Sees images through, one at a time; whatever happens to one, those who wait for it are told."""

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
        dtype: Dtype,
        limits: decode.Limits,
        ask_again: Callable[[ImageRef, SourceKey, Priority], object],
        count: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Start nothing.

        Args:
            source: where image files come from.
            queue: the encoder; it writes to ``store`` too.
            store: where the others look.
            contents: where it is noted what lies behind an address.
            leases: who is at work on what.
            keys: how things are called in Redis.
            observer: times the work.
            dtype: what embeddings are stored as.
            limits: of the images.
            ask_again: queues an image that made way.
            count: is told of each ``fetch`` that succeeded, ``encode`` and ``failure``.
        """
        self._source, self._queue, self._store, self._contents = source, queue, store, contents
        self._leases, self._keys, self._observer, self._count = leases, keys, observer, count
        self._dtype, self._limits, self._ask_again = dtype, limits, ask_again

    def run(self, ref: ImageRef, priority: Priority, job_id: str) -> None:
        """Make an image's embedding, unless it is there or somebody is about it; or queue it again, to make way.

        Raises:
            RetryLater: Redis does not answer; those who wait will ask again.
        """
        place = source_key(ref)
        lease = self._leases.acquire(
            self._keys.lease(place), asked_key=self._keys.asked(place, priority), job_id=job_id
        )
        if lease is None:
            return  # those who wait are told by whoever holds it, or ask again when it lapses
        makes_way = False
        with lease:
            try:
                note = self._ensure_encoded(ref, place, priority, lease)
                self._contents.put(place, note, lease)
            except Preempted:
                makes_way = True
            except BackendError as error:
                self._tell(place, error, lease, ref)
            except Exception as error:  # a defect must not leave clicks waiting
                logger.exception("event=job_defect project=%s task=%s", ref.project_id, ref.task_id)
                self._tell(place, BackendError(f"internal error: {error}"), lease, ref)
        if makes_way:  # without the lease, or a worker that takes the job up at once would leave it to its holder
            self._ask_again(ref, place, priority)

    def _tell(self, place: SourceKey, error: BackendError, lease: Lease, ref: ImageRef) -> None:
        self._count("failure")
        logger.info("event=job_failed project=%s task=%s reason=%s", ref.project_id, ref.task_id, error.reason)
        self._contents.fail(place, error, lease)

    def _ensure_encoded(self, ref: ImageRef, place: SourceKey, priority: Priority, lease: Lease) -> SharedRecord:
        if lease.attempt > MAX_ATTEMPTS:
            lease.ends_in_order = False
            raise ImageError(
                f"{lease.attempt - 1} workers in a row did not come back from this image", Reason.ENCODE_FAILED
            )
        known = self._contents.get(place)
        if known.failure is not None:
            raise known.failure
        note = known.note
        held = note is not None and self._store.holds(self._key(note.digest))
        if note is not None and held and note.is_fresh:
            return note
        with self._observer.stage("fetch"):
            fetched = self._source.fetch(ref, note.version if note is not None and held else None, priority)
        self._count("fetch")
        if fetched is None:
            assert note is not None
            return SharedRecord(note.digest, note.version, note.immutable)
        try:
            decode.check(fetched.data, self._limits)
            digest = decode.digest(fetched.data)
            self._encode(self._key(digest), fetched.data, priority)
        finally:
            fetched.release()
        return SharedRecord(digest, fetched.version, fetched.immutable)

    def _encode(self, key: EmbeddingKey, data: bytes, priority: Priority) -> None:
        """Have the embedding in the store, made here or by whoever is at work on the same content already."""
        while (lease := self._leases.acquire(self._keys.content_lease(key))) is None:
            time.sleep(LOOK_EVERY_S)
            if self._store.holds(key):
                return
        with lease:
            if self._store.holds(key):
                return
            self._count("encode")
            embedding = self._queue.submit(key, data, priority).result()
            if not self._store.holds(key):  # Redis was away or restarted meanwhile
                self._store.put(key, embedding)
                if not self._store.holds(key):
                    raise RetryLater(
                        f"the embedding cannot be stored: {self._store.trouble or 'Redis does not keep it'}",
                        Reason.STORE_UNAVAILABLE,
                    )

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._keys.model_version, self._dtype)
