"""An index of image addresses: the content last seen at each, and the addresses that failed recently.

With this map from address to content, a click on a cached image needs no download, also after a restart where the
records are kept on disk. A record is fresh for one minute. After that the image's server is asked in the background
whether the content changed, and clicks are still answered; a record that could not be revalidated for ten minutes is
not used any more. For contents that never change (uploads, ``data:``) a record is fresh for ten minutes, and is used
until the server refuses access: all that it can report is that the right to the image was withdrawn.

A record belongs to a project: the right of one project to fetch an address gives no right to another. The content
itself is shared, because a client that can fetch the bytes of an image may also use its embedding.
"""

import copy
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from cachetools import LRUCache, TLRUCache

from backend.embeddings.content_records import ContentDatabase, ContentRecord, SourceKey
from backend.errors import BackendError
from backend.images.fetch import Validators
from backend.images.locations import resolved_through
from backend.types import ImageRef

__all__ = ["ContentIndex", "ContentRecord", "SourceKey", "source_key"]

FRESH_S = 60.0
IMMUTABLE_FRESH_S = 600.0
USABLE_FACTOR = 10
FAILURE_S = 30.0
PASSING_FAILURE_S = 3.0
MAX_ENTRIES = 20_000


def source_key(ref: ImageRef) -> SourceKey:
    """Return the owner and the digest of an address, which together decide its content.

    >>> source_key(ImageRef("/data/upload/1/a.png", task_id=7, project_id=1))[0]
    'project 1'

    A cloud address is resolved through its task, regardless of the project that the caller names; the same address in
    another task may have other content. Any other address has one content for all tasks of a project. What is looked
    for on an image makes a key of its own.
    """
    owner = resolved_through(ref)
    if owner is None:
        owner = f"project {ref.project_id}" if ref.project_id is not None else f"task {ref.task_id}"
    address = hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass"))
    if ref.words is not None:
        address.update(f"\n{ref.words.digest}".encode())
    return owner, address.hexdigest()


class ContentIndex:
    """The `MAX_ENTRIES` most recently used addresses and their contents; safe from many threads.

    >>> index = ContentIndex()
    >>> index.put(("project 1", "ab" * 32), "cd" * 32, Validators(), immutable=True)
    >>> index.is_fresh(index.get(("project 1", "ab" * 32)))
    True
    """

    def __init__(self, clock: Callable[[], float] | None = None, database: ContentDatabase | None = None) -> None:
        """Keep the records in memory, and in ``database``, which outlives the process, if there is one.

        ``clock`` is in seconds; by default the time of day, so that records stay valid over a restart. It may jump: a
        record from the future is neither fresh nor usable.
        """
        self._clock, self._database = clock or time.time, database
        self._records: LRUCache[SourceKey, ContentRecord] = LRUCache(MAX_ENTRIES)
        self._failures: TLRUCache[SourceKey, BackendError] = TLRUCache(
            MAX_ENTRIES, lambda _, error, now: now + failure_lasts_s(error), clock or time.monotonic
        )
        self._lock = threading.Lock()

    def get(self, address_key: SourceKey) -> ContentRecord | None:
        """Return the content last seen at an address, None if there is none."""
        with self._lock:
            record = self._records.get(address_key)
        if record is None and self._database is not None:
            record = self._database.get(address_key)
            if record is not None:
                self._keep(address_key, record)
        return record

    def is_fresh(self, record: ContentRecord) -> bool:
        """Whether a record may be used without revalidation."""
        return 0 <= self._clock() - record.checked_at < (IMMUTABLE_FRESH_S if record.immutable else FRESH_S)

    def is_stale_usable(self, record: ContentRecord) -> bool:
        """Whether a record may be used while it is being revalidated."""
        return record.immutable or 0 <= self._clock() - record.checked_at < USABLE_FACTOR * FRESH_S

    def put(
        self, address_key: SourceKey, digest: str, version: Validators, *, immutable: bool, age_s: float = 0.0
    ) -> None:
        """Store the content of an address, as it was ``age_s`` seconds ago, and forget its failure."""
        self._store(address_key, ContentRecord(digest, version, immutable, self._clock() - age_s))
        with self._lock:
            self._failures.pop(address_key, None)

    def note_file(self, project_id: int | None, digest: str) -> None:
        """Store that a project uses a file, so that `ContentDatabase.erase` finds it."""
        if self._database is not None and project_id is not None:
            self._database.note_file(project_id, digest)

    def mark_fresh(self, address_key: SourceKey) -> None:
        """Reset the age of a record whose server reports no change."""
        record = self.get(address_key)
        if record is not None:
            self._store(address_key, replace(record, checked_at=self._clock()))

    def fail(self, address_key: SourceKey, error: BackendError) -> None:
        """Cache a failure for a short time, and drop the content if a retry would not help."""
        with self._lock:
            self._failures[address_key] = _without_traceback(error)
            if not error.retry:
                self._records.pop(address_key, None)
        if self._database is not None and not error.retry:
            self._database.remove(address_key)

    def failure(self, address_key: SourceKey) -> BackendError | None:
        """Return a copy of the cached failure of an address, to be raised by one caller; None if there is none."""
        with self._lock:
            error = self._failures.get(address_key)
        return None if error is None else copy.copy(error)

    def _keep(self, address_key: SourceKey, record: ContentRecord) -> None:
        with self._lock:
            self._records[address_key] = record

    def _store(self, address_key: SourceKey, record: ContentRecord) -> None:
        self._keep(address_key, record)
        if self._database is not None:
            self._database.put(address_key, record)


def failure_lasts_s(error: BackendError) -> float:
    """Return how long the failure of an address is cached."""
    return PASSING_FAILURE_S if error.retry else FAILURE_S


def _without_traceback(error: BackendError) -> BackendError:
    """Return a copy without the traceback, whose frames would keep the image file in memory."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a class that cannot be copied; the caller still gets the error itself
        return error
