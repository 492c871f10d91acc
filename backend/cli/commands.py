"""Shared by several commands: reading settings, printing errors, exit codes, and options."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import click

from backend.settings import Settings, SettingsError, read
from model import tls

C = TypeVar("C", bound=Callable[..., None])

GOOD, PROBLEMS_FOUND, BAD_SETTINGS, STOPPED = 0, 1, 2, 130

weights_option = click.option(
    "--weights", help="Model name or path; two joined by a comma are merged.  [env: PADDLE_SAM_WEIGHTS; default: demo]"
)
_TASKS = (
    click.option("--project", type=click.IntRange(1), required=True, help="The project's number in Label Studio."),
    click.option(
        "--view", type=click.IntRange(1), help="Only the tasks that this tab of the Data Manager shows.  [default: all]"
    ),
    click.option("--limit", type=click.IntRange(1), help="Only the first so many tasks.  [default: all]"),
)
_MODEL = (
    weights_option,
    click.option(
        "--device",
        help="auto, cpu, gpu or gpu:N; where this process computes.  [env: PADDLE_SAM_DEVICE, DEVICE; default: auto]",
    ),
)


def task_options(command: C) -> C:
    """Add ``--project``, ``--view`` and ``--limit`` to a command."""
    for option in reversed(_TASKS):
        command = option(command)
    return command


def task_and_model_options(command: C) -> C:
    """Add the options of `task_options`, ``--weights`` and ``--device`` to a command."""
    for option in reversed(_MODEL):
        command = option(command)
    return task_options(command)


def settings_of(options: dict[str, str | int | None], *, is_local: bool = False) -> Settings:
    """Return the environment's settings, overridden by the given options; end the process if they are invalid.

    A command that ``is_local`` makes no connection by TLS, except to Redis, and reads no certificates otherwise.
    """
    given = {**os.environ, **{name: str(value) for name, value in options.items() if value is not None}}
    unused = tls.VARIABLES if is_local and not given.get("REDIS_URL", "").startswith("rediss:") else ()
    try:
        return read({name: value for name, value in given.items() if name not in unused})
    except SettingsError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Print an error message, one line per problem, and end the process with `BAD_SETTINGS`."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(BAD_SETTINGS)
