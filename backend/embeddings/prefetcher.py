"""A bounded list of images to prefetch, and the thread that works through it."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from backend.embeddings.content_index import SourceKey, source_key
from backend.errors import BackendError
from backend.metrics import Metrics
from backend.types import ImageRef

logger = logging.getLogger(__name__)

MAX_WAITING = 1000
MAX_WAITING_BYTES = 64_000_000  # total size of the waiting addresses; a ``data:`` address holds the image itself
IN_PROGRESS = 4  # some images are fetched while one is encoded; all others wait as addresses, not as files


class Prefetcher:
    """Begins with a few images at a time; those of the newest list come first, in their order.

    >>> from backend.metrics import Metrics
    >>> prefetcher = Prefetcher(lambda ref: None, Metrics())
    >>> prefetcher.add([ImageRef("/data/upload/1/a.png", task_id=7, project_id=1)])
    >>> len(prefetcher)
    1
    """

    def __init__(self, begin: Callable[[ImageRef], "Future[Any] | None"], metrics: Metrics) -> None:
        """Work on a thread that `start` begins; ``begin`` returns a future of an image's end, None if there is none."""
        self._begin, self._metrics = begin, metrics
        self._waiting: OrderedDict[SourceKey, ImageRef] = OrderedDict()
        self._changed = threading.Condition()
        self._in_progress = threading.Semaphore(IN_PROGRESS)
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread; a second call does nothing."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
                self._thread.start()

    def add(self, refs: Iterable[ImageRef]) -> None:
        """Insert images in order before those that already wait; beyond the limits the oldest are dropped."""
        with self._changed:
            for ref in reversed(list(refs)[:MAX_WAITING]):
                address_key = source_key(ref)
                self._waiting[address_key] = ref
                self._waiting.move_to_end(address_key, last=False)
            size = sum(len(ref.uri) for ref in self._waiting.values())
            while len(self._waiting) > MAX_WAITING or size > MAX_WAITING_BYTES:
                size -= len(self._waiting.popitem()[1].uri)
            self._changed.notify()

    def close(self) -> None:
        """Drop the waiting images, and end the thread; the images in progress have to end by themselves."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify()
        self._in_progress.release()  # so that the thread does not wait for an image to end
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while self._in_progress.acquire() and (ref := self._next()) is not None:
            try:
                future = self._begin(ref)
            except Exception as error:  # noqa: BLE001 - a defect must not end the thread
                future = Future()
                future.set_exception(error)
            if future is None:
                self._in_progress.release()
            else:
                future.add_done_callback(partial(self._end, ref))

    def _next(self) -> ImageRef | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            return None if self._is_closed else self._waiting.popitem(last=False)[1]

    def _end(self, ref: ImageRef, future: "Future[Any]") -> None:
        self._in_progress.release()
        error = future.exception()
        if isinstance(error, BackendError):
            self._metrics.background_failure(error.reason)
            logger.info("event=prefetch_failed task=%s reason=%s", ref.task_id, error.reason)
        elif error is not None:
            logger.error("event=prefetch_defect task=%s", ref.task_id, exc_info=error)
