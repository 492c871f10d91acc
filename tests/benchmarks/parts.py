"""One part of the benchmarks in a process of its own: bounded in time, and without effect on the others if it fails.

``python -m tests.benchmarks.parts NAME DEVICE`` measures a part and writes each row to stdout as it is measured.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import IO

from tests.benchmarks.rows import Row, say


@dataclass(frozen=True)
class Part:
    """What one part measured.

    Attributes:
        name: of the part, ``bench_NAME.py``.
        rows: its figures, in order; those measured before a failure too.
        failure: why it did not come to its end, empty if it did.
        took_s: how long it ran.
        load: of the machine over its last minute: the processes that wanted to run.
        processor: the machine's.
        cores: how many of it this process may use.
    """

    name: str
    rows: tuple[Row, ...]
    failure: str = ""
    took_s: float = 0.0
    load: float = 0.0
    processor: str = ""
    cores: int = 0

    @property
    def is_met(self) -> bool:
        """Whether it came to its end and every goal is reached."""
        return not self.failure and all(row.is_met for row in self.rows)


def measure(name: str, device: str, limit_s: float, processor: str, cores: int) -> Part:
    """Return what a part measures within ``limit_s``; all processes that it started end with it."""
    say(f"{name}: at most {limit_s:.0f} s")
    start = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.parts", name, device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=os.setpgrp) as process:
        try:
            output, failure = _read(process, limit_s)
        finally:
            _end(process)
    rows = tuple(Row(**json.loads(line)) for line in output.splitlines() if line.endswith("}"))
    took_s = time.monotonic() - start
    say(f"{name}: {failure or 'done'}, {len(rows)} figures, {took_s:.0f} s")
    return Part(name, rows, failure, round(took_s, 1), os.getloadavg()[0], processor, cores)


def _read(process: "subprocess.Popen[str]", limit_s: float) -> tuple[str, str]:
    """Return what a part wrote, and why it failed."""
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        output, _ = process.communicate()
        return output, f"not done within {limit_s:.0f} s"
    return output, f"ended with status {process.returncode}" if process.returncode else ""


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def rows_of(name: str, device: str) -> Iterator[Row]:
    """Yield the rows of a part as they are measured, in this process; a name with dots is a module's."""
    module = import_module(name if "." in name else f"tests.benchmarks.bench_{name}")
    yield from module.run() if device == "cpu" else module.on_gpu(device)


def main(name: str, device: str, out: IO[str]) -> None:
    """Measure a part, and write its rows."""
    for row in rows_of(name, device):
        print(json.dumps(asdict(row)), file=out, flush=True)


if __name__ == "__main__":
    # What a benchmark starts may write to stdout too, so that only these rows are left there.
    real_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(sys.argv[1], sys.argv[2], real_stdout)
