"""A few things in hand at a time: work in threads over what an iterator yields, and outcomes as they come."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


LOOK_EVERY_S = 0.25
STOP_WITHIN_S = 10.0
"""For how long what is in hand is waited for once a run is to stop; everything on a large image may take minutes."""


def parallel_map(
    items: Iterable[T],
    work: Callable[[T], R],
    at_once: int,
    stop: threading.Event,
    on_stop: Callable[[], None] = lambda: None,
    stop_within_s: float = STOP_WITHIN_S,
) -> Iterator[R]:
    """Yield what ``work`` makes of each item, in the order in which it is done.

    Args:
        items: taken one by one, and no more of them than are worked on.
        work: runs in threads of its own.
        at_once: how many items are in hand at a time.
        stop: once it is set, no more are taken; what is in hand is finished, if that does not take too long.
        on_stop: is called when that is noticed, to hurry those who wait.
        stop_within_s: what takes longer from then on is left to its threads, and comes to nothing.

    Raises:
        Exception: whatever ``items`` or ``work`` raises; what is in hand is finished and yielded first.
    """
    failure: Exception | None = None
    pending: set[Future[R]] = set()
    source, is_open, gives_up_at = iter(items), True, math.inf
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="task")
    try:
        while time.monotonic() < gives_up_at:
            while is_open and len(pending) < at_once and not stop.is_set():
                try:
                    pending.add(pool.submit(work, next(source)))
                except StopIteration:
                    is_open = False
                except Exception as error:  # noqa: BLE001 - raised again once the others are done
                    failure, is_open = error, False
            if not pending:
                break
            if stop.is_set() and gives_up_at == math.inf:
                gives_up_at = time.monotonic() + stop_within_s
                on_stop()
            done, pending = wait(pending, LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except Exception as error:  # noqa: BLE001 - likewise
                    failure, is_open = failure or error, False
                else:
                    yield outcome
    finally:
        pool.shutdown(wait=not stop.is_set(), cancel_futures=True)
    if failure is not None:
        raise failure
