"""Small jobs in the background: in order, not without end, and none brings down another."""

import threading

from backend.concurrency.background import MAX_WAITING, BackgroundTasks
from tests.support.service import wait_until

SOON_S = 30.0


def test_tasks_run_one_after_the_other_and_a_failing_one_is_logged(caplog):
    tasks, done, last = BackgroundTasks(), [], threading.Event()
    tasks.submit(lambda: done.append(1 / 0))
    tasks.submit(lambda: done.append("second"))
    tasks.submit(last.set)
    assert last.wait(SOON_S)
    assert done == ["second"]
    assert "ZeroDivisionError" in caplog.text
    tasks.close()


def test_too_many_tasks_are_dropped_and_later_ones_taken_again():
    tasks, gate, done = BackgroundTasks(), threading.Event(), []
    tasks.submit(lambda: gate.wait(SOON_S))
    for number in range(MAX_WAITING + 10):
        tasks.submit(lambda number=number: done.append(number))
    gate.set()
    wait_until(lambda: len(done) == MAX_WAITING - 1)  # the first one is the gate
    assert done == list(range(MAX_WAITING - 1))
    tasks.submit(lambda: done.append("later"))
    wait_until(lambda: "later" in done)
    tasks.close()


def test_tasks_after_closing_are_dropped():
    tasks, done, before = BackgroundTasks(), [], set(threading.enumerate())
    tasks.close()
    tasks.submit(lambda: done.append("was to be dropped"))
    assert not [one for one in set(threading.enumerate()) - before if one.name.startswith("background")]
    assert done == []
