"""Bounds how many bytes of images are in memory at a time, however many ask; each single one has a limit of its own."""

import threading
import time

from backend.errors import Reason, RetryLater

IMAGES = 4
"""How many images of the largest size that is allowed fit into a budget."""

ADDRESSES_BYTES = 256_000_000
"""How much of ``data:`` addresses, which hold images themselves, one process keeps for what is on its way."""

_LONG_ADDRESS = 10_000


class ByteBudget:
    """Room for so many bytes; safe from many threads."""

    def __init__(self, max_bytes: int) -> None:
        """Take the bound of the sum."""
        self.max_bytes = max_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """How many bytes are taken now."""
        return self._taken

    def take(self, size: int, within_s: float = 0.0) -> "Share":
        """Take room for ``size`` bytes, waiting for it. To be called with no share in hand, or two could wait for each
        other.

        Raises:
            RetryLater: there is none in time (``overloaded``).
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
        """Take room for an address, without waiting; None for one of ordinary length.

        Raises:
            RetryLater: there is none (``overloaded``).
        """
        return self.take(len(uri)) if len(uri) > _LONG_ADDRESS else None

    def add(self, size: int) -> bool:
        """Take ``size`` bytes more, or give them back if it is negative; return whether there was room."""
        with self._changed:
            if size > 0 and not self._fits(size):
                return False
            self._taken += size
            self._changed.notify_all()
            return True

    def _fits(self, size: int) -> bool:
        return self._taken + size <= self.max_bytes or not self._taken


class Share:
    """Bytes of a budget that one image holds until it is released, at the latest when nobody knows of it any more."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        """Made by `ByteBudget.take`."""
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
