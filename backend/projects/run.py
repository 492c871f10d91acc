"""One run over a project: which tasks it is about, what it begins with, and how it is stopped."""

import os
import signal
import threading
from collections.abc import Sequence
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
"""For how long Label Studio may be away before anything has begun: its address may be wrong, and somebody waits."""


@dataclass(frozen=True)
class TaskQuery:
    """Which tasks a person asks for, see the options of the commands; or a command, which needs annotated ones."""

    project: int
    view: int | None = None
    filters: Sequence[str] = ()
    limit: int | None = None
    annotated: bool = False


@dataclass(frozen=True)
class BatchRun:
    """Everything that a run begins with.

    Attributes:
        client: Label Studio.
        project: the project.
        controls: its labeling config.
        tasks: those that are asked for.
        total: how many they are at the moment.
        stop: is set when the run is to end.
        patience: waits while something is away.
    """

    client: LabelStudio
    project: Project
    controls: LabelConfig
    tasks: ProjectTasks
    total: int
    stop: "Stop"
    patience: OutageRetry


class Stop(threading.Event):
    """Is set by a signal; a second one ends the process at once, which is safe at any moment.

    Attributes:
        number: of the signal, 0 before there was one.
    """

    number = 0

    def listen(self) -> None:
        """Take the signals, once more after Paddle is loaded: that takes SIGTERM away when it is imported."""
        for number in SIGNALS:
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        if self.is_set():
            os._exit(128 + number)
        self.number = number
        self.set()
        click.echo(
            f"\nstopping: what is in hand has {STOP_WITHIN_S:.0f} seconds to be finished; once more ends at once",
            err=True,
        )


def prepare(client: LabelStudio, wanted: TaskQuery, stop: Stop, patience: OutageRetry) -> BatchRun:
    """Return what a run begins with; Label Studio has a few seconds to be there.

    Raises:
        BackendError: Label Studio cannot be asked, refuses, or there is no such project, view or filter.
        Stopped: the run was stopped meanwhile.
    """
    at_first = OutageRetry(stop, lasts_s=BEGINS_WITHIN_S)
    project = at_first.call(lambda: client.project(wanted.project))
    controls = config.parse(project.label_config)
    selection = at_first.call(lambda: _selection(client, wanted))
    tasks = ProjectTasks(client, patience, project, selection, wanted.limit)
    return BatchRun(client, project, controls, tasks, tasks.count(), stop, patience)


def _selection(client: LabelStudio, wanted: TaskQuery) -> Selection:
    """Return which tasks are meant.

    Raises:
        RequestError: a filter makes no sense, or the view is another project's or of a form that has no second page.
    """
    selection = Selection()
    if wanted.view is not None:
        view = client.view(wanted.view)
        if view.project_id != wanted.project:
            raise RequestError(f"view {wanted.view}: expected one of project {wanted.project}, got {view.project_id}'s")
        selection = task_filters.read_view(view.filters)
    if wanted.filters:
        columns = client.columns(wanted.project)
        if selection.is_any and len(selection.conditions) > 1:
            raise RequestError(
                f"view {wanted.view} joins its filters with 'or': --filter cannot narrow it down further"
            )
        for text in wanted.filters:
            selection = selection.and_also(task_filters.parse(text, columns))
    if wanted.annotated and not (selection.is_any and len(selection.conditions) > 1):  # pages narrow those down already
        selection = selection.and_also(task_filters.annotated())
    selection.and_also(task_filters.below(1))  # as every page after the first one asks; better refused before it
    return selection
