"""Tracks running clicks, so that one superseded by a later click is skipped.

Every click carries all prompts so far. While an image is encoded several clicks pile up, and the editor uses only the
answer to the last. A region's id is random and belongs to one annotator, so a click whose ids are a proper subset of a
later click's ids is an earlier click of the same annotator.
"""

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

from backend.errors import Reason, RetryLater


class Click:
    """One running click, with the ids of its prompts; empty where they do not identify the annotator.

    It ``is_superseded`` once a later click of the same annotator on the same task holds its prompts and more.
    """

    def __init__(self, ids: frozenset[str]) -> None:
        self.ids = ids
        self.is_superseded = False

    def check(self) -> None:
        """Raise a `RetryLater` (``superseded``) if the annotator has added to it."""
        if self.is_superseded:
            raise RetryLater("the annotator has added to this click meanwhile", Reason.SUPERSEDED)


class Clicks:
    """The running clicks; thread-safe.

    >>> clicks = Clicks()
    >>> with clicks.enter("task", ["a"]) as first, clicks.enter("task", ["a", "b"]) as second:
    ...     first.is_superseded, second.is_superseded
    (True, False)
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, list[Click]] = defaultdict(list)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._running)

    @contextmanager
    def enter(self, task: Hashable, ids: Iterable[str]) -> Iterator[Click]:
        """Count a click on ``task``, which names the project too, with prompts of these ids as running while inside.

        Where an id was generated for a caller who gave none (``#0-…``), they do not identify the annotator, and it
        is never superseded.
        """
        click = Click(frozenset(ids))
        if any(region_id.startswith("#") for region_id in click.ids):
            click = Click(frozenset())
        with self._lock:
            for earlier in self._running[task]:
                earlier.is_superseded = earlier.is_superseded or bool(earlier.ids and earlier.ids < click.ids)
            self._running[task].append(click)
        try:
            yield click
        finally:
            with self._lock:
                self._running[task].remove(click)
                if not self._running[task]:
                    del self._running[task]
