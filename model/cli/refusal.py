"""Ends a command that fails with one sentence on standard error and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


class Refusal(click.ClickException):
    """One sentence for the person at the terminal."""

    exit_code = 2


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what goes wrong for reasons outside of this program into a `Refusal`; let mistakes of ours through."""
    from model.detection.word_list import WordsError
    from model.errors import CapabilityError, DeviceError
    from model.paddlex.inputs import InputError
    from model.paddlex.prompts import PromptError
    from model.weights import WeightsError

    try:
        yield
    except (CapabilityError, DeviceError, InputError, PromptError, WeightsError, WordsError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(os_sentence(error)) from error


def os_sentence(error: OSError) -> str:
    """Return what the operating system refused, without its number."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
