"""Small jobs in the background, after the answer has gone out."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)

ERRANDS = 32
"""How many may wait; what comes beyond them is dropped."""


class BackgroundTasks:
    """Runs small background jobs on one thread, dropping them when too many wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="errand")
        self._free = threading.Semaphore(ERRANDS)

    def submit(self, errand: Callable[[], None]) -> None:
        """Run ``errand`` soon; dropped without a word when ``ERRANDS`` wait already, since they only warm things up."""
        if not self._free.acquire(blocking=False):
            return
        try:
            self._pool.submit(_logged, errand).add_done_callback(lambda _: self._free.release())
        except RuntimeError:  # closed while a click was being answered
            self._free.release()

    def close(self) -> None:
        """Drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _logged(errand: Callable[[], None]) -> None:
    try:
        errand()
    except Exception:  # nobody waits for it
        logger.exception("event=errand_defect")
