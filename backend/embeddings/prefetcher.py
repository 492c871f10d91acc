"""What is to be done when nothing more urgent is: a bounded list of images and one thread that works through it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from backend.embeddings.content_index import SourceKey, source_key
from backend.types import ImageRef

MAX_WAITING = 1000
MAX_WAITING_BYTES = 64_000_000
"""Of their addresses, since a ``data:`` address holds the image itself."""


class Prefetcher:
    """Does one image after the other, so that few files are held in memory; the newest list comes first."""

    def __init__(self, encode: Callable[[ImageRef], None]) -> None:
        """Start nothing yet; ``encode`` sees an image through and does not raise."""
        self._encode = encode
        self._waiting: OrderedDict[SourceKey, ImageRef] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin; the second call does nothing."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
                self._thread.start()

    def add(self, refs: Iterable[ImageRef]) -> None:
        """Put images before those that wait already, in their order; beyond the limits the oldest are dropped."""
        with self._changed:
            for ref in reversed(list(refs)[:MAX_WAITING]):
                place = source_key(ref)
                self._waiting[place] = ref
                self._waiting.move_to_end(place, last=False)
            size = sum(len(ref.uri) for ref in self._waiting.values())
            while len(self._waiting) > MAX_WAITING or size > MAX_WAITING_BYTES:
                size -= len(self._waiting.popitem()[1].uri)
            self._changed.notify()

    def close(self) -> None:
        """Drop what waits and end the thread once the image in hand is done."""
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
