"""Work for a key runs once, with the highest priority of its requests."""

import threading

import pytest

from backend.concurrency.priority_executor import PriorityExecutor
from backend.concurrency.single_flight import SingleFlight
from backend.errors import RetryLater
from backend.types import Priority

SOON_S = 20.0
INTERACTIVE, PREFETCH, BULK = Priority


@pytest.fixture
def executor():
    executor = PriorityExecutor(threads=1)
    yield executor
    executor.close()


@pytest.fixture
def gate(executor):
    """Occupies the only thread until it is set."""
    gate, running = threading.Event(), threading.Event()
    executor.submit(lambda task: running.set() or gate.wait(SOON_S), INTERACTIVE)
    assert running.wait(SOON_S)
    yield gate
    gate.set()


def test_requests_for_one_key_share_the_work_and_later_ones_start_over(executor, gate):
    joins, runs = [], []
    flights = SingleFlight(executor, on_join=lambda: joins.append(1))
    futures = [flights.run("a", lambda task: runs.append("a") or len(runs), BULK) for _ in range(5)]
    assert (len(flights), len(joins), "a" in flights) == (1, 4, True)
    gate.set()
    assert {future.result(SOON_S) for future in futures} == {1}
    assert len(flights) == 0
    assert flights.run("a", lambda task: "again", BULK).result(SOON_S) == "again"
    assert runs == ["a"]


def test_an_error_reaches_all_requests_and_is_not_kept(executor, gate):
    flights = SingleFlight(executor)
    futures = [flights.run("a", lambda task: 1 / 0, BULK) for _ in range(2)]
    gate.set()
    assert {type(future.exception(SOON_S)) for future in futures} == {ZeroDivisionError}
    assert flights.run("a", lambda task: 1, BULK).result(SOON_S) == 1


def test_work_that_a_more_urgent_request_joins_goes_first(executor, gate):
    flights, order = SingleFlight(executor), []
    for name in "abc":
        last = flights.run(name, lambda task, name=name: order.append((name, task.priority)), BULK)
    assert flights.run("c", lambda task: None, INTERACTIVE) is last
    flights.promote("b", PREFETCH)
    flights.promote("nothing", INTERACTIVE)
    gate.set()
    flights.run("end", lambda task: None, BULK).result(SOON_S)
    assert order == [("c", INTERACTIVE), ("b", PREFETCH), ("a", BULK)]


def test_work_that_runs_learns_that_it_has_become_urgent(executor):
    flights, learnt, running, gate = SingleFlight(executor), [], threading.Event(), threading.Event()

    def work(task):
        task.on_promote = learnt.append
        running.set()
        assert gate.wait(SOON_S)
        return task.priority

    future = flights.run("a", work, BULK)
    assert running.wait(SOON_S)
    flights.run("a", work, INTERACTIVE)
    flights.run("a", work, PREFETCH)
    gate.set()
    assert (future.result(SOON_S), learnt) == (INTERACTIVE, [INTERACTIVE])


def test_after_closing_requests_fail(executor, gate):
    flights = SingleFlight(executor)
    waiting = flights.run("a", lambda task: 1, BULK)
    closing = threading.Thread(target=executor.close)
    closing.start()
    assert isinstance(waiting.exception(SOON_S), RetryLater)
    gate.set()
    closing.join(SOON_S)
    assert isinstance(flights.run("b", lambda task: 1, BULK).exception(SOON_S), RetryLater)
    assert len(flights) == 1, "the one that was dropped"


def test_many_threads_on_few_keys_never_run_two_at_a_time_for_one_key():
    executor = PriorityExecutor(threads=8)
    flights, running, most, lock = SingleFlight(executor), {}, [], threading.Lock()

    def work(key):
        with lock:
            running[key] = running.get(key, 0) + 1
            most.append(running[key])
        with lock:
            running[key] -= 1
        return key

    def ask():
        for number in range(200):
            key = number % 3
            assert flights.run(key, lambda task, key=key: work(key), BULK).result(SOON_S) == key

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    executor.close()
    assert max(most) == 1
    assert len(flights) == 0
