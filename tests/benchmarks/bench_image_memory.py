"""The most memory that decoding takes beside the file, for each kind: of 100 megapixels, or as many as are allowed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import picture_memory
from tests.benchmarks.rows import Row, limit, say

LIMIT_MB = 300.0


def run() -> Iterator[Row]:
    """Compare the peaks with the limit."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, side in picture_memory.KINDS.items():
            yield _row(kind, side, Path(folder, "picture"))


def _row(kind: str, side: int, path: Path) -> Row:
    picture_memory.run("make", kind, str(side), str(side), path)
    peak, kept_bytes, took = map(float, picture_memory.run("decode", path).split())
    say(f"{kind} of {side} x {side}: {kept_bytes / 1e6:.0f} MB kept, {took:.1f} s")
    return limit(f"{kind}, {side**2 / 1e6:.0f} MP", peak / 1e6, LIMIT_MB, "MB")
