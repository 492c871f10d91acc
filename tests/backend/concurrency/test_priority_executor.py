"""Fetches that an annotator waits for come first and have threads of their own; bulk work takes the others."""

import threading

import pytest

from backend.concurrency.priority_executor import PriorityExecutor
from backend.errors import RetryLater
from backend.types import Priority
from tests.support.service import wait_until

SOON_S = 20.0
INTERACTIVE, PREFETCH, BULK = Priority


class Site:
    """Fetches that wait at their gates; ``started`` has the names of those that run or ran."""

    def __init__(self, fetchers):
        self.fetchers, self.started, self.gates = fetchers, [], {}

    def fetch(self, name, priority):
        gate = self.gates[name] = threading.Event()

        def work(task):
            self.started.append(name)
            assert gate.wait(SOON_S)

        return self.fetchers.submit(work, priority)

    def has_begun(self, *names):
        wait_until(lambda: sorted(self.started) == sorted(names))

    def let_go(self, *names):
        for name in names:
            self.gates[name].set()


@pytest.fixture
def open_site():
    sites = []

    def build(threads=3, reserved=1):
        sites.append(Site(PriorityExecutor(threads, reserved)))
        return sites[-1]

    yield build
    for site in sites:
        site.let_go(*site.gates)
        site.fetchers.close()


def test_bulk_work_leaves_threads_to_work_that_an_annotator_waits_for(open_site):
    site = open_site(threads=3, reserved=1)
    for number in range(5):
        site.fetch(f"bulk {number}", BULK)
    site.has_begun("bulk 0", "bulk 1")
    site.fetch("click", INTERACTIVE)
    site.has_begun("bulk 0", "bulk 1", "click")
    site.let_go("click")
    site.let_go("bulk 0")
    site.has_begun("bulk 0", "bulk 1", "click", "bulk 2")


def test_what_is_encoded_ahead_takes_no_spared_place_either(open_site):
    site = open_site(threads=2, reserved=1)
    site.fetch("ahead 0", PREFETCH)
    site.fetch("ahead 1", PREFETCH)
    site.fetch("click", INTERACTIVE)
    site.has_begun("ahead 0", "click")


def test_work_that_an_annotator_waits_for_may_take_every_thread(open_site):
    site = open_site(threads=3, reserved=1)
    for name in "abcd":
        site.fetch(name, INTERACTIVE)
    site.has_begun("a", "b", "c")
    site.let_go("b")
    site.has_begun("a", "b", "c", "d")


def test_the_urgent_ones_go_first_and_equals_in_the_order_in_which_they_came(open_site):
    site = open_site(threads=1, reserved=0)
    site.fetch("first", BULK)
    site.has_begun("first")
    for name, priority in (("bulk 0", BULK), ("bulk 1", BULK), ("ahead", PREFETCH), ("click", INTERACTIVE)):
        site.fetch(name, priority)
    site.let_go(*site.gates)
    wait_until(lambda: len(site.started) == 5)
    assert site.started == ["first", "click", "ahead", "bulk 0", "bulk 1"]


def test_bulk_work_that_an_annotator_begins_to_wait_for_goes_first(open_site):
    site = open_site(threads=2, reserved=1)
    fetches = {name: site.fetch(name, BULK) for name in ("bulk 0", "bulk 1", "bulk 2")}
    site.has_begun("bulk 0")
    site.fetchers.promote(fetches["bulk 2"], INTERACTIVE)
    site.has_begun("bulk 0", "bulk 2")
    site.fetchers.promote(fetches["bulk 0"], INTERACTIVE)  # it has begun, there is nothing to be gained
    site.fetchers.promote(fetches["bulk 2"], BULK)  # its priority is not lowered
    site.let_go("bulk 0", "bulk 2")
    site.has_begun("bulk 0", "bulk 1", "bulk 2")


def test_a_place_that_a_click_leaves_is_no_place_for_bulk_work(open_site):
    site = open_site(threads=2, reserved=1)
    site.fetch("bulk 0", BULK)
    site.fetch("click", INTERACTIVE)
    site.has_begun("bulk 0", "click")
    site.fetch("bulk 1", BULK)
    site.let_go("click")
    site.fetch("next click", INTERACTIVE)
    site.has_begun("bulk 0", "click", "next click")


def test_bulk_work_that_waits_goes_on_when_clicks_have_been_served(open_site):
    site = open_site(threads=2, reserved=1)
    names = [f"bulk {number}" for number in range(20)] + [f"click {number}" for number in range(20)]
    for name in names:
        site.fetch(name, INTERACTIVE if "click" in name else BULK)
    site.let_go(*names)
    site.has_begun(*names)


def test_a_defect_of_one_fetch_is_its_result_and_leaves_the_next_ones_their_place(open_site):
    site = open_site(threads=1, reserved=0)
    defect = site.fetchers.submit(lambda task: 1 / 0, BULK)
    site.fetch("next", BULK)
    site.has_begun("next")
    assert isinstance(defect.future.exception(SOON_S), ZeroDivisionError)


def test_closing_drops_what_waits_ends_what_runs_and_takes_no_more():
    before = set(threading.enumerate())
    site = Site(PriorityExecutor(threads=2, reserved=1))
    fetches = [site.fetch(name, BULK) for name in ("running", "waiting")]
    site.has_begun("running")
    closing = threading.Thread(target=site.fetchers.close)
    closing.start()
    assert isinstance(fetches[1].future.exception(SOON_S), RetryLater)
    assert closing.is_alive()
    site.let_go("running", "waiting")
    closing.join(SOON_S)
    late = site.fetch("late", INTERACTIVE)
    site.fetchers.promote(fetches[1], INTERACTIVE)
    assert site.started == ["running"]
    assert isinstance(late.future.exception(SOON_S), RetryLater)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("threads", "reserved"), [(0, 0), (2, 2), (1, -1)])
def test_zero_threads_are_refused(threads, reserved):
    with pytest.raises(ValueError, match="expected"):
        PriorityExecutor(threads, reserved)
