"""Small tasks that run in the background, after the response has been sent."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)

MAX_WAITING = 32  # most tasks that may wait; further ones are dropped


class BackgroundTasks:
    """Runs small background tasks on one thread, and drops them when too many wait.

    >>> tasks = BackgroundTasks()
    >>> tasks.submit(lambda: None)
    >>> tasks.close()
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._free = threading.Semaphore(MAX_WAITING)

    def submit(self, task: Callable[[], None]) -> None:
        """Run ``task`` soon; dropped silently when ``MAX_WAITING`` tasks wait, since they only fill caches."""
        if not self._free.acquire(blocking=False):
            return
        try:
            self._pool.submit(_run_logged, task).add_done_callback(lambda _: self._free.release())
        except RuntimeError:  # closed while a request was being answered
            self._free.release()

    def close(self) -> None:
        """Drop the tasks that wait; the one that runs is finished in the background."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _run_logged(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:  # no caller waits for the result
        logger.exception("event=background_defect")
