"""The report of a run over a project: outcomes counted by kind, and every failure with its reason."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from backend.concurrency.retry import OutageError, Stopped
from backend.errors import BackendError, Reason
from backend.types import Skipped

logger = logging.getLogger(__name__)

T = TypeVar("T")

LISTED = 3  # how many different details of a task are listed for one reason, and how many region ids for one detail


@dataclass(frozen=True)
class Failure:
    """A task, image or prompt that could not be processed.

    >>> str(Failure(7, Reason.EMPTY_MASK, "the box holds nothing"))
    'task 7: empty_mask: the box holds nothing'
    """

    task_id: int | None  # its task; None if it belongs to none
    reason: Reason
    text: str

    @staticmethod
    def of(task_id: int | None, error: BackendError) -> "Failure":
        """Return the failure that corresponds to an error."""
        return Failure(task_id, error.reason, " ".join(str(error).split()))

    def __str__(self) -> str:
        about = "" if self.task_id is None else f"task {self.task_id}: "
        return f"{about}{self.reason}" + (f": {self.text}" if self.text else "")


def failures_about(task_id: int | None, skipped: Iterable[Skipped]) -> tuple[Failure, ...]:
    """Return one failure for each reason, with its details, their counts and region ids."""
    by_reason: dict[Reason, dict[str, list[str]]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, {}).setdefault(" ".join(skip.detail.split()), []).append(skip.region_id)
    return tuple(Failure(task_id, reason, _summary(ids_by_detail)) for reason, ids_by_detail in by_reason.items())


def _summary(ids_by_detail: Mapping[str, Sequence[str]]) -> str:
    most = sorted(ids_by_detail.items(), key=lambda item: -len(item[1]))
    texts = [_with_ids(text, ids) for text, ids in most[:LISTED]]
    more = sum(len(ids) for _, ids in most[LISTED:])
    return "; ".join(filter(None, [*texts, f"and {more} more" if more else ""]))


def _with_ids(text: str, ids: Sequence[str]) -> str:
    """Return a detail with its count and the ids of its regions; an image has an empty id, which is left out."""
    named = [region_id for region_id in ids if region_id]
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    times = f" ({len(ids)} times)" if len(ids) > 1 else ""
    about = f" (id {', '.join(named[:LISTED])}{more})" if named else ""
    return f"{text}{times}{about}".lstrip()


class RunReport:
    """Counts by kind, in the order in which they are shown, failures, and why a run ended early; empty if it did not.

    >>> report = RunReport(("encoded",))
    >>> report.add("encoded", 3)
    >>> report.lines()[0]
    '  encoded  3'
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.counts = dict.fromkeys(kinds, 0)
        self.failures: list[Failure] = []
        self.ended = ""

    @property
    def is_clean(self) -> bool:
        """Whether the run is complete and without failures."""
        return not self.failures and not self.ended

    def add(self, kind: str, count: int = 1) -> None:
        """Add to the count of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + count

    def lines(self) -> list[str]:
        """Return the summary, as lines of text."""
        counted = {**self.counts, "failed": len(self.failures)}
        width = max(map(len, counted))
        return [
            *(f"  {kind:{width}}  {count}" for kind, count in counted.items()),
            *(f"    {failure}" for failure in self.failures),
            *([f"  ended early: {self.ended}"] if self.ended else []),
        ]


def attempt(task_id: int | None, work: Callable[[], T]) -> T | Failure | None:
    """Return what ``work`` about one task returns, or its failure; None if the run was stopped meanwhile.

    Raises:
        OutageError: Label Studio or the workers have been away for too long, which concerns all tasks.
    """
    try:
        return work()
    except Stopped:
        return None
    except OutageError:
        raise
    except BackendError as error:
        return Failure.of(task_id, error)
    except Exception as error:
        logger.exception("event=defect task=%s", task_id)
        return Failure(task_id, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


@contextmanager
def recording_end(report: RunReport, stop: threading.Event) -> Iterator[None]:
    """Record why the block ended early: the run was stopped, or an error affects all further tasks."""
    try:
        yield
    except Stopped:
        pass
    except BackendError as error:
        report.ended = " ".join(str(error).split())
    if stop.is_set():
        report.ended = "stopped"
