"""One real Label Studio beside one real backend, and one browser, for all tests that ask for them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.demo.processes import free_port
from tests.e2e.label_studio_server import ROOT, Studio, chromium_executable, label_studio_python
from tests.e2e.stored_masks import StoredMasks
from tests.support.redis_server import redis_module_server, redis_server

__all__ = ["redis_module_server", "redis_server"]

SCREENSHOTS = ROOT / ".demo" / "screenshots"
"""Kept, and ignored by git: a person should look at them now and then."""


@pytest.fixture(scope="session")
def label_studio() -> Path:
    python = label_studio_python()
    if python is None:
        pytest.skip("no Label Studio: `make demo` installs one, or name its interpreter with LABEL_STUDIO_PYTHON")
    return python


@pytest.fixture(scope="session")
def studio(label_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    first = free_port(20000 + os.getpid() % 20000, "a test")
    second = free_port(first + 1, "a test")
    studio = Studio(tmp_path_factory.mktemp("demo") / "demo", label_studio, first, second)
    try:
        studio.start()
        yield studio
    finally:
        studio.stop()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: see tests/e2e/requirements.txt")
    executable = chromium_executable()
    if executable is None:
        pytest.skip("no Chromium: install it, or name it with CHROMIUM")
    from tests.e2e.annotator import chromium

    with playwright.sync_playwright() as started, chromium(started, executable) as browser:
        yield browser


@pytest.fixture(scope="session")
def cookies(browser, studio: Studio):
    """What logging in leaves in a browser."""
    from tests.e2e.annotator import Annotator

    annotator = Annotator(browser, studio.url, SCREENSHOTS)
    cookies = annotator.log_in(studio.username, studio.password)
    annotator.close()
    return cookies


@pytest.fixture
def annotator(browser, studio: Studio, cookies):
    """A person in a fresh browser profile who has logged in."""
    from tests.e2e.annotator import Annotator

    annotator = Annotator(browser, studio.url, SCREENSHOTS, cookies)
    yield annotator
    annotator.close()


@pytest.fixture(scope="session")
def stored_masks(label_studio: Path) -> StoredMasks:
    return StoredMasks(label_studio)
