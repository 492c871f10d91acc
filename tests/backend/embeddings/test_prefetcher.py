"""Images ahead of their clicks: a few at a time, the newest list first, and no failure stops the next one."""

import threading
from concurrent.futures import Future

import pytest

from backend.embeddings.prefetcher import IN_PROGRESS, MAX_WAITING, MAX_WAITING_BYTES, Prefetcher
from backend.errors import ImageError
from backend.metrics import Metrics
from backend.types import ImageRef
from tests.support.service import wait_until


def ref(uri):
    return ImageRef(uri, 1, 1)


class Setup:
    """A prefetcher, and what it has begun; an image named ``no`` has nothing to be waited for."""

    def __init__(self):
        self.metrics, self.started, self.futures = Metrics(), [], {}
        self.prefetcher = Prefetcher(self.begin, self.metrics)

    def begin(self, ref):
        self.started.append(ref.uri)
        if ref.uri == "odd":
            raise ZeroDivisionError("a defect")
        if ref.uri == "no":
            return None
        return self.futures.setdefault(ref.uri, Future())

    def add(self, *uris):
        self.prefetcher.add(map(ref, uris))


@pytest.fixture
def setup():
    setup = Setup()
    yield setup
    setup.prefetcher.close()


def test_a_few_are_begun_and_the_next_one_when_one_of_them_ends(setup):
    names = [str(number) for number in range(IN_PROGRESS + 2)]
    setup.add(*names)
    setup.prefetcher.start()
    wait_until(lambda: len(setup.started) == IN_PROGRESS)
    assert setup.started == names[:IN_PROGRESS]
    setup.futures["2"].set_result(None)
    wait_until(lambda: len(setup.started) == IN_PROGRESS + 1)
    assert setup.started[-1] == names[IN_PROGRESS]
    assert len(setup.prefetcher) == 1


def test_the_newest_list_comes_first_and_an_image_of_both_once(setup):
    setup.add("a", "b", "no")
    setup.add("c", "a")
    setup.prefetcher.start()
    wait_until(lambda: len(setup.started) == 4)
    assert setup.started == ["c", "a", "b", "no"]


def test_failures_and_defects_are_noted_and_stop_nothing(setup, caplog):
    setup.add("odd", "a", "no", "b")
    setup.prefetcher.start()
    wait_until(lambda: len(setup.started) == 4)
    setup.futures["a"].set_exception(ImageError("bad"))
    count = setup.metrics.registry.get_sample_value
    wait_until(lambda: count("paddle_sam_background_failures_total", {"reason": "image_unreadable"}) == 1)
    assert "event=prefetch_defect" in caplog.text


def test_beyond_the_limits_the_oldest_are_dropped(setup):
    setup.add(*(f"old {number}" for number in range(MAX_WAITING)))
    setup.add(*(f"new {number}" for number in range(2 * MAX_WAITING)))
    assert len(setup.prefetcher) == MAX_WAITING
    setup.add("x" * (MAX_WAITING_BYTES // 2 + 1), "y" * (MAX_WAITING_BYTES // 2 + 1))
    assert len(setup.prefetcher) == 1


def test_what_waits_is_bounded_by_the_bytes_of_its_addresses(setup):
    setup.add(*(f"data:{number}" + "A" * (MAX_WAITING_BYTES // 4) for number in range(10)))
    assert len(setup.prefetcher) == 3


def test_closing_drops_what_waits_and_ends_the_thread(setup):
    before = set(threading.enumerate())
    setup.prefetcher.start()
    setup.prefetcher.close()
    setup.prefetcher.close()
    setup.prefetcher.start()
    setup.add("a")
    assert setup.started == []
    assert set(threading.enumerate()) <= before
