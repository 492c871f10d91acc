"""Shared by all commands: reading settings, printing errors, exit codes, and the option ``--weights``."""

import os
import sys
from typing import NoReturn

import click

from backend.settings import Settings, SettingsError, read
from model import tls

GOOD, PROBLEMS_FOUND, BAD_SETTINGS, STOPPED = 0, 1, 2, 130

weights_option = click.option(
    "--weights", help="Model name or path; two joined by a comma are merged.  [env: PADDLE_SAM_WEIGHTS; default: demo]"
)


def settings_of(options: dict[str, str | int | None], *, is_local: bool = False) -> Settings:
    """Return the environment's settings, overridden by the given options; end the process if they are invalid.

    A command that ``is_local`` makes no connection by TLS, and does not read the certificates for one.
    """
    given = {name: str(value) for name, value in options.items() if value is not None}
    certificates = tls.VARIABLES if is_local else ()
    try:
        return read({name: value for name, value in {**os.environ, **given}.items() if name not in certificates})
    except SettingsError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Print an error message, one line per problem, and end the process with `BAD_SETTINGS`."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(BAD_SETTINGS)
