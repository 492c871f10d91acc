"""Shows settings in a command's help: environment variable, meaning, default."""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from backend import settings
from backend.settings import Settings

UNSET = "unset"
USERS_FOLDER = "the user's cache folder"


@dataclass(frozen=True)
class Variable:
    """One setting."""

    names: tuple[str, ...]  # the environment variables that it is read from, in order of precedence
    default: str  # its value if none of them is set, as text
    meaning: str


def variables() -> Iterator[Variable]:
    """Yield every setting, in the order in which they are declared."""
    for name, field in Settings.model_fields.items():
        default = _format_default(field.default, field.default_factory is not None)
        yield Variable(settings.variables(name), default, " ".join((field.description or "").split()))


def _format_default(default: object, is_made: bool) -> str:
    if is_made:
        return USERS_FOLDER
    if default is None or default == ():
        return UNSET
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)


class CommandWithSettings(click.Command):
    """A command whose help ends with a list of all settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings as a list of definitions."""
        with formatter.section("Settings, from the environment"):
            rows = [
                (", ".join(variable.names), f"{variable.meaning}  [default: {variable.default}]")
                for variable in variables()
            ]
            formatter.write_dl(rows)
