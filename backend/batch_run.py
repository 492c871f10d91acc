"""One run over a project from the command line: what it needs to begin, how it is stopped, and how it ends."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, TypeVar

import click

from backend import batch_parts, label_config, logs, task_selection
from backend.commands import GOOD, PROBLEMS_FOUND, STOPPED, refuse
from backend.controls import Controls
from backend.errors import BackendError, RequestError
from backend.label_studio import LabelStudio
from backend.label_studio_types import Project
from backend.patience import Patience, Stopped
from backend.pipeline import STOP_WITHIN_S
from backend.progress import duration
from backend.project_tasks import ProjectTasks
from backend.settings import Settings
from backend.tally import Tally
from backend.task_selection import Selection

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BEGINS_WITHIN_S = 5.0
"""For how long Label Studio may be away before anything has begun: its address may be wrong, and somebody waits."""


@dataclass(frozen=True)
class Wanted:
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
    controls: Controls
    tasks: ProjectTasks
    total: int
    stop: "Stop"
    patience: Patience


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


@contextmanager
def begun(settings: Settings, wanted: Wanted) -> Iterator[BatchRun]:
    """Give what a run needs until the block ends; end the process where it cannot be had."""
    # A line for each image would bury the progress; whoever wants them asks for all.
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)
    stop = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop.listen()
    client = batch_parts.label_studio(settings)
    try:
        patience = Patience(stop)
        yield trying(lambda: _prepared(client, wanted, stop, patience))
    finally:
        client.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def trying(work: Callable[[], T]) -> T:
    """Return what ``work`` returns; say why it cannot, and end the process, where it raises something foreseen."""
    try:
        return work()
    except Stopped:
        sys.exit(STOPPED)
    except (BackendError, ValueError, OSError) as error:
        refuse(" ".join(str(error).split()))


def finish(run: BatchRun, what: str, tally: Tally, began: float) -> int:
    """Print the summary and return the exit status; ``what`` is the model, or the file, that it is about."""
    took = duration(time.monotonic() - began)
    click.echo(f"project {run.project.id} {run.project.title!r}, {what}, in {took}:")
    for line in tally.lines():
        click.echo(line)
    if run.stop.number:
        return 128 + run.stop.number
    return GOOD if tally.is_clean else PROBLEMS_FOUND


def leave(run: BatchRun, code: int) -> NoReturn:
    """End the process; once the run was told to stop, without the threads that are still at what was given up."""
    if run.stop.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def _prepared(client: LabelStudio, wanted: Wanted, stop: Stop, patience: Patience) -> BatchRun:
    at_first = Patience(stop, lasts_s=BEGINS_WITHIN_S)
    project = at_first.call(lambda: client.project(wanted.project))
    controls = label_config.parse(project.label_config)
    selection = at_first.call(lambda: _selection(client, wanted))
    tasks = ProjectTasks(client, patience, project, selection, wanted.limit)
    return BatchRun(client, project, controls, tasks, tasks.count(), stop, patience)


def _selection(client: LabelStudio, wanted: Wanted) -> Selection:
    """Return which tasks are meant.

    Raises:
        RequestError: a filter makes no sense, or the view is another project's or of a form that has no second page.
    """
    selection = Selection()
    if wanted.view is not None:
        view = client.view(wanted.view)
        if view.project_id != wanted.project:
            raise RequestError(f"view {wanted.view}: expected one of project {wanted.project}, got {view.project_id}'s")
        selection = task_selection.read_view(view.filters)
    if wanted.filters:
        columns = client.columns(wanted.project)
        if selection.is_any and len(selection.conditions) > 1:
            raise RequestError(
                f"view {wanted.view} joins its filters with 'or': --filter cannot narrow it down further"
            )
        for text in wanted.filters:
            selection = selection.and_also(task_selection.parse(text, columns))
    if wanted.annotated and not (selection.is_any and len(selection.conditions) > 1):  # pages narrow those down already
        selection = selection.and_also(task_selection.annotated())
    selection.and_also(task_selection.below(1))  # as every page after the first one asks; better refused before it
    return selection
