"""Opens and finishes a run, for the commands over whole projects."""

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
from backend.projects.progress import format_seconds
from backend.projects.report import RunReport
from backend.settings import Settings

T = TypeVar("T")


@contextmanager
def open_run(settings: Settings, query: run.TaskQuery) -> Iterator[run.BatchRun]:
    """Provide the parts of a run until the block ends; end the process if they cannot be prepared."""
    # A log line per image would hide the progress; the level "debug" shows them.
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)
    client = engine.label_studio(settings)
    stop = run.Stop(client.http.abort)
    before = {number: signal.getsignal(number) for number in run.SIGNALS}
    stop.listen()
    try:
        retry = OutageRetry(stop)
        yield exit_on_error(lambda: run.prepare(client, query, stop, retry))
    finally:
        client.http.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_error(work: Callable[[], T]) -> T:
    """Return the result of ``work``; on an expected error, print it and end the process."""
    try:
        return work()
    except Stopped:
        sys.exit(STOPPED)
    except (BackendError, ValueError, OSError) as error:
        refuse(" ".join(str(error).split()))


def finish(batch: run.BatchRun, what: str, report: RunReport, began: float) -> int:
    """Print the summary and return the exit status; ``what`` is the model's version or the file."""
    took = format_seconds(time.monotonic() - began)
    click.echo(f"project {batch.project.id} {batch.project.title!r}, {what}, in {took}:")
    for line in report.lines():
        click.echo(line)
    if batch.stop.number:
        return 128 + batch.stop.number
    return GOOD if report.is_clean else PROBLEMS_FOUND


def leave(batch: run.BatchRun, code: int) -> NoReturn:
    """End the process; after a stop, without waiting for threads that still run abandoned work."""
    if batch.stop.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
