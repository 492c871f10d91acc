"""Things delivered a few at a time, in order, by one thread of their own, while more of them are made."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 16
MOST_BYTES = 4_000_000
OLDEST_S = 5.0
UNDER_WAY = 2


class Batcher(Generic[T, R]):
    """Gathers things until they are worth a delivery. For one thread, which also collects what became of them."""

    def __init__(
        self,
        deliver: Callable[[Sequence[T]], Sequence[R]],
        size_bytes: Callable[[T], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Gather nothing yet.

        Args:
            deliver: takes a chunk, and returns what became of each part of it.
            size_bytes: of one thing; a chunk is at most about `MOST_BYTES`, `MOST` things and `OLDEST_S` old.
            clock: seconds, monotonic.
        """
        self._deliver, self._size_bytes, self._clock = deliver, size_bytes, clock
        self._gathered: list[T] = []
        self._nbytes, self._since = 0, 0.0
        self._under_way: deque[Future[Sequence[R]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="deliver")

    def __enter__(self) -> "Batcher[T, R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, thing: T) -> None:
        """Gather something."""
        self._since = self._since if self._gathered else self._clock()
        self._gathered.append(thing)
        self._nbytes += self._size_bytes(thing)

    def delivered(self) -> Iterator[R]:
        """Send off what is gathered if it is time, and yield what became of what has been delivered.

        Waits where more is made than can be delivered.

        Raises:
            Exception: whatever a delivery has raised.
        """
        is_old = self._clock() - self._since >= OLDEST_S
        if len(self._gathered) >= MOST or self._nbytes >= MOST_BYTES or (self._gathered and is_old):
            self._send()
        while self._under_way and (self._under_way[0].done() or len(self._under_way) > UNDER_WAY):
            yield from self._under_way.popleft().result()

    def finish(self) -> Iterator[R]:
        """Deliver everything that is left, and yield what became of it.

        Raises:
            Exception: whatever a delivery has raised.
        """
        if self._gathered:
            self._send()
        while self._under_way:
            yield from self._under_way.popleft().result()

    def _send(self) -> None:
        self._under_way.append(self._pool.submit(self._deliver, self._gathered))
        self._gathered, self._nbytes = [], 0
