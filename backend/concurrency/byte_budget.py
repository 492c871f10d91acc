"""Bounds how many bytes of images are in memory at a time, over all requests; each image also has its own limit."""

import threading
import time

from backend.errors import Reason, RetryLater

IMAGES = 4
"""Number of images of the largest allowed size that fit into a budget."""

ADDRESSES_BYTES = 256_000_000
"""Most bytes of ``data:`` addresses, which hold the image itself, that one process keeps for pending images."""

_LONG_ADDRESS = 10_000


class ByteBudget:
    """A limit on the sum of bytes taken; safe from many threads.

    >>> budget = ByteBudget(100)
    >>> share = budget.take(60)
    >>> budget.taken
    60
    >>> share.resize(120)
    False
    >>> share.release()
    >>> budget.taken
    0
    """

    def __init__(self, max_bytes: int) -> None:
        """Allow at most ``max_bytes`` to be taken at a time; a single share may be larger when no other is taken."""
        self.max_bytes = max_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """Bytes taken now."""
        return self._taken

    def take(self, size: int, within_s: float = 0.0) -> "Share":
        """Take ``size`` bytes, waiting up to ``within_s`` for them.

        The caller must hold no share of this budget; otherwise two callers could wait for each other.

        Raises:
            RetryLater: the bytes did not become free in time (``overloaded``).
        """
        deadline = time.monotonic() + within_s
        with self._changed:
            while not self._fits(size):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RetryLater(
                        f"{self._taken:,} bytes of images are in memory to be encoded, and {size:,} more would be over "
                        f"their limit of {self.max_bytes:,}",
                        Reason.OVERLOADED,
                    )
                self._changed.wait(left)
            self._taken += size
        return Share(self, size)

    def take_address(self, uri: str) -> "Share | None":
        """Take the bytes of a long address, without waiting; return None for an address of ordinary length.

        Raises:
            RetryLater: there is no room for it (``overloaded``).
        """
        return self.take(len(uri)) if len(uri) > _LONG_ADDRESS else None

    def add(self, size: int) -> bool:
        """Take ``size`` bytes, or give them back if ``size`` is negative; return whether there was room."""
        with self._changed:
            if size > 0 and not self._fits(size):
                return False
            self._taken += size
            self._changed.notify_all()
            return True

    def _fits(self, size: int) -> bool:
        return self._taken + size <= self.max_bytes or not self._taken


class Share:
    """Bytes of a budget held for one image until `release`, at the latest when the object is garbage-collected."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        """Hold ``size`` bytes that `ByteBudget.take` has already counted."""
        self._budget, self.size = budget, size

    def resize(self, size: int) -> bool:
        """Hold ``size`` bytes instead, without waiting; return whether there was room."""
        fits = self._budget.add(size - self.size)
        self.size = size if fits else self.size
        return fits

    def release(self) -> None:
        """Give the bytes back; the second call does nothing."""
        size, self.size = self.size, 0
        if size:
            self._budget.add(-size)

    def __del__(self) -> None:
        self.release()
