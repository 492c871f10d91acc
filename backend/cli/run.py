"""Runs a command over a whole project, from the settings to the exit code."""

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
from backend.composition import parts
from backend.concurrency.retry import OutageRetry, Stopped
from backend.errors import BackendError
from backend.projects import engine, run
from backend.projects.engine import Engine
from backend.projects.progress import format_seconds
from backend.projects.report import RunReport
from backend.projects.run import BatchRun
from backend.settings import Settings
from model.weights import Checkpoint

T = TypeVar("T")


def execute(settings: Settings, query: run.TaskQuery, work: Callable[[BatchRun], tuple[str, RunReport]]) -> NoReturn:
    """Do ``work`` over a project, print its report, and end the process; ``work`` also returns what it worked with."""
    began = time.monotonic()
    with _opened(settings, query) as batch:
        what, report = exit_on_error(lambda: work(batch))
        took = format_seconds(time.monotonic() - began)
        click.echo(f"project {batch.project.id} {batch.project.title!r}, {what}, in {took}:")
        for line in report.lines():
            click.echo(line)
    code = GOOD if report.is_clean else PROBLEMS_FOUND
    if not batch.stop.is_set():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(128 + batch.stop.number)  # without waiting for threads that still run abandoned work


def execute_with_engine(
    settings: Settings, query: run.TaskQuery, work: Callable[[BatchRun, Checkpoint, Engine], RunReport]
) -> NoReturn:
    """Do ``work`` as `execute` does, with the weights and what makes embeddings."""

    def with_engine(batch: BatchRun) -> tuple[str, RunReport]:
        checkpoint = parts.read_weights(settings)
        started = engine.engine(settings, checkpoint, batch.client)
        batch.stop.listen()  # again, since Paddle has been imported
        try:
            return checkpoint.model_version, work(batch, checkpoint, started)
        finally:
            started.close()

    execute(settings, query, with_engine)


@contextmanager
def _opened(settings: Settings, query: run.TaskQuery) -> Iterator[BatchRun]:
    # A log line per image would hide the progress; the level "debug" shows them.
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)
    client = engine.label_studio(settings)
    stop = run.Stop(client.http.abort)
    before = {number: signal.getsignal(number) for number in run.SIGNALS}
    stop.listen()
    try:
        yield exit_on_error(lambda: run.prepare(client, query, stop, OutageRetry(stop)))
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
