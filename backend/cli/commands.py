"""What commands have in common: the settings they read, how they refuse, their exit codes, and an option."""

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
    """Return the environment's settings, overridden by the options that were given; end where they make no sense."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    try:
        return read({**os.environ, **given})
    except SettingsError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Say why a command cannot do what it is asked, a line each, and end."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(BAD_SETTINGS)
