"""Delivers items in batches, in order, on a thread of its own, while the caller makes more of them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_ITEMS = 16
MAX_BYTES = 4_000_000
MAX_AGE_S = 5.0
MAX_PENDING = 2


class Batcher(Generic[T, R]):
    """Collects items into batches and delivers them. Used by one thread, which also reads the results.

    >>> with Batcher(lambda batch: [len(item) for item in batch], size_bytes=len) as batcher:
    ...     batcher.add("one")
    ...     batcher.add("three")
    ...     list(batcher.flush())
    [3, 5]
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[T]], Sequence[R]],
        size_bytes: Callable[[T], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Deliver batches of at most about `MAX_BYTES`, `MAX_ITEMS` items and `MAX_AGE_S` of age.

        ``deliver`` returns one result for each item of a batch.
        """
        self._deliver, self._size_bytes, self._clock = deliver, size_bytes, clock
        self._batch: list[T] = []
        self._nbytes, self._batch_began_at = 0, 0.0
        self._pending: deque[Future[Sequence[R]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="deliver")

    def __enter__(self) -> "Batcher[T, R]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, item: T) -> None:
        """Add an item to the current batch."""
        self._batch_began_at = self._batch_began_at if self._batch else self._clock()
        self._batch.append(item)
        self._nbytes += self._size_bytes(item)

    def poll(self) -> Iterator[R]:
        """Deliver the current batch if it is full or old enough, and yield the results that are ready.

        Waits while more than `MAX_PENDING` batches are being delivered; raises what a delivery raised.
        """
        is_old = self._clock() - self._batch_began_at >= MAX_AGE_S
        if len(self._batch) >= MAX_ITEMS or self._nbytes >= MAX_BYTES or (self._batch and is_old):
            self._send()
        while self._pending and (self._pending[0].done() or len(self._pending) > MAX_PENDING):
            yield from self._pending.popleft().result()

    def flush(self) -> Iterator[R]:
        """Deliver all remaining items, and yield the remaining results; raises what a delivery raised."""
        if self._batch:
            self._send()
        while self._pending:
            yield from self._pending.popleft().result()

    def _send(self) -> None:
        self._pending.append(self._pool.submit(self._deliver, self._batch))
        self._batch, self._nbytes = [], 0
