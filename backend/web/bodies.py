"""Request bodies in memory, while they are received and read, within the memory budget of the process."""

import io
import mmap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.concurrency.byte_budget import ByteBudget, Use
from backend.errors import Reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL_BYTES = 65_536
"""A body up to this size is not counted: a click without saved masks is received while large bodies fill the budget."""

SEGMENT_BYTES = 1 << 20

GRACE_S = 2.0  # how long a body is received before it may be refused to free memory for others


class Bodies:
    """All request bodies of one process; thread-safe.

    ``budget`` counts the bytes of those above `SMALL_BYTES`; ``lock`` is held while a body changes.

    >>> bodies = Bodies(max_bytes=1000)
    >>> body = bodies.begin()
    >>> body.append(b"{}")
    >>> body.take()
    b'{}'
    """

    def __init__(
        self, max_bytes: int, budget: ByteBudget | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Refuse bodies above ``max_bytes``; the default budget is twice that."""
        self.max_bytes = max_bytes
        self.budget = budget or ByteBudget(2 * max_bytes)
        self._clock = clock
        self.lock = self.budget.lock  # one for both: the garbage collector may close a body while either is held
        self.receiving: dict[Body, float] = {}  # since when

    def begin(self) -> "Body":
        """Return a new, empty body."""
        body = Body(self)
        with self.lock:
            self.receiving[body] = self._clock()
        return body

    def add(self, body: "Body", data: bytes) -> None:
        """Append received bytes to a body; while the budget is exceeded, refuse the slowest one.

        A caller that sends slowly for a long time would otherwise block the memory that others need.
        """
        with self.lock:
            if body.refusal is not None:
                return
            nbytes = body.kept.nbytes + len(data)
            if nbytes > self.max_bytes:
                body.refuse()
                return
            if nbytes > SMALL_BYTES:
                while not self.budget.add(nbytes - body.counted_bytes, Use.BODIES):
                    slowest = self._slowest() or body
                    slowest.refuse(Reason.OVERLOADED)
                    if slowest is body:
                        return
                body.counted_bytes = nbytes
            body.kept.write(data)

    def _slowest(self) -> "Body | None":
        now = self._clock()
        rates = {
            body: body.counted_bytes / (now - since)
            for body, since in self.receiving.items()
            if body.counted_bytes and now - since > GRACE_S
        }
        return min(rates, key=rates.__getitem__, default=None)


class _Memory:
    """A growing byte buffer; beyond `SMALL_BYTES` in mapped memory, which returns to the system when it is cleared.

    Memory that Python's allocator takes for a large body stays with the process, see `model.device`.
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
            position = 0
            while position < len(rest):
                if not self._segments or self._segments[-1].tell() == SEGMENT_BYTES:
                    self._segments.append(mmap.mmap(-1, SEGMENT_BYTES))
                free_bytes = SEGMENT_BYTES - self._segments[-1].tell()
                position += self._segments[-1].write(rest[position : position + free_bytes])

    def take(self) -> bytes:
        """Return all bytes, and clear the buffer."""
        if not self._segments:
            return bytes(self._first)
        *full, last = self._segments
        with memoryview(last) as view, view[: last.tell()] as used:
            data = b"".join((self._first, *full, used))
        self.clear()
        return data

    def clear(self) -> None:
        """Drop all bytes."""
        for segment in self._segments:
            segment.close()
        self._first, self._segments = bytearray(), []


class Body(io.RawIOBase):
    """One request's body, readable as a binary file.

    Its bytes are dropped where there is a ``refusal``; ``received_bytes`` counts those that have arrived, kept or not,
    ``counted_bytes`` those that it takes of the budget.
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
        """Append received bytes; they are ignored if the body was refused."""
        self.received_bytes += len(data)
        self._bodies.add(self, data)

    def refuse(self, reason: Reason = Reason.BODY_TOO_LARGE) -> None:
        """Drop its bytes, and ignore those that arrive later."""
        with self._bodies.lock:
            self.refusal = reason
            self._empty()

    def complete(self) -> None:
        """Mark it as complete, so that it is not refused any more."""
        with self._bodies.lock:
            self._bodies.receiving.pop(self, None)

    def getfile(self) -> "Body":
        """Return the body itself, as waitress' receivers expect."""
        return self

    def take(self) -> bytes:
        """Return all bytes, once; they stay counted until `drop`."""
        return self.kept.take()

    def drop(self) -> None:
        """Drop its bytes and take it out of the budget."""
        with self._bodies.lock:
            self.complete()
            self._empty()

    def _empty(self) -> None:
        self._bodies.budget.add(-self.counted_bytes, Use.BODIES)
        self.counted_bytes = 0
        self.kept.clear()

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read into ``buffer`` and return how many bytes were read; see `io.RawIOBase`."""
        if self._file is None:
            self._file = io.BytesIO(self.take())
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Drop its bytes and close the file."""
        self.drop()
        super().close()
