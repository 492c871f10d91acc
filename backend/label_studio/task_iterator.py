"""The tasks of a project in the order in which people will want them: the newest first, unlabelled before labelled.

Tasks come and go while a run goes through them. Pages that are counted would shift under it, so each page asks for the
tasks below the last id of the one before: every task that stays is met once, whatever is added or deleted meanwhile.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Protocol

from backend.concurrency.retry import OutageRetry
from backend.label_studio import task_filters
from backend.label_studio.task_filters import Selection
from backend.label_studio.types import ListedTask, Project, TaskPage
from backend.types import Task

PAGE = 100


class TaskLists(Protocol):
    """Lists tasks; see `backend.label_studio.client.LabelStudio`."""

    def task_page(self, project_id: int, query: str, count: int, *, asks_for_predictions: bool = False) -> TaskPage:
        """Return the first tasks that a query finds."""
        ...


class ProjectTasks:
    """Some tasks of a project, read as they are needed."""

    def __init__(
        self,
        lists: TaskLists,
        patience: OutageRetry,
        project: Project,
        selection: Selection | None = None,
        limit: int | None = None,
    ) -> None:
        """Ask for nothing yet.

        Args:
            lists: Label Studio.
            patience: waits while that is away.
            project: whose tasks.
            selection: which of them; None is all.
            limit: how many at most.
        """
        self._lists, self._patience, self._project = lists, patience, project
        self._selection, self._limit = selection or Selection(), limit

    def count(self) -> int:
        """Return how many there are at the moment.

        Raises:
            BackendError: Label Studio refuses.
        """
        total = self._page(task_filters.dump(self._selection), 1).total
        return total if self._limit is None else min(total, self._limit)

    def __iter__(self) -> Iterator[Task]:
        """Yield every task once, with its data and without annotations or predictions.

        Raises:
            Stopped: the run is to end.
            BackendError: Label Studio refuses, or has been away for too long.
        """
        return islice(self._ordered(), self._limit)

    def _ordered(self) -> Iterator[Task]:
        labeled: list[int] = []
        for listed in self._newest_first(self._selection):
            if not listed.is_labeled:
                yield listed.task
            elif listed.task.id is not None:
                labeled.append(listed.task.id)  # which it was when it was met: it does not come twice
        for start in range(0, len(labeled), PAGE):
            for listed in self._newest_first(Selection(), labeled[start : start + PAGE]):
                yield listed.task

    def _newest_first(self, selection: Selection, included: Collection[int] | None = None) -> Iterator[ListedTask]:
        """Yield tasks in falling order of id; a short page is not the last, since Label Studio may shorten any."""
        narrowed, last = selection, min(included) if included else 0
        while page := self._page(task_filters.dump(narrowed, included), PAGE).tasks:
            yield from page
            lowest = min(listed.task.id or 0 for listed in page)
            if lowest <= last:
                return
            narrowed = selection.and_also(task_filters.below(lowest))

    def _page(self, query: str, count: int) -> TaskPage:
        asks = self._project.asks_for_predictions
        return self._patience.call(
            lambda: self._lists.task_page(self._project.id, query, count, asks_for_predictions=asks)
        )
