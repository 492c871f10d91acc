"""An index of image addresses: the content last seen at each, and the addresses that failed recently.

With this map from address to content, a click on a cached image needs no download. A record is fresh for one minute.
After that the image's server is asked in the background whether the content changed, and clicks are still answered; a
record that could not be revalidated for ten minutes is not used any more. For contents that never change (uploads,
``data:``) both times are ten times longer.

A record belongs to a project: the right of one project to fetch an address gives no right to another. The content
itself is shared, because a client that can fetch the bytes of an image may also use its embedding.
"""

import copy
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from backend.errors import BackendError
from backend.images.fetch import Validators
from backend.images.locations import resolved_through
from backend.types import ImageRef

SourceKey: TypeAlias = tuple[str, str]
"""(owner, sha256 of the address in hex): an address within one project or task; short even for a long address."""

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
    another task may have other content. Any other address has one content for all tasks of a project.
    """
    owner = resolved_through(ref)
    if owner is None:
        owner = f"project {ref.project_id}" if ref.project_id is not None else f"task {ref.task_id}"
    return owner, hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ContentRecord:
    """The content last seen at an address.

    Attributes:
        digest: sha256 of the image file, in hex.
        version: HTTP validators that the server sent with it.
        checked_at: when the server last confirmed it, on the clock of the `ContentIndex`.
        fresh_s: how long after that it may be used without revalidation.
    """

    digest: str
    version: Validators
    checked_at: float
    fresh_s: float


class ContentIndex:
    """The `MAX_ENTRIES` most recently used addresses and their contents; safe from many threads.

    >>> index = ContentIndex()
    >>> index.put(("project 1", "ab" * 32), "cd" * 32, Validators(), immutable=True)
    >>> index.is_fresh(index.get(("project 1", "ab" * 32)))
    True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Measure ages with ``clock``, in seconds, monotonic."""
        self._clock = clock
        self._records: OrderedDict[SourceKey, ContentRecord] = OrderedDict()
        self._failures: OrderedDict[SourceKey, tuple[BackendError, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, address_key: SourceKey) -> ContentRecord | None:
        """Return the content last seen at an address, None if there is none."""
        with self._lock:
            record = self._records.get(address_key)
            if record is not None:
                self._records.move_to_end(address_key)
            return record

    def is_fresh(self, record: ContentRecord) -> bool:
        """Whether a record may be used without revalidation."""
        return self._clock() - record.checked_at < record.fresh_s

    def is_stale_usable(self, record: ContentRecord) -> bool:
        """Whether a record may be used while it is being revalidated."""
        return self._clock() - record.checked_at < USABLE_FACTOR * record.fresh_s

    def put(
        self, address_key: SourceKey, digest: str, version: Validators, *, immutable: bool, age_s: float = 0.0
    ) -> None:
        """Store the content of an address, as it was ``age_s`` seconds ago."""
        record = ContentRecord(digest, version, self._clock() - age_s, IMMUTABLE_FRESH_S if immutable else FRESH_S)
        with self._lock:
            self._records[address_key] = record
            self._records.move_to_end(address_key)
            self._failures.pop(address_key, None)
            while len(self._records) > MAX_ENTRIES:
                self._records.popitem(last=False)

    def mark_fresh(self, address_key: SourceKey) -> None:
        """Reset the age of a record whose server reports no change."""
        with self._lock:
            record = self._records.get(address_key)
            if record is not None:
                self._records[address_key] = replace(record, checked_at=self._clock())

    def fail(self, address_key: SourceKey, error: BackendError) -> None:
        """Cache a failure for a short time, and drop the content if a retry would not help."""
        until = self._clock() + (PASSING_FAILURE_S if error.retry else FAILURE_S)
        with self._lock:
            if not error.retry:
                self._records.pop(address_key, None)
            self._failures[address_key] = (_without_traceback(error), until)
            self._failures.move_to_end(address_key)
            while len(self._failures) > MAX_ENTRIES:
                self._failures.popitem(last=False)

    def failure(self, address_key: SourceKey) -> BackendError | None:
        """Return a copy of the cached failure of an address, to be raised by one caller; None if there is none."""
        with self._lock:
            error, until = self._failures.get(address_key, (None, 0.0))
            if error is None or self._clock() < until:
                return None if error is None else copy.copy(error)
            del self._failures[address_key]
            return None


def _without_traceback(error: BackendError) -> BackendError:
    """Return a copy without the traceback, whose frames would keep the image file in memory."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a class that cannot be copied; the caller still gets the error itself
        return error
