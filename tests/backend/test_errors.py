"""Errors of every kind as values: each thread that waits for the same thing raises a copy of its failure."""

import copy
import importlib
import pickle
import pkgutil

import pytest

import backend
from backend.errors import BackendError, ConfigError, Reason, RetryLater

ARGUMENTS = {"RefusedError": ("Label Studio answers 404", 404), "Stopped": ()}
"""What constructors take that do not take a message and a reason."""


def kinds(parent=BackendError):
    """Return every kind of error there is in the backend."""
    for module in pkgutil.iter_modules(backend.__path__):
        if module.name != "__main__":
            importlib.import_module(f"backend.{module.name}")
    below = {kind for child in parent.__subclasses__() for kind in kinds(child)}
    return {parent} | {kind for kind in below if kind.__module__.startswith("backend.")}


KINDS = sorted(kinds(), key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_every_kind_can_be_copied(kind, again):
    error = kind(*ARGUMENTS.get(kind.__name__, ("why", Reason.SUPERSEDED)))
    copied = again(error)
    assert copied is not error
    assert (type(copied), str(copied), copied.args) == (kind, str(error), error.args)
    assert vars(copied) == vars(error)
    assert copied.reason is error.reason


def test_a_copy_keeps_what_an_error_says_beyond_its_message():
    assert copy.copy(RetryLater("why", Reason.OVERLOADED, 30.0)).retry_after_s == 30.0
    assert copy.copy(ConfigError("why")).reason is Reason.BAD_LABEL_CONFIG


def test_raising_a_copy_leaves_no_trace_in_the_original():
    error = ConfigError("why")
    with pytest.raises(ConfigError):
        raise copy.copy(error)
    assert error.__traceback__ is None
