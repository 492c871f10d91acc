"""A few things in hand at a time: work in threads over what an iterator yields, and outcomes as they come."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


LOOK_EVERY_S = 0.25


def in_hand(
    items: Iterable[T],
    work: Callable[[T], R],
    at_once: int,
    stop: threading.Event,
    on_stop: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """Yield what ``work`` makes of each item, in the order in which it is done.

    Args:
        items: taken one by one, and no more of them than are worked on.
        work: runs in threads of its own.
        at_once: how many items are in hand at a time.
        stop: once it is set, no more are taken; what is in hand is finished.
        on_stop: is called when that is noticed, to hurry those who wait.

    Raises:
        Exception: whatever ``items`` or ``work`` raises; what is in hand is finished and yielded first.
    """
    failure: Exception | None = None
    pending: set[Future[R]] = set()
    source, is_open, has_hurried = iter(items), True, False
    with ThreadPoolExecutor(at_once, thread_name_prefix="task") as pool:
        while True:
            while is_open and len(pending) < at_once and not stop.is_set():
                try:
                    pending.add(pool.submit(work, next(source)))
                except StopIteration:
                    is_open = False
                except Exception as error:  # noqa: BLE001 - raised again once the others are done
                    failure, is_open = error, False
            if not pending:
                break
            if stop.is_set() and not has_hurried:
                has_hurried = True
                on_stop()
            done, pending = wait(pending, LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except Exception as error:  # noqa: BLE001 - likewise
                    failure, is_open = failure or error, False
                else:
                    yield outcome
    if failure is not None:
        raise failure
