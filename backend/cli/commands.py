"""Shared by all commands: reading settings, printing errors, exit codes, and the option ``--weights``."""

import os
import sys
from typing import NoReturn

import click

from backend.settings import Settings, SettingsError, read

GOOD, PROBLEMS_FOUND, BAD_SETTINGS, STOPPED = 0, 1, 2, 130

weights_option = click.option(
    "--weights", help="Model name or path; two joined by a comma are merged.  [env: PADDLE_SAM_WEIGHTS; default: demo]"
)


def settings_of(options: dict[str, str | int | None]) -> Settings:
    """Return the environment's settings, overridden by the given options; end the process if they are invalid."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    try:
        return read({**os.environ, **given})
    except SettingsError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Print an error message, one line per problem, and end the process with `BAD_SETTINGS`."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(BAD_SETTINGS)
