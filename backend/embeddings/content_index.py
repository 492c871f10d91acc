"""What is known of the addresses images come from: which content lies behind one, and which failed a moment ago.

The map from address to content is what spares a warm click the download. It holds for a minute; then the server is
asked whether anything changed, in the background, while clicks go on being answered; after ten minutes without answer
nothing is taken for granted any more. Contents that never change (uploads, ``data:``) are asked about ten times less.

An entry belongs to a project: what one project may fetch says nothing about another. The content itself is shared,
since whoever holds the bytes of an image may as well have its embedding.
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
"""An address as one project sees it; short, however long the address is."""

FRESH_S = 60.0
IMMUTABLE_FRESH_S = 600.0
USABLE_FACTOR = 10
FAILURE_S = 30.0
PASSING_FAILURE_S = 3.0
MAX_ENTRIES = 20_000


def source_key(ref: ImageRef) -> SourceKey:
    """Return whose address this is, and which: all that decides what lies behind it.

    A cloud address is resolved through its task, whatever project a caller says that is in; what lies behind it there
    says nothing about the same address in another task. Other addresses are one for all tasks of a project.
    """
    owner = resolved_through(ref)
    if owner is None:
        owner = f"project {ref.project_id}" if ref.project_id is not None else f"task {ref.task_id}"
    return owner, hashlib.sha256(ref.uri.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ContentRecord:
    """What lies behind an address.

    Attributes:
        digest: sha256 of the image file.
        version: what its server said of it.
        checked_at: when that was so, on the clock of its `ContentIndex`.
        fresh_s: for how long that needs no asking.
    """

    digest: str
    version: Validators
    checked_at: float
    fresh_s: float


class ContentIndex:
    """Addresses and their contents, the most recently used ones; safe from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds, monotonic."""
        self._clock = clock
        self._known: OrderedDict[SourceKey, ContentRecord] = OrderedDict()
        self._failures: OrderedDict[SourceKey, tuple[BackendError, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: SourceKey) -> ContentRecord | None:
        """Return what lay behind an address when it was last looked at."""
        with self._lock:
            found = self._known.get(place)
            if found is not None:
                self._known.move_to_end(place)
            return found

    def is_fresh(self, content: ContentRecord) -> bool:
        """Whether it may be used without asking."""
        return self._clock() - content.checked_at < content.fresh_s

    def is_stale_usable(self, content: ContentRecord) -> bool:
        """Whether it may be used while it is being asked about."""
        return self._clock() - content.checked_at < USABLE_FACTOR * content.fresh_s

    def put(self, place: SourceKey, digest: str, version: Validators, *, immutable: bool, age_s: float = 0.0) -> None:
        """Note what lies behind an address now, or lay so ``age_s`` ago."""
        content = ContentRecord(digest, version, self._clock() - age_s, IMMUTABLE_FRESH_S if immutable else FRESH_S)
        with self._lock:
            self._known[place] = content
            self._known.move_to_end(place)
            self._failures.pop(place, None)
            while len(self._known) > MAX_ENTRIES:
                self._known.popitem(last=False)

    def confirm(self, place: SourceKey) -> None:
        """Note that nothing has changed."""
        with self._lock:
            found = self._known.get(place)
            if found is not None:
                self._known[place] = replace(found, checked_at=self._clock())

    def fail(self, place: SourceKey, error: BackendError) -> None:
        """Remember a failure for a short while, and forget the content where trying again would not help."""
        until = self._clock() + (PASSING_FAILURE_S if error.retry else FAILURE_S)
        with self._lock:
            if not error.retry:
                self._known.pop(place, None)
            self._failures[place] = (_bare(error), until)
            self._failures.move_to_end(place)
            while len(self._failures) > MAX_ENTRIES:
                self._failures.popitem(last=False)

    def failure(self, place: SourceKey) -> BackendError | None:
        """Return the failure of a moment ago, to be raised by one caller."""
        with self._lock:
            error, until = self._failures.get(place, (None, 0.0))
            if error is None or self._clock() < until:
                return None if error is None else copy.copy(error)
            del self._failures[place]
            return None


def _bare(error: BackendError) -> BackendError:
    """Return an error without its traceback, which holds the frames that failed, with the image file in them."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a defect of that error's class, which is told by whoever raises it
        return error
