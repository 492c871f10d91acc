"""How the commands that go through whole projects begin and end."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import click

from backend import logs
from backend.cli.commands import GOOD, PROBLEMS_FOUND, STOPPED, refuse
from backend.concurrency.retry import OutageRetry, Stopped
from backend.errors import BackendError
from backend.projects import engine, run
from backend.projects.progress import duration
from backend.projects.report import RunReport
from backend.settings import Settings

T = TypeVar("T")


@contextmanager
def begun(settings: Settings, wanted: run.TaskQuery) -> Iterator[run.BatchRun]:
    """Give what a run needs until the block ends; end the process where it cannot be had."""
    # A line for each image would bury the progress; whoever wants them asks for all.
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)
    stop = run.Stop()
    before = {number: signal.getsignal(number) for number in run.SIGNALS}
    stop.listen()
    client = engine.label_studio(settings)
    try:
        patience = OutageRetry(stop)
        yield trying(lambda: run.prepare(client, wanted, stop, patience))
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


def finish(batch: run.BatchRun, what: str, tally: RunReport, began: float) -> int:
    """Print the summary and return the exit status; ``what`` is the model, or the file, that it is about."""
    took = duration(time.monotonic() - began)
    click.echo(f"project {batch.project.id} {batch.project.title!r}, {what}, in {took}:")
    for line in tally.lines():
        click.echo(line)
    if batch.stop.number:
        return 128 + batch.stop.number
    return GOOD if tally.is_clean else PROBLEMS_FOUND


def leave(batch: run.BatchRun, code: int) -> NoReturn:
    """End the process; once the run was told to stop, without the threads that are still at what was given up."""
    if batch.stop.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
