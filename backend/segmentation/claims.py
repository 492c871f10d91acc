"""Who may answer for a task, where several are at it: the first; whoever asks before that is settled gets nothing.

Two people press the button at once, or one presses it again while the first answer is still on its way. Label Studio
chooses the tasks it asks for some time before it asks, and stores an answer some time after it got it; whatever is
answered in between is stored as well, one beside the other.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

DEDUP_WINDOW_S = 30.0
"""How long it may take from an answer until Label Studio asks for that task no more, whoever presses the button."""

REMEMBERED = 100_000


class RecentlyAnswered:
    """The tasks that were answered lately; safe from many threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds, monotonic."""
        self._clock = clock
        self._taken: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time to be given to `take` later on."""
        return self._clock()

    def take(self, task: Hashable, asked_at: float) -> bool:
        """Return whether a request made at ``asked_at`` may answer for a task; the first that asks so may."""
        with self._lock:
            taken_at = self._taken.get(task)
            if taken_at is not None and taken_at + DEDUP_WINDOW_S > asked_at:
                return False
            self._taken[task] = self._clock()
            self._taken.move_to_end(task)
            while len(self._taken) > REMEMBERED:
                self._taken.popitem(last=False)
            return True
