"""``make bench``: no part keeps the others from being measured, and README's table is what it printed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.parts import Part, measure
from tests.benchmarks.rows import Row
from tests.support.cluster import eventually

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="reads the source tree's own files")

ROWS = (
    Row("beside the network, 800×600", 2.5, 3.0, "ms", "the limit", 1.0, 0.83),
    Row("encoder, MobileSAM", 12_345.0, 10_000.0, "ms", "torch", 1.0, 1.23),
    Row("encoder alone, sam_vit_b", 5.0, 5.0, "ms", "sam_vit_b", None, 1.0),
)


def measured(name, limit_s=60.0):
    return measure(f"tests.support.{name}", "cpu", limit_s, "a processor", 2)


def has_ended(pid):
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_a_part_that_fails_keeps_what_it_measured():
    part = measured("benchmark_that_fails")
    assert [row.name for row in part.rows] == ["measured before the failure"]
    assert part.failure == "ended with status 1"
    assert not part.is_met


def test_a_part_that_does_not_end_is_ended_with_all_that_it_started():
    part = measured("benchmark_that_hangs", limit_s=5.0)
    assert part.failure == "not done within 5 s"
    assert part.took_s < 60
    [row] = part.rows
    eventually(lambda: has_ended(int(row.ours)))


def test_the_table_names_what_failed_beside_what_was_measured():
    parts = [Part("click", ROWS, load=1.25), Part("cluster", (), "not done within 600 s")]
    text = report.table(parts)
    assert report.parse(text) == [
        ["beside the network, 800×600", "2.5 ms", "the limit", "3.0 ms", "0.83", "1.00", "met", "1.2"],
        ["encoder, MobileSAM", "12.3 s", "torch", "10.0 s", "1.23", "1.00", "missed", "1.2"],
        ["encoder alone, sam_vit_b", "5.0 ms", "sam_vit_b", "5.0 ms", "1.00", "", "", "1.2"],
    ]
    assert text.endswith("Not measured to the end: cluster: not done within 600 s.")


def test_what_was_measured_before_stays_when_another_part_is_measured(tmp_path):
    path = tmp_path / "out" / "benchmarks.json"
    assert report.read(path) == {}
    parts = {"click": Part("click", ROWS, load=1.5, processor="one", cores=2), "cluster": Part("cluster", (), "failed")}
    report.write(parts.values(), path)
    assert report.read(path) == parts
    path.write_text('{"rows": []}')  # as it was before parts had files of their own
    assert report.read(path) == {}


def test_the_command_replaces_readmes_table_and_nothing_else():
    readme = (ROOT / "README.md").read_text()
    parts = [Part("click", ROWS, load=1.0, processor="a processor", cores=2)]
    updated = report.update(readme, parts)
    (before, table, after), (_, new, _) = sections(readme), sections(updated)
    assert updated == before + new + after
    assert table != new
    assert report.update(updated, parts) == updated
    assert new.startswith("Measured on 2 cores of a processor;")
    assert [row[0] for row in report.parse(new)] == ["beside the network, 800×600", "encoder, MobileSAM"]


def sections(readme):
    """What is before README's table, the table, and what is after it."""
    before, begin, rest = readme.partition(report.BEGIN)
    table, end, after = rest.partition(report.END)
    return before + begin, table, end + after


def test_readmes_table_is_one_that_the_command_makes():
    _, table, _ = sections((ROOT / "README.md").read_text())
    assert table.startswith("Measured on ")
    assert len(report.parse(table)) > 5


def test_every_part_can_be_run():
    names = [path.stem for path in (ROOT / "tests" / "benchmarks").glob("bench_*.py")]
    assert len(names) > 10
    assert all("def run() ->" in Path(find_spec(f"tests.benchmarks.{name}").origin).read_text() for name in names)
