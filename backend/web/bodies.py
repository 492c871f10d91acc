"""The bodies of requests, kept in memory while they are received and read, all of them together within a budget."""

import io
import mmap
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.errors import Reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL_BYTES = 65_536
"""A smaller body is not counted: a click without saved masks is received however many large bodies there are."""

SEGMENT_BYTES = 1 << 20

GRACE_S = 2.0
"""For how long a body is received before it may have to give way to others."""


class Bodies:
    """All bodies that one process holds; safe from many threads."""

    def __init__(
        self, max_bytes: int, budget_bytes: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Hold nothing yet.

        Args:
            max_bytes: a larger body is not kept.
            budget_bytes: of all bodies together; twice the largest one, if None.
            clock: seconds, monotonic.
        """
        self.max_bytes = max_bytes
        self.budget_bytes = 2 * max_bytes if budget_bytes is None else budget_bytes
        self._clock, self._lock = clock, threading.RLock()  # a forgotten body is dropped by Python, at any moment
        self._held_bytes = 0
        self._receiving: dict[Body, float] = {}  # since when

    @property
    def held_bytes(self) -> int:
        """How much is held of bodies that are not small."""
        return self._held_bytes

    def begin(self) -> "Body":
        """Return a body of which nothing is received yet."""
        body = Body(self)
        with self._lock:
            self._receiving[body] = self._clock()
        return body

    def add(self, body: "Body", data: bytes) -> None:
        """Keep what was received of a body; where it is too much for all of them, the slowest one is given up.

        A caller that sends on and on, but slowly, would otherwise leave no room for others.
        """
        with self._lock:
            if body.refusal is not None:
                return
            body.kept.write(data)
            nbytes = body.kept.nbytes
            if nbytes > self.max_bytes:
                self._refuse(body, Reason.BODY_TOO_LARGE)
            elif nbytes > SMALL_BYTES:
                self._held_bytes += nbytes - body.counted_bytes
                body.counted_bytes = nbytes
            while self._held_bytes > self.budget_bytes and body.refusal is None:
                self._refuse(self._slowest() or body, Reason.OVERLOADED)

    def refuse(self, body: "Body", reason: Reason) -> None:
        """Keep nothing of a body, nor of what is still to come of it."""
        with self._lock:
            self._refuse(body, reason)

    def received(self, body: "Body") -> None:
        """Note that a body is complete, so that it need not give way any more."""
        with self._lock:
            self._receiving.pop(body, None)

    def drop(self, body: "Body") -> None:
        """Hold nothing of a body any more."""
        with self._lock:
            self._receiving.pop(body, None)
            self._empty(body)

    def _refuse(self, body: "Body", reason: Reason) -> None:
        body.refusal = reason
        self._empty(body)

    def _empty(self, body: "Body") -> None:
        self._held_bytes -= body.counted_bytes
        body.counted_bytes = 0
        body.kept.clear()

    def _slowest(self) -> "Body | None":
        now = self._clock()
        rates = {
            body: body.counted_bytes / (now - since)
            for body, since in self._receiving.items()
            if body.counted_bytes and now - since > GRACE_S
        }
        return min(rates, key=rates.__getitem__, default=None)


class _Memory:
    """Bytes that are added to; beyond a few, in memory that goes back to the system as soon as it is not needed.

    What Python's allocator takes for a large body stays with the process, see `model.device`.
    """

    def __init__(self) -> None:
        self._first, self._segments = bytearray(), list[mmap.mmap]()

    @property
    def nbytes(self) -> int:
        full = SEGMENT_BYTES * max(0, len(self._segments) - 1)
        return len(self._first) + full + (self._segments[-1].tell() if self._segments else 0)

    def write(self, data: bytes) -> None:
        if not self._segments and len(self._first) + len(data) <= SMALL_BYTES:
            self._first += data
            return
        with memoryview(data) as rest:
            place = 0
            while place < len(rest):
                if not self._segments or self._segments[-1].tell() == SEGMENT_BYTES:
                    self._segments.append(mmap.mmap(-1, SEGMENT_BYTES))
                room = SEGMENT_BYTES - self._segments[-1].tell()
                place += self._segments[-1].write(rest[place : place + room])

    def take(self) -> bytes:
        """Return everything, and keep nothing."""
        if not self._segments:
            return bytes(self._first)
        *full, last = self._segments
        with memoryview(last) as view, view[: last.tell()] as used:
            data = b"".join((self._first, *full, used))
        self.clear()
        return data

    def clear(self) -> None:
        """Keep nothing."""
        for segment in self._segments:
            segment.close()
        self._first, self._segments = bytearray(), []


class Body(io.RawIOBase):
    """One request's body, a file for whoever reads it.

    Attributes:
        refusal: why it is not kept, None while it is.
        received_bytes: how much has come of it, kept or not.
        counted_bytes: how much it takes of the budget.
        kept: what is kept.
    """

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.refusal: Reason | None = None
        self.received_bytes = self.counted_bytes = 0
        self.kept = _Memory()
        self._file: io.BytesIO | None = None

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return self.kept.nbytes

    def append(self, data: bytes) -> None:
        """Take what comes next; without a word where nothing is kept any more."""
        self.received_bytes += len(data)
        self._bodies.add(self, data)

    def refuse(self) -> None:
        """Keep nothing of it, however small it is: nobody will read it."""
        self._bodies.refuse(self, Reason.BODY_TOO_LARGE)

    def complete(self) -> None:
        """Note that everything is there."""
        self._bodies.received(self)

    def getfile(self) -> "Body":
        """Return a file of what was received."""
        return self

    def take(self) -> bytes:
        """Return everything, once; it stays counted until it is dropped."""
        return self.kept.take()

    def drop(self) -> None:
        """Keep nothing of it any more."""
        self._bodies.drop(self)

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what fits, and return how much that is; see `io.RawIOBase`."""
        if self._file is None:
            self._file = io.BytesIO(self.take())
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Keep nothing of it any more, nor read of it."""
        self.drop()
        super().close()
