"""The options of all commands over a project: its tasks, and the model."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from backend.cli.commands import weights_option

C = TypeVar("C", bound=Callable[..., None])

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
    return _added(command, _TASKS)


def task_and_model_options(command: C) -> C:
    """Add the options of `task_options`, ``--weights`` and ``--device`` to a command."""
    return _added(command, (*_TASKS, *_MODEL))


def _added(command: C, options: Sequence[Callable[[C], C]]) -> C:
    for option in reversed(options):
        command = option(command)
    return command
