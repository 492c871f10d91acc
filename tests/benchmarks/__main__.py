"""Run the benchmarks: ``python -m tests.benchmarks [--device DEVICE] [--limit-s S] [NAME...]``, all without a name.

Every module ``bench_NAME.py`` here has a function ``run() -> Iterable[Row]``. Each runs in a process of its own, which
is ended after ``--limit-s``; what it measured until then, or until it failed, is kept. One table goes to stdout, the
same as JSON to ``out/benchmarks.json``, where parts that were not asked for stay as they were. Exits with 1 when a part
failed or a goal is missed. Another device than ``cpu`` is for ``encoder`` alone.
"""

import argparse
import platform
import sys
from pathlib import Path

from model.device import resolve
from model.errors import DeviceError
from model.machine import cpu_count
from tests.benchmarks import report
from tests.benchmarks.parts import measure
from tests.benchmarks.rows import say

HERE = Path(__file__).parent
LIMIT_S = 600.0


def processor() -> str:
    """The processor's name, as far as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, print and write what they found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="longest time of one part, in seconds")
    parsed_arguments = parser.parse_args(arguments)
    names: list[str] = parsed_arguments.names
    try:
        device = resolve(parsed_arguments.device)
    except DeviceError as error:
        say(str(error))
        return 2
    if device != "cpu" and names != ["encoder"]:
        say(f"--device {device}: expected the benchmark encoder alone, got {', '.join(names) or 'all'}")
        return 2
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if unknown := [name for name in names if name not in known]:
        say(f"expected some of {', '.join(known)}, got {', '.join(unknown)}")
        return 2
    measured, stored = [], report.read()
    for name in names or known:
        measured.append(measure(name, device, parsed_arguments.limit_s, processor(), cpu_count()))
        if device == "cpu":
            stored[name] = measured[-1]
            report.write(stored.values())
    print(f"{report.machine(measured)}\n\n{report.table(measured)}")
    return 0 if all(part.is_met for part in measured) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
