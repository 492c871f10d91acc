"""Bounds how many bytes of bodies, addresses and files are in memory at a time, over all requests.

Each body, address and file also has its own limit.
"""

import threading
import time
from collections.abc import Mapping
from enum import Enum

from backend.errors import Reason, RetryLater

DEFAULT_BYTES = 900_000_000

_LONG_ADDRESS = 10_000


class Use(Enum):
    """What bytes of a budget are taken for."""

    BODIES = "bodies"  # request bodies that are being received or read
    ADDRESSES = "addresses"  # ``data:`` addresses, which hold the image itself, of images that are waited for
    FILES = "files"  # image files that are being fetched or wait for the encoder


class ByteBudget:
    """A limit on the sum of bytes taken, with a guaranteed minimum for each use; safe from many threads.

    Bytes of one use may fill the budget, except what the minimums of the others leave unused.

    >>> budget = ByteBudget(100, {Use.BODIES: 30})
    >>> share = budget.take(60)
    >>> budget.taken
    60
    >>> share.resize(80)
    False
    >>> budget.add(40, Use.BODIES)
    True
    >>> share.release()
    >>> budget.taken
    40
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES, minimums: Mapping[Use, int] | None = None) -> None:
        """Allow at most ``max_bytes`` to be taken at a time, and keep the ``minimums`` free for their uses."""
        self.max_bytes = max_bytes
        self.lock = threading.RLock()
        self._minimums = {use: (minimums or {}).get(use, 0) for use in Use}
        self._taken = dict.fromkeys(Use, 0)
        self._changed = threading.Condition(self.lock)

    @property
    def taken(self) -> int:
        """Bytes that are taken now, for all uses together."""
        return sum(self._taken.values())

    def taken_for(self, use: Use) -> int:
        """Return the bytes that are taken now for one use."""
        return self._taken[use]

    def take(self, size: int, within_s: float = 0.0, use: Use = Use.FILES) -> "Share":
        """Take ``size`` bytes, waiting up to ``within_s`` for them.

        The caller must hold no share for this use; otherwise two callers could wait for each other.

        Raises:
            RetryLater: the bytes did not become free in time (``overloaded``).
        """
        deadline = time.monotonic() + within_s
        with self._changed:
            while not self.add(size, use):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RetryLater(
                        f"{self.taken:,} bytes of requests and images are in memory, {self.taken_for(use):,} of them "
                        f"{use.value}, and {size:,} more would exceed the {self.max_bytes:,} of PADDLE_SAM_BUFFER_MB",
                        Reason.OVERLOADED,
                    )
                self._changed.wait(left)
        return Share(self, size, use)

    def take_address(self, uri: str) -> "Share | None":
        """Take the bytes of a long address (else None) without waiting; `RetryLater` if there is no room."""
        return self.take(len(uri), use=Use.ADDRESSES) if len(uri) > _LONG_ADDRESS else None

    def add(self, size: int, use: Use = Use.FILES) -> bool:
        """Take ``size`` bytes, or give them back if ``size`` is negative; return whether there was room."""
        with self._changed:
            after = self._taken | {use: self._taken[use] + size}
            if size > 0 and sum(max(after[each], self._minimums[each]) for each in Use) > self.max_bytes:
                return False
            self._taken[use] += size
            if size < 0:
                self._changed.notify_all()
            return True


class Share:
    """Bytes of a budget held until `release`, at the latest until the object is garbage-collected."""

    def __init__(self, budget: ByteBudget, size: int, use: Use) -> None:
        self._budget, self.size, self._use = budget, size, use

    def resize(self, size: int) -> bool:
        """Hold ``size`` bytes instead, without waiting; return whether there was room."""
        fits = self._budget.add(size - self.size, self._use)
        self.size = size if fits else self.size
        return fits

    def release(self) -> None:
        """Give the bytes back; the second call does nothing."""
        size, self.size = self.size, 0
        if size:
            self._budget.add(-size, self._use)

    def __del__(self) -> None:
        self.release()
