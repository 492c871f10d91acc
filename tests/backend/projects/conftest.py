"""The command line over a project, in this process and as one of its own; each module has its own ``server``."""

import os

import pytest
from click.testing import CliRunner

from backend.cli.main import main
from tests.support.fakes import LEGACY_TOKEN
from tests.support.processes import commands, environment


@pytest.fixture
def settings(server, weights, tmp_path):
    return {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": LEGACY_TOKEN,
        "PADDLE_SAM_WEIGHTS": weights,
        "PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"),
        "PADDLE_SAM_DEVICE": "cpu",
    }


@pytest.fixture
def call(settings, monkeypatch):
    """Run the command line in this process."""

    def call(*arguments, **changes):
        for name in [name for name in os.environ if name not in environment()]:
            monkeypatch.delenv(name)
        for name, value in (environment() | settings | changes).items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, list(arguments), catch_exceptions=False)

    return call


@pytest.fixture
def start(settings):
    """Run the command line as a process, which is gone at the end of the test."""
    with commands(**settings) as start:
        yield start
