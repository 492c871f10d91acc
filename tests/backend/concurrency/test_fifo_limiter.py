"""The limiter runs a few threads at a time, first come first served, and a wait ends at its deadline."""

import math
import threading
import time

import pytest

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.errors import Reason, RetryLater
from tests.support.service import wait_until


def test_threads_go_in_the_order_in_which_they_came():
    turns, order, threads = FifoLimiter(1), [], []

    def go(number):
        with turns:
            order.append(number)

    with turns:
        for number in range(20):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            wait_until(lambda number=number: turns.waiting == number + 1)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_no_more_than_the_given_number_are_inside_and_all_get_in():
    turns, inside, most, lock, finished = FifoLimiter(3), 0, 0, threading.Lock(), []

    def go():
        nonlocal inside, most
        for _ in range(50):
            with turns:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
        finished.append(True)

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 12
    assert most <= 3
    assert turns.free == 3


def test_a_turn_that_fails_lets_the_next_one_in():
    turns = FifoLimiter(1)
    with pytest.raises(ZeroDivisionError), turns:
        raise ZeroDivisionError
    with turns:
        pass


@pytest.mark.parametrize("seconds", [0.05, 0.0, -1.0])
def test_a_caller_who_cannot_wait_any_longer_leaves_with_a_reason_and_takes_no_slot(seconds):
    turns, inside = FifoLimiter(1), []

    def go(name):
        with turns:
            inside.append(name)

    with turns:
        started = time.monotonic()
        with pytest.raises(RetryLater) as caught, turns.slot(seconds):
            inside.append("was not to get in")
        assert time.monotonic() - started < 2
        later = threading.Thread(target=go, args=("later",))
        later.start()
        wait_until(lambda: turns.waiting == 1)
    later.join()
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert inside == ["later"]
    assert turns.free == 1


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 5.0, math.inf])
def test_a_free_turn_is_taken_however_little_time_is_left(seconds):
    turns = FifoLimiter(1)
    with turns.slot(seconds):
        assert turns.free == 0
    assert turns.free == 1


def test_a_turn_that_comes_in_time_is_taken():
    turns, inside = FifoLimiter(1), []

    def go(seconds):
        with turns.slot(seconds):
            inside.append(seconds)

    with turns:
        threads = [threading.Thread(target=go, args=(seconds,)) for seconds in (30.0, math.inf)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda number=number: turns.waiting == number)
    for thread in threads:
        thread.join()
    assert inside == [30.0, math.inf]


def test_turns_that_come_as_time_runs_out_are_neither_lost_nor_doubled():
    turns, inside, most, lock = FifoLimiter(2), 0, 0, threading.Lock()

    def go():
        nonlocal inside, most
        for _ in range(100):
            try:
                with turns.slot(0.0002):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.0002)
                    with lock:
                        inside -= 1
            except RetryLater:
                pass

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 2
    assert (turns.free, turns.waiting) == (2, 0)


def test_zero_at_a_time_is_refused():
    with pytest.raises(ValueError, match="at_once: expected at least 1, got 0"):
        FifoLimiter(0)
