"""Things delivered a few at a time: by number, by size, by age, in order, and nothing lost at the end."""

import threading

import pytest

from backend.concurrency.batcher import MAX_AGE_S, MAX_ITEMS, Batcher
from tests.support.fakes import FakeClock


class Post:
    """Takes deliveries; waits at its gate and raises its `failures`."""

    def __init__(self):
        self.chunks, self.failures, self.gate = [], [], threading.Event()
        self.gate.set()

    def __call__(self, chunk):
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        self.chunks.append(list(chunk))
        return [f"delivered {item}" for item in chunk]


@pytest.fixture
def post():
    return Post()


def chunks(post, size=lambda thing: 1, clock=None):
    return Batcher(post, size, clock=clock or FakeClock())


def test_a_few_things_wait_for_more(post):
    with chunks(post) as gathered:
        gathered.add(1)
        assert list(gathered.poll()) == []
        assert list(gathered.flush()) == ["delivered 1"]


def test_many_things_are_sent_off_in_order(post):
    with chunks(post) as gathered:
        results = []
        for number in range(3 * MAX_ITEMS + 5):
            gathered.add(number)
            results += gathered.poll()
        results += gathered.flush()
    assert results == [f"delivered {number}" for number in range(3 * MAX_ITEMS + 5)]
    assert [len(chunk) for chunk in post.chunks] == [MAX_ITEMS, MAX_ITEMS, MAX_ITEMS, 5]


def test_large_things_are_sent_off_sooner(post):
    with chunks(post, size=lambda item: 3_000_000) as gathered:
        for number in range(4):
            gathered.add(number)
            list(gathered.poll())
        list(gathered.flush())
    assert post.chunks == [[0, 1], [2, 3]]


def test_old_things_are_sent_off_however_few(post):
    clock = FakeClock()
    with chunks(post, clock=clock) as gathered:
        gathered.add(1)
        clock.advance(MAX_AGE_S - 1)
        list(gathered.poll())
        clock.advance(2)
        list(gathered.poll())
        gathered.add(2)  # is not old because the first was
        list(gathered.poll())
        list(gathered.flush())
    assert post.chunks == [[1], [2]]


def test_a_caller_who_makes_more_than_can_be_delivered_waits(post):
    post.gate.clear()
    threading.Timer(0.1, post.gate.set).start()
    with chunks(post) as gathered:
        results = []
        for number in range(4 * MAX_ITEMS):
            gathered.add(number)
            results += gathered.poll()
        assert results  # the fourth chunk was not sent before the first was taken
        results += gathered.flush()
    assert len(results) == 4 * MAX_ITEMS


def test_what_a_delivery_raises_comes_out(post):
    post.failures = [RuntimeError("the post is closed")]
    with chunks(post) as gathered:
        gathered.add(1)
        with pytest.raises(RuntimeError, match="closed"):
            list(gathered.flush())


def test_nothing_gathered_is_nothing_sent(post):
    with chunks(post) as gathered:
        assert list(gathered.poll()) == list(gathered.flush()) == []
    assert post.chunks == []
