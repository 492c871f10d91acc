"""Small jobs in the background: in order, not without end, and none brings down another."""

import threading

from backend.concurrency.background import MAX_WAITING, BackgroundTasks
from tests.support.service import wait_until

SOON_S = 30.0


def test_tasks_run_one_after_the_other_and_a_failing_one_is_logged(caplog):
    tasks, finished, last = BackgroundTasks(), [], threading.Event()
    tasks.submit(lambda: finished.append(1 / 0))
    tasks.submit(lambda: finished.append("second"))
    tasks.submit(last.set)
    assert last.wait(SOON_S)
    assert finished == ["second"]
    assert "ZeroDivisionError" in caplog.text
    tasks.close()


def test_too_many_tasks_are_dropped_and_later_ones_taken_again():
    tasks, gate, finished = BackgroundTasks(), threading.Event(), []
    tasks.submit(lambda: gate.wait(SOON_S))
    for number in range(MAX_WAITING + 10):
        tasks.submit(lambda number=number: finished.append(number))
    gate.set()
    wait_until(lambda: len(finished) == MAX_WAITING - 1)  # the first one is the gate
    assert finished == list(range(MAX_WAITING - 1))
    tasks.submit(lambda: finished.append("later"))
    wait_until(lambda: "later" in finished)
    tasks.close()


def test_tasks_after_closing_are_dropped():
    tasks, finished, before = BackgroundTasks(), [], set(threading.enumerate())
    tasks.close()
    tasks.submit(lambda: finished.append("was to be dropped"))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("background")]
    assert finished == []
