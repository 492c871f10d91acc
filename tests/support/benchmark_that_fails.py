"""A part of the benchmarks that measures one figure and then fails."""

from collections.abc import Iterator

from tests.benchmarks.rows import Row, limit


def run() -> Iterator[Row]:
    """Write to stdout, as a library may, and fail after the first figure."""
    print("a library's own words")
    yield limit("measured before the failure", 1.0, 2.0, "ms")
    raise RuntimeError("the second figure cannot be measured")
