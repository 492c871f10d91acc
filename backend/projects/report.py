"""What became of a run over a project: counted by kind, every failure with its reason."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backend.concurrency.retry import Stopped
from backend.errors import BackendError, Reason
from backend.types import Skipped

TOLD = 3
"""How many different things are said about a task for one reason, and of how many regions the ids."""


@dataclass(frozen=True)
class Failure:
    """Something that was not done.

    Attributes:
        task_id: of which task; None of none.
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
        about = "" if self.task_id is None else f"task {self.task_id}: "
        return f"{about}{self.reason}" + (f": {self.text}" if self.text else "")


def failures_about(task_id: int | None, skipped: Iterable[Skipped]) -> tuple[Failure, ...]:
    """Return one failure for each reason, with how often it was met, what was said and about which regions."""
    by_reason: dict[Reason, dict[str, list[str]]] = {}
    for one in skipped:
        by_reason.setdefault(one.reason, {}).setdefault(" ".join(one.detail.split()), []).append(one.region_id)
    return tuple(Failure(task_id, reason, _summed_up(said)) for reason, said in by_reason.items())


def _summed_up(said: Mapping[str, Sequence[str]]) -> str:
    most = sorted(said.items(), key=lambda item: -len(item[1]))
    texts = [_with_ids(text, ids) for text, ids in most[:TOLD]]
    more = sum(len(ids) for _, ids in most[TOLD:])
    return "; ".join(filter(None, [*texts, f"and {more} more" if more else ""]))


def _with_ids(text: str, ids: Sequence[str]) -> str:
    """Return what was said, how often, and the ids of the regions it was said about; an image has none."""
    named = [one for one in ids if one]
    more = f" and {len(named) - TOLD} more" if len(named) > TOLD else ""
    times = f" ({len(ids)} times)" if len(ids) > 1 else ""
    about = f" (id {', '.join(named[:TOLD])}{more})" if named else ""
    return f"{text}{times}{about}".lstrip()


class RunReport:
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
def recording_end(tally: RunReport, stop: threading.Event) -> Iterator[None]:
    """Note why what happens inside ends before its time: somebody said stop, or nothing more can be done."""
    try:
        yield
    except Stopped:
        pass
    except BackendError as error:
        tally.ended = " ".join(str(error).split())
    if stop.is_set():
        tally.ended = "stopped"
