"""Clicks in hand, so that one to which the annotator has added since is not decoded any more.

Every click carries all prompts so far. While an image is encoded several pile up, and the editor uses the answer to the
last alone. A region's id is random and its annotator's own, so a click whose ids are all among a later one's is an
earlier click of the same annotator.
"""

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager


class Click:
    """One click in hand.

    Attributes:
        is_superseded: whether a later click, of the same annotator on the same task, holds its prompts and more.
    """

    def __init__(self, ids: frozenset[str]) -> None:
        self.ids = ids
        self.is_superseded = False


class Clicks:
    """The clicks that are being answered; safe from many threads."""

    def __init__(self) -> None:
        self._in_hand: dict[Hashable, list[Click]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, task: Hashable, ids: Iterable[str]) -> Iterator[Click]:
        """Count a click with prompts of these ids as in hand while inside.

        Args:
            task: names the task, its project's included.
            ids: of the prompts; where any was made up for a caller who gave none (``#0-…``), they tell nobody apart.
        """
        click = Click(frozenset(ids))
        if any(name.startswith("#") for name in click.ids):
            click = Click(frozenset())
        with self._lock:
            for earlier in self._in_hand[task]:
                earlier.is_superseded = earlier.is_superseded or bool(earlier.ids and earlier.ids < click.ids)
            self._in_hand[task].append(click)
        try:
            yield click
        finally:
            with self._lock:
                self._in_hand[task].remove(click)
                if not self._in_hand[task]:
                    del self._in_hand[task]
