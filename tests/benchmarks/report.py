"""What the benchmarks found: as one table, as a file, and as the table in both READMEs.

``python -m tests.benchmarks.report`` writes that table from ``out/benchmarks.json``, which the benchmarks write.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.parts import Part
from tests.benchmarks.rows import Row

ROOT = Path(__file__).parents[2]
OUT, READMES = ROOT / "out" / "benchmarks.json", (ROOT / "README.md", ROOT / "README.zh-CN.md")
BEGIN, END = "<!-- make bench -->\n", "<!-- end of make bench -->"
HEAD = "| figure | ours | compared with | | ratio | goal | | load |\n|---|---|---|---|---|---|---|---|"

IN_README = (
    "decoder, one box", "decoder, 16 boxes", "encoder, ViT-B at 1024", "encoder, MobileSAM", "encoder, sam2.1",
    "beside the network", "32 threads", "two web processes", "Redis hit", "cold click", "peak memory",
)  # fmt: skip
"""The figures of README's table: those whose names contain one of these."""


def read(path: Path = OUT) -> dict[str, Part]:
    """Return the parts that were measured, by name; none where there is no file, or one of another form."""
    try:
        return {fields["name"]: _part(fields) for fields in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def write(parts: Iterable[Part], path: Path = OUT) -> None:
    """Write what parts measured; the file is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps([dataclasses.asdict(part) for part in parts], indent=2) + "\n")
    partial.replace(path)


def table(parts: Iterable[Part], names: tuple[str, ...] = ("",)) -> str:
    """Return the rows whose names contain one of ``names`` in Markdown, and of parts that failed the reasons.

    >>> row = Row("a click", 2.0, 3.0, "ms", "the limit", 1.0, 0.67)
    >>> print(table([Part("click", (row,), load=1.5)]))
    | figure | ours | compared with | | ratio | goal | | load |
    |---|---|---|---|---|---|---|---|
    | a click | 2.0 ms | the limit | 3.0 ms | 0.67 | 1.00 | met | 1.5 |
    """
    parts = list(parts)
    lines = [HEAD]
    lines += [_line(row, part) for part in parts for row in part.rows if any(name in row.name for name in names)]
    failed = [f"{part.name}: {part.failure}" for part in parts if part.failure]
    return "\n".join(lines) + ("\n\nNot measured to the end: " + "; ".join(failed) + "." if failed else "")


def machine(parts: Iterable[Part]) -> str:
    """Return the processors that parts were measured on."""
    names = dict.fromkeys(f"{part.cores} cores of {part.processor}" for part in parts)
    return "Measured on " + ", ".join(names) + "; the load is the average number of processes that wanted to run."


def update(readme: str, parts: Iterable[Part]) -> str:
    """Return README's text with a table of the measured rows.

    Raises:
        ValueError: the place for it is not marked.
    """
    parts = list(parts)
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README: expected {BEGIN.strip()} and {END}, got at most one of them")
    return f"{before}{begin}{machine(parts)}\n\n{table(parts, IN_README)}\n\n{end}{after}"


def parse(text: str) -> list[list[str]]:
    """Return the cells of each row of a table that `table` made; raises `ValueError` if it is of another form."""
    body = text.partition(HEAD)[2]
    if not body.startswith("\n"):
        raise ValueError(f"table: expected {HEAD!r}, got {text[:100]!r}")
    rows = [line[2:-2].split(" | ") for line in body.splitlines() if line.startswith("| ")]
    number = r"\d+(\.\d+)? (ms|s|MB|GB|µs)"
    form = (r".+", number, r".+", number, r"\d+\.\d\d", r"(\d+\.\d\d)?", r"(met|missed)?", r"\d+\.\d")
    for row in rows:
        if len(row) != len(form) or not all(re.fullmatch(*pair) for pair in zip(form, row, strict=True)):
            raise ValueError(f"row: expected cells of the forms {form}, got {row}")
    return rows


def _line(row: Row, part: Part) -> str:
    goal, verdict = ("", "") if row.goal is None else (f"{row.goal:.2f}", "met" if row.is_met else "missed")
    values = (_value(row.ours, row.unit), row.against, _value(row.reference, row.unit))
    return "| " + " | ".join((row.name, *values, f"{row.ratio:.2f}", goal, verdict, f"{part.load:.1f}")) + " |"


def _value(number: float, unit: str) -> str:
    larger = {"ms": "s", "MB": "GB"}.get(unit)
    return f"{number / 1000:.1f} {larger}" if larger and number >= 10_000 else f"{number:.1f} {unit}"


def _part(fields: dict[str, Any]) -> Part:  # Any: what JSON holds
    return Part(**fields | {"rows": tuple(Row(**row) for row in fields["rows"])})


def main() -> int:
    """Write the table of both READMEs, and return the exit status."""
    parts = read()
    if not parts:
        print(f"expected figures in {OUT}, got none: run make bench", file=sys.stderr)
        return 1
    updated = {path: update(path.read_text(), parts.values()) for path in READMES}
    for path, text in updated.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
