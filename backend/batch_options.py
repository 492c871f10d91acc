"""The options that say which tasks of a project, and with which model; the same for every command over one."""

from collections.abc import Callable
from typing import TypeVar

import click

from backend.commands import weights_option

C = TypeVar("C", bound=Callable[..., None])

FILTER_HELP = (
    "Only tasks for which this holds: COLUMN OPERATOR VALUE, such as 'data.city=Berlin'. Columns are those of the Data "
    "Manager (data.NAME for a field of the task's data), operators = != < <= > >= ~ (contains) and !~; 'completed_at=' "
    "means empty. Several conditions must all hold."
)

_OPTIONS = (
    click.option("--project", type=click.IntRange(1), required=True, help="The project's number in Label Studio."),
    click.option(
        "--view", type=click.IntRange(1), help="Only the tasks that this tab of the Data Manager shows.  [default: all]"
    ),
    click.option("--filter", "filters", multiple=True, metavar="CONDITION", help=FILTER_HELP),
    click.option("--limit", type=click.IntRange(1), help="Only the first so many tasks.  [default: all]"),
    weights_option,
    click.option(
        "--device",
        help="auto, cpu, gpu or gpu:N; where this process computes.  [env: PADDLE_SAM_DEVICE, DEVICE; default: auto]",
    ),
)


def of_a_project(command: C) -> C:
    """Add ``--project``, ``--view``, ``--filter``, ``--limit``, ``--weights`` and ``--device`` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
