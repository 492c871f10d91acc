"""Small jobs in the background: in order, not without end, and none brings down another."""

import threading

from backend.concurrency.background import MAX_WAITING, BackgroundTasks
from tests.support.service import wait_until

SOON_S = 30.0


def test_errands_run_one_after_the_other_and_a_failing_one_is_logged(caplog):
    errands, done, last = BackgroundTasks(), [], threading.Event()
    errands.submit(lambda: done.append(1 / 0))
    errands.submit(lambda: done.append("second"))
    errands.submit(last.set)
    assert last.wait(SOON_S)
    assert done == ["second"]
    assert "ZeroDivisionError" in caplog.text
    errands.close()


def test_too_many_errands_are_dropped_and_later_ones_taken_again():
    errands, gate, done = BackgroundTasks(), threading.Event(), []
    errands.submit(lambda: gate.wait(SOON_S))
    for number in range(MAX_WAITING + 10):
        errands.submit(lambda number=number: done.append(number))
    gate.set()
    wait_until(lambda: len(done) == MAX_WAITING - 1)  # the first one is the gate
    assert done == list(range(MAX_WAITING - 1))
    errands.submit(lambda: done.append("later"))
    wait_until(lambda: "later" in done)
    errands.close()


def test_errands_after_closing_are_dropped():
    errands, done, before = BackgroundTasks(), [], set(threading.enumerate())
    errands.close()
    errands.submit(lambda: done.append("was to be dropped"))
    assert not [one for one in set(threading.enumerate()) - before if one.name.startswith("errand")]
    assert done == []
