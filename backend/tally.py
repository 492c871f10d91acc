"""What became of a run over a project: counted by kind, every failure with its reason."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backend.errors import BackendError, Reason
from backend.patience import Stopped


@dataclass(frozen=True)
class Failure:
    """Something that was not done.

    Attributes:
        task_id: of which task.
        reason: the machine-readable cause.
        text: the same for people, on one line.
    """

    task_id: int | None
    reason: Reason
    text: str

    @staticmethod
    def of(task_id: int | None, error: BackendError) -> "Failure":
        """Return the failure that an error means."""
        return Failure(task_id, error.reason, " ".join(str(error).split()))

    def __str__(self) -> str:
        return f"task {self.task_id}: {self.reason}" + (f": {self.text}" if self.text else "")


class Tally:
    """Counts, failures, and why a run ended early.

    Attributes:
        counts: by kind, in the order in which they are shown.
        failures: in the order in which they happened.
        ended: why the run ended before its time; empty where it did not.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        """Begin with nothing of each kind."""
        self.counts = dict.fromkeys(kinds, 0)
        self.failures: list[Failure] = []
        self.ended = ""

    @property
    def is_clean(self) -> bool:
        """Whether everything was done."""
        return not self.failures and not self.ended

    def add(self, kind: str, count: int = 1) -> None:
        """Count something."""
        self.counts[kind] = self.counts.get(kind, 0) + count

    def lines(self) -> list[str]:
        """Return the summary for a person."""
        counted = {**self.counts, "failed": len(self.failures)}
        width = max(map(len, counted))
        return [
            *(f"  {kind:{width}}  {count}" for kind, count in counted.items()),
            *(f"    {failure}" for failure in self.failures),
            *([f"  ended early: {self.ended}"] if self.ended else []),
        ]


@contextmanager
def noting_the_end(tally: Tally, stop: threading.Event) -> Iterator[None]:
    """Note why what happens inside ends before its time: somebody said stop, or nothing more can be done."""
    try:
        yield
    except Stopped:
        pass
    except BackendError as error:
        tally.ended = " ".join(str(error).split())
    if stop.is_set():
        tally.ended = "stopped"
