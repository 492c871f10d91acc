"""The comparison of ways to answer corrections is paired, and the table says so."""

import pytest

from demo_training.corrections import BASE, COUNTS, WAYS, Figures, compare
from demo_training.evaluate import WEIGHTS


@pytest.mark.slow
def test_ways_that_differ_in_corrections_alone_answer_the_first_click_alike() -> None:
    names = (BASE, "last logits", "all logits")
    ious = compare(WEIGHTS, "held_out", 1, {name: WAYS[name] for name in names}).ious
    first, second, third = (ious[name] for name in names)
    assert [pair[0] for pair in first] == [pair[0] for pair in second] == [pair[0] for pair in third]
    assert [pair[1] for pair in second] == [
        pair[1] for pair in third
    ]  # of two clicks, both decode the first one before
    assert first != second != third
    assert {len(row) for row in first} == {COUNTS[-1]}


def test_the_table_has_the_difference_from_points_alone_with_its_error() -> None:
    figures = Figures({BASE: [[0.5] * 5, [0.7] * 5], "last logits": [[0.5] * 5, [0.9] * 5]}, {BASE: [0.01]})
    assert "| points alone | 0.600 | 0.600 | 0.600 | 0.600 | 10 |" in figures.table()
    assert "| last logits | 0.700 (+0.100 ± 0.071) |" in figures.table()
