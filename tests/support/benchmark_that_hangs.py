"""A part of the benchmarks that measures one figure, starts a process and never ends."""

import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.rows import Row, limit


def run() -> Iterator[Row]:
    """Give the process's id as the figure, and wait for ever."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield limit("process", process.pid, 1.0, "ms")
        process.wait()
