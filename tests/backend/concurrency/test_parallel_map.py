"""Work in threads over an iterator: bounded, in the order of completion, and stopped in order."""

import threading
import time

import pytest

from backend.concurrency.parallel_map import parallel_map


def test_every_item_comes_out_once():
    results = list(parallel_map(range(50), lambda number: number * number, 4, threading.Event()))
    assert sorted(results) == [number * number for number in range(50)]


def test_no_more_items_are_taken_than_are_in_hand():
    items_read, results = [], []

    def items():
        for number in range(30):
            items_read.append(number)
            assert len(items_read) - len(results) <= 3
            yield number

    def work(number):
        time.sleep(0.001)
        results.append(number)
        return number

    assert len(list(parallel_map(items(), work, 3, threading.Event()))) == 30


def test_a_slow_item_does_not_hold_up_the_others():
    gate = threading.Event()

    def work(number):
        assert number or gate.wait(20)
        return number

    outcomes = parallel_map(range(10), work, 2, threading.Event())
    assert [next(outcomes) for _ in range(9)] == list(range(1, 10))
    gate.set()
    assert list(outcomes) == [0]


def test_stop_takes_no_more_and_finishes_what_is_in_hand():
    stop, gate, hurried = threading.Event(), threading.Event(), []

    def work(number):
        stop.set()
        assert gate.wait(20)
        return number

    def cancel_waits():
        hurried.append(True)
        gate.set()

    outcomes = list(parallel_map(range(1000), work, 2, stop, cancel_waits))
    assert 1 <= len(outcomes) <= 2
    assert hurried == [True]


def test_what_takes_too_long_after_a_stop_is_left(request):
    stop, gate = threading.Event(), threading.Event()
    request.addfinalizer(gate.set)

    def work(number):
        if number == 1:
            stop.set()
            return number
        assert gate.wait(20)
        return number

    start = time.monotonic()
    assert list(parallel_map(range(1000), work, 2, stop, stop_within_s=0.3)) == [1]
    assert 0.3 <= time.monotonic() - start < 5


def test_what_is_done_soon_after_a_stop_is_waited_for():
    stop = threading.Event()

    def work(number):
        stop.set()
        time.sleep(0.5)
        return number

    assert sorted(parallel_map(range(1000), work, 2, stop)) in ([0], [0, 1])


def test_an_iterator_that_fails_fails_after_what_is_in_hand():
    def items():
        yield from (1, 2, 3)
        raise RuntimeError("no more pages")

    results = []
    with pytest.raises(RuntimeError, match="no more pages"):
        results.extend(parallel_map(items(), lambda number: number, 8, threading.Event()))
    assert sorted(results) == [1, 2, 3]


def test_work_that_fails_ends_the_run_after_what_is_in_hand():
    def work(number):
        if number == 3:
            raise RuntimeError("a defect")
        return number

    results = []
    with pytest.raises(RuntimeError, match="a defect"):
        results.extend(parallel_map(range(1000), work, 2, threading.Event()))
    assert {0, 1, 2} <= set(results)
    assert len(results) < 1000
