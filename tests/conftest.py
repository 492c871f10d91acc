"""What several test modules share: one small random network, loaded once, and logs as they were."""

import gc
import logging
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from backend.logs import LIBRARIES
from backend.paddle_import import freeze_imports
from model import machine
from model.types import Embedding
from model.weights import Checkpoint
from model.weights.formats import native
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import random_checkpoint, tiny

# How long an example takes says nothing here: the first text of a fresh clone takes seconds to be made up.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LONGEST = (
    "service/test_fuzz.py",
    "backend/cluster/test_faults.py",
    "model/test_demo_model.py",
    "backend/cluster/test_remote.py",
    "backend/web/test_gunicorn_server.py",
    "service/test_request_costs.py",
    "e2e/test_demo.py",
)
"""Files to begin with, where several processes share the tests: the last of these would otherwise run alone. Those that
compute stand between those that wait."""


MODULES_MARKS = re.compile(r"^pytestmark = (.*?)^(?=\S)", re.MULTILINE | re.DOTALL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules all of whose tests ``-m`` leaves out, such as those that need a browser."""
    left_out = set(re.findall(r"\bnot (\w+)", config.option.markexpr))
    if " or " in config.option.markexpr or not left_out or collection_path.suffix != ".py":
        return None
    marks = MODULES_MARKS.search(collection_path.read_text("utf-8"))
    is_left_out = marks is not None and not left_out.isdisjoint(re.findall(r"pytest\.mark\.(\w+)", marks[1]))
    return is_left_out or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what stays to the end: it takes as long as all else while tests are collected.

    Memory and garbage are kept as in any process that has loaded a network, whichever tests come first.
    """
    machine.keep_memory()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        freeze_imports()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(
        key=lambda item: next((i for i, end in enumerate(LONGEST) if str(item.path).endswith(end)), len(LONGEST))
    )


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Take back what a command that ran in this process did to the logs."""
    loggers = [logging.getLogger(name) for name in ("", "backend", "model", *LIBRARIES)]
    levels, handlers = [logger.level for logger in loggers], list(loggers[0].handlers)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in list(loggers[0].handlers):
        if type(handler) is logging.StreamHandler and handler not in handlers:
            loggers[0].removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network of a few thousand parameters with every capability."""
    path = tmp_path_factory.mktemp("weights") / "tiny"
    return Checkpoint("tiny", tiny(), lively_tensors(tiny()), "0" * 64, "native", path)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights of a network as small, as a setting names it."""
    return str(native.write(random_checkpoint(), tmp_path_factory.mktemp("weights") / "small.safetensors"))


@pytest.fixture(scope="session")
def tiny_encoder(tiny_checkpoint: Checkpoint):
    from model.build import load_encoder  # here, so that tests which need no Paddle do not wait for it

    return load_encoder(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def tiny_decoder(tiny_checkpoint: Checkpoint):
    from model.build import load_decoder

    return load_decoder(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def landscape() -> np.ndarray:
    """A photo of 200 x 300 pixels."""
    return photo(200, 300)


@pytest.fixture(scope="session")
def embedding(tiny_encoder, landscape) -> Embedding:
    """What the small network sees in `landscape`."""
    return tiny_encoder.encode(landscape)
