"""Figures that people read at a glance."""

from itertools import pairwise

import pytest

from backend.web.status.formatting import Bar, Speed, format_bytes, format_ms, percentile


@pytest.mark.parametrize(("share", "expected"), [(0.5, 3), (0.95, 5), (0.2, 1), (0.0, 1), (1.0, 5)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert percentile([5, 1, 4, 2, 3], share) == expected


def test_a_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        percentile([], 0.5)


@pytest.mark.parametrize(("milliseconds", "expected"), [
    (0.0, "0.0 ms"), (9.94, "9.9 ms"), (9.96, "10 ms"), (999.4, "999 ms"), (999.6, "1.0 s"), (9949, "9.9 s"),
    (9960, "10 s"), (99_400, "99 s"), (99_600, "2 min"), (3_570_000, "1 h 0 min"), (7_500_000, "2 h 5 min"),
    (172_800_000, "2 days"),
])  # fmt: skip
def test_times_are_written_in_the_unit_that_reads_well(milliseconds, expected):
    assert format_ms(milliseconds) == expected


@pytest.mark.parametrize(("nbytes", "expected"), [(0, "0 MB"), (512_000_000, "512 MB"), (4_096_000_000, "4.1 GB")])
def test_sizes_are_written_in_decimal_units(nbytes, expected):
    assert format_bytes(nbytes) == expected


def test_bars_stand_from_the_oldest_to_the_newest_and_an_outlier_is_cut():
    bars = Speed("x", "", (1000.0, *[10.0] * 58, 20.0)).bars
    assert len(bars) == 60
    assert [bar.text for bar in bars[:1] + bars[-1:]] == ["20 ms", "1.0 s"]
    assert [bar.is_cut for bar in bars] == [True] + [False] * 58 + [True]
    assert all(bar.x >= 0 and bar.x + bar.width <= 100 and bar.y + bar.height == pytest.approx(100) for bar in bars)
    assert all(before.x < after.x for before, after in pairwise(bars))


@pytest.mark.parametrize("times", [(0.0,), (0.0, 0.0), (5.0,)])
def test_bars_of_few_or_of_no_time_at_all_can_be_seen(times):
    bars = Speed("x", "", times).bars
    assert len(bars) == len(times)
    assert all(isinstance(bar, Bar) and bar.height >= 2 for bar in bars)
