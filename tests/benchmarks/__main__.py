"""Run the benchmarks: ``python -m tests.benchmarks [--device DEVICE] [NAME...]``, all of them without a name.

Every module ``bench_NAME.py`` here has a function ``run() -> list[Row]``; ``weights:NETWORK`` measures one network.
A table goes to stdout, the same as JSON to ``out/benchmarks.json``. Exits with 1 when a goal is missed. Another device
than ``cpu`` is for ``encoder`` alone.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from model.device import resolve
from model.errors import DeviceError
from model.machine import cpu_count
from tests.benchmarks import bench_weights
from tests.benchmarks.rows import Row, say

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "out" / "benchmarks.json"


def table(rows: list[Row]) -> str:
    """The rows in Markdown, as README has them."""
    lines = ["| figure | ours | compared with | | ratio | goal | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        goal, verdict = ("", "") if row.goal is None else (f"{row.goal:.2f}", "met" if row.is_met else "missed")
        ours, reference = f"{row.ours:.1f} {row.unit}", f"{row.reference:.1f} {row.unit}"
        cells = row.name, ours, row.against, reference, f"{row.ratio:.2f}", goal, verdict
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, as far as the system tells."""
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
    asked = parser.parse_args(arguments)
    names: list[str] = asked.names
    try:
        device = resolve(asked.device)
    except DeviceError as error:
        say(str(error))
        return 2
    if device != "cpu" and names != ["encoder"]:
        say(f"--device {device}: expected the benchmark encoder alone, got {', '.join(names) or 'all'}")
        return 2
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    known += [f"weights:{network}" for network in bench_weights.parts()]
    if unknown := [name for name in names if name not in known]:
        say(f"expected some of {', '.join(known)}, got {', '.join(unknown)}")
        return 2
    rows: list[Row] = []
    for name in names or [name for name in known if ":" not in name]:
        benchmark, _, part = name.partition(":")
        module = import_module(f"tests.benchmarks.bench_{benchmark}")
        rows += module.run(*filter(None, [part])) if device == "cpu" else module.on_gpu(device)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{processor()}, {cpu_count()} cores; load in the last 1, 5 and 15 minutes: {load}\n\n{table(rows)}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "processor": processor(),
        "cores": cpu_count(),
        "load": os.getloadavg(),
        "rows": [asdict(row) for row in rows],
    }
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
