"""Slow fetches of bulk work make way for clicks, go on meanwhile, and are not begun twice."""

import threading

import pytest

from backend.cluster.yielding_source import DETACHED_S, MAX_DETACHED, Preempted, PreemptibleFetcher
from backend.errors import ImageError, Reason, RetryLater
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority
from tests.support.fakes import FakeClock

INTERACTIVE, PREFETCH, BULK = Priority


class Slow:
    """Answers with an address's own name once it is let go."""

    def __init__(self):
        self.asked, self.gate, self.error = [], threading.Event(), None

    def fetch(self, ref, known=None, /):
        self.asked.append((ref.uri, known))
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return Fetched(ref.uri.encode())


class Setup:
    def __init__(self):
        self.slow, self.clock, self.urgent = Slow(), FakeClock(), True
        self.source = PreemptibleFetcher(self.slow, self.is_urgent, poll_every_s=0.01, clock=self.clock)

    def is_urgent(self):
        if isinstance(self.urgent, Exception):
            raise self.urgent
        return self.urgent

    def fetch(self, name, priority, known=None):
        return self.source.fetch(ImageRef(name, 1, 1), known, priority)

    def yields(self, name, priority=BULK, known=None):
        with pytest.raises(Preempted) as caught:
            self.fetch(name, priority, known)
        return caught.value.retry


@pytest.fixture
def setup():
    setup = Setup()
    yield setup
    setup.slow.gate.set()


@pytest.mark.parametrize("priority", [PREFETCH, BULK])
@pytest.mark.parametrize("then", [INTERACTIVE, PREFETCH, BULK])
def test_a_fetch_that_made_way_goes_on_and_is_found_by_whoever_comes_next(setup, priority, then):
    assert setup.yields("a", priority)
    setup.slow.gate.set()
    assert setup.fetch("a", then) == Fetched(b"a")
    assert setup.slow.asked == [("a", None)]


def test_a_click_gives_way_to_nobody(setup):
    threading.Timer(0.1, setup.slow.gate.set).start()
    assert setup.fetch("a", INTERACTIVE) == Fetched(b"a")


@pytest.mark.parametrize("urgent", [False, RetryLater("Redis is away", Reason.STORE_UNAVAILABLE)])
def test_where_nobody_is_known_to_wait_a_fetch_is_seen_through(setup, urgent):
    setup.urgent = urgent
    threading.Timer(0.1, setup.slow.gate.set).start()
    assert setup.fetch("a", BULK) == Fetched(b"a")


def test_what_is_fetched_at_once_makes_no_way(setup):
    setup.slow.gate.set()
    setup.source = PreemptibleFetcher(setup.slow, setup.is_urgent, poll_every_s=20)
    assert setup.fetch("a", BULK) == Fetched(b"a")


def test_a_failure_is_told_to_whoever_comes_next_and_not_again(setup):
    setup.yields("a")
    setup.slow.error = ImageError("not there", Reason.IMAGE_NOT_FOUND)
    setup.slow.gate.set()
    with pytest.raises(ImageError):
        setup.fetch("a", BULK)
    setup.slow.error = None
    assert setup.fetch("a", BULK) == Fetched(b"a")


@pytest.mark.timeout(30)
def test_a_fetch_that_ends_with_a_timeout_of_its_own_is_not_waited_for_again(setup):
    setup.slow.error, setup.urgent = TimeoutError("a slip"), False
    setup.slow.gate.set()
    with pytest.raises(TimeoutError, match="a slip"):
        setup.fetch("a", BULK)


def test_no_more_than_a_few_fetches_go_on_aside(setup):
    for number in range(MAX_DETACHED):
        setup.yields(f"aside {number}")
    threading.Timer(0.1, setup.slow.gate.set).start()
    assert setup.fetch("one more", BULK) == Fetched(b"one more")


def test_what_was_set_aside_too_long_ago_or_was_asked_otherwise_is_fetched_anew(setup):
    setup.yields("a")
    setup.yields("b", known=Validators("1"))
    setup.slow.gate.set()
    setup.fetch("b", BULK, Validators("2"))
    setup.clock.advance(DETACHED_S + 1)
    setup.fetch("a", BULK)
    assert [name for name, _ in setup.slow.asked] == ["a", "b", "b", "a"]
