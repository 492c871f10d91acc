"""Threads that take turns: a few at a time, first come first served."""

import threading

import pytest

from backend.turns import Turns
from tests.service import wait_until


def test_threads_go_in_the_order_in_which_they_came():
    turns, order, threads = Turns(1), [], []

    def go(number):
        with turns:
            order.append(number)

    with turns:
        for number in range(20):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            wait_until(lambda number=number: len(turns._waiting) == number + 1)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_no_more_than_the_given_number_are_inside_and_all_get_in():
    turns, inside, most, lock, done = Turns(3), 0, 0, threading.Lock(), []

    def go():
        nonlocal inside, most
        for _ in range(50):
            with turns:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
        done.append(True)

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 12
    assert most <= 3
    assert turns._free == 3


def test_a_turn_that_fails_lets_the_next_one_in():
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns:
        raise ZeroDivisionError
    with turns:
        pass


def test_nobody_at_all_is_refused():
    with pytest.raises(ValueError, match="at_once: expected at least 1, got 0"):
        Turns(0)
