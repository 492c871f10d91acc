"""Prepares one run over a project: its tasks, its Label Studio client, and the signals that stop it."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

import click

from backend.concurrency.parallel_map import STOP_WITHIN_S
from backend.concurrency.retry import OutageRetry
from backend.errors import RequestError
from backend.label_studio import task_filters
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_filters import Selection
from backend.label_studio.task_iterator import ProjectTasks
from backend.label_studio.types import Project
from backend.labeling import config
from backend.labeling.config_types import LabelConfig

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BEGINS_WITHIN_S = 5.0
"""How long Label Studio may be unavailable at the start of a run; short, because its address may be wrong."""


@dataclass(frozen=True)
class TaskQuery:
    """Which tasks of a project to process, see the commands' options; ``annotated``: only annotated tasks."""

    project: int
    view: int | None = None
    limit: int | None = None
    annotated: bool = False


@dataclass(frozen=True)
class BatchRun:
    """The parts that every run over a project needs."""

    client: LabelStudio
    project: Project
    controls: LabelConfig
    tasks: ProjectTasks
    total: int  # the number of tasks at the start
    stop: "Stop"
    retry: OutageRetry


ABORT_AFTER_S = STOP_WITHIN_S - 1


class Stop(threading.Event):
    """An event that is set by a signal, of ``number``; a second one ends the process at once, safe at any moment."""

    def __init__(self, abort: Callable[[], None], abort_after_s: float = ABORT_AFTER_S) -> None:
        """Call ``abort`` some time after the signal, to end what then still waits for Label Studio."""
        super().__init__()
        self.number = 0
        self._abort, self._abort_after_s = abort, abort_after_s

    def listen(self) -> None:
        """Install the signal handler; again after Paddle is imported, which replaces the handler of SIGTERM."""
        for number in SIGNALS:
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.is_set():
            os._exit(128 + number)
        self.number = number
        self.set()
        timer = threading.Timer(self._abort_after_s, self._abort)
        timer.daemon = True
        timer.start()
        within = f"{STOP_WITHIN_S:.0f} seconds"
        click.echo(f"\nstopping: running tasks have {within} to finish; a second signal ends this at once", err=True)


def prepare(client: LabelStudio, query: TaskQuery, stop: Stop, retry: OutageRetry) -> BatchRun:
    """Return the parts of a run; Label Studio has to answer within `BEGINS_WITHIN_S`.

    Raises:
        BackendError: Label Studio does not answer or refuses, or there is no such project or view.
        Stopped: the run was stopped meanwhile.
    """
    short_retry = OutageRetry(stop, lasts_s=BEGINS_WITHIN_S)
    project = short_retry.call(lambda: client.project(query.project))
    controls = config.parse(project.label_config)
    selection = short_retry.call(lambda: _selection(client, query))
    tasks = ProjectTasks(client, retry, project, selection, query.limit)
    return BatchRun(client, project, controls, tasks, tasks.count(), stop, retry)


def _selection(client: LabelStudio, query: TaskQuery) -> Selection:
    """Return the selection of tasks that a query describes; a view must be the project's, and can be narrowed."""
    selection = Selection()
    if query.view is not None:
        view = client.view(query.view)
        if view.project_id != query.project:
            raise RequestError(f"view {query.view}: expected one of project {query.project}, got {view.project_id}'s")
        selection = task_filters.read_view(view.filters)
    if query.annotated and not (selection.is_any and len(selection.conditions) > 1):  # 'or' cannot be narrowed down
        selection = selection.and_also(task_filters.ANNOTATED)
    selection.and_also(task_filters.below(1))  # as every page after the first one does; raises here, before the first
    return selection
