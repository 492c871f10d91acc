"""Runs a function over an iterator's items in a few threads, and yields the results as they come."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


POLL_EVERY_S = 0.25
STOP_WITHIN_S = 10.0
"""How long to wait for running items once a run must stop; one item may take minutes on a large image."""


def parallel_map(
    items: Iterable[T],
    work: Callable[[T], R],
    at_once: int,
    stop: threading.Event,
    on_stop: Callable[[], None] = lambda: None,
    stop_within_s: float = STOP_WITHIN_S,
) -> Iterator[R]:
    """Yield ``work(item)`` of each item, in the order in which the results are ready.

    >>> sorted(parallel_map([1, 2, 3], lambda number: 10 * number, at_once=2, stop=threading.Event()))
    [10, 20, 30]

    Args:
        items: read one by one, and only when a thread is free to work on the next one.
        work: called in other threads.
        at_once: how many items are worked on at a time.
        stop: once it is set, no more items are read; running ones are finished within ``stop_within_s``.
        on_stop: called once when ``stop`` is noticed, to cancel waits inside ``work``.
        stop_within_s: seconds after which running items are left to their threads, and their results are lost.

    Raises:
        Exception: the first error that ``items`` or ``work`` raises, after the running items were finished and yielded.
    """
    failure: BaseException | None = None
    pending: set[Future[R]] = set()
    source, is_open, deadline = iter(items), True, math.inf
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="task")
    try:
        while time.monotonic() < deadline:
            while is_open and len(pending) < at_once and not stop.is_set():
                try:
                    pending.add(pool.submit(work, next(source)))
                except Exception as error:  # noqa: BLE001 - raised again once the others are done
                    failure, is_open = None if isinstance(error, StopIteration) else error, False
            if not pending:
                break
            if stop.is_set() and deadline == math.inf:
                deadline = time.monotonic() + stop_within_s
                on_stop()
            done, pending = wait(pending, POLL_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                if future.exception() is None:
                    yield future.result()
                else:
                    failure, is_open = failure or future.exception(), False
    finally:
        pool.shutdown(wait=not stop.is_set(), cancel_futures=True)
    if failure is not None:
        raise failure
