"""A bounded list of images to prefetch, and the thread that works through it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from backend.embeddings.content_index import SourceKey, source_key
from backend.types import ImageRef

MAX_WAITING = 1000
MAX_WAITING_BYTES = 64_000_000
"""Total size of the waiting addresses; a ``data:`` address holds the image itself."""


class Prefetcher:
    """Encodes one image after the other, so that few files are in memory; the newest list comes first.

    >>> prefetcher = Prefetcher(encode=lambda ref: None)
    >>> prefetcher.add([ImageRef("/data/upload/1/a.png", task_id=7, project_id=1)])
    >>> len(prefetcher)
    1
    """

    def __init__(self, encode: Callable[[ImageRef], None]) -> None:
        """Call ``encode`` for each image, on a thread that `start` begins; ``encode`` must not raise."""
        self._encode = encode
        self._waiting: OrderedDict[SourceKey, ImageRef] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """Number of images that wait."""
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
        """Drop the waiting images, and end the thread once the current image is done."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while (ref := self._next()) is not None:
            self._encode(ref)

    def _next(self) -> ImageRef | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            return None if self._is_closed else self._waiting.popitem(last=False)[1]
