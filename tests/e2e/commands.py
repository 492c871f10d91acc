"""Commands over a project of a real Label Studio, as processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.label_studio_server import ROOT, Studio
from tests.support.processes import environment

RUN_S = 600


@contextmanager
def running(studio: Studio, cache: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A command beside Label Studio as a process, which is gone after the block."""
    settings |= {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "PADDLE_SAM_CACHE_DIR": str(cache),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", *arguments],
        env=environment(**settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(studio: Studio, cache: Path, *arguments: str) -> tuple[int, str]:
    with running(studio, cache, *arguments) as process:
        output = process.communicate(timeout=RUN_S)[0]
        return process.returncode, output
