"""Iterates over the tasks of a project in the order in which annotators need them: unlabelled first, newest first.

Tasks are added and deleted while a run iterates. Numbered pages would shift, so each request asks for the tasks below
the last id of the page before: every task that remains is returned once, whatever is added or deleted meanwhile.
"""

from collections.abc import Collection, Iterator
from itertools import islice

from backend.concurrency.retry import OutageRetry
from backend.label_studio import task_filters
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_filters import Selection
from backend.label_studio.types import ListedTask, Project, TaskPage
from backend.types import Task

PAGE = 100


class ProjectTasks:
    """Some tasks of a project, read page by page as they are needed."""

    def __init__(
        self,
        label_studio: LabelStudio,
        retry: OutageRetry,
        project: Project,
        selection: Selection | None = None,
        limit: int | None = None,
    ) -> None:
        """Select tasks of ``project``, all by default; they are read on iteration, and calls retried in an outage."""
        self._label_studio, self._retry, self._project = label_studio, retry, project
        self._selection, self._limit = selection or Selection(), limit

    def count(self) -> int:
        """Return the current number of these tasks."""
        total = self._page(task_filters.dump(self._selection), 1).total
        return total if self._limit is None else min(total, self._limit)

    def __iter__(self) -> Iterator[Task]:
        """Yield every task once, with its data and without annotations or predictions.

        Raises:
            Stopped: the run is being stopped.
            BackendError: Label Studio refuses, or has been unreachable for too long.
        """
        return islice(self._ordered(), self._limit)

    def _ordered(self) -> Iterator[Task]:
        labeled: list[int] = []
        for listed in self._newest_first(self._selection):
            if not listed.is_labeled:
                yield listed.task
            elif listed.task.id is not None:
                labeled.append(listed.task.id)  # labelled when it was listed, so it is not returned twice
        for start in range(0, len(labeled), PAGE):
            for listed in self._newest_first(Selection(), labeled[start : start + PAGE]):
                yield listed.task

    def _newest_first(self, selection: Selection, included: Collection[int] | None = None) -> Iterator[ListedTask]:
        """Yield tasks by descending id; a short page need not be the last, since Label Studio may shorten any."""
        narrowed, last = selection, min(included) if included else 0
        while page := self._page(task_filters.dump(narrowed, included), PAGE).tasks:
            yield from page
            lowest = min(listed.task.id or 0 for listed in page)
            if lowest <= last:
                return
            narrowed = selection.and_also(task_filters.below(lowest))

    def _page(self, query: str, count: int) -> TaskPage:
        asks = self._project.asks_for_predictions
        return self._retry.call(
            lambda: self._label_studio.task_page(self._project.id, query, count, asks_for_predictions=asks)
        )
