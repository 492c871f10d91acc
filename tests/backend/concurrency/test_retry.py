"""Calls that outlast an outage, and those that are given up."""

import threading
import time

import pytest

from backend.concurrency.retry import ATTEMPTS, OutageError, OutageRetry, Stopped
from backend.errors import ImageError, Kind, Reason, RetryLater
from tests.support.fake_project import away
from tests.support.fakes import FakeClock


class Script:
    """Raises or returns one thing after the other."""

    def __init__(self, *steps):
        self.steps, self.calls = list(steps), 0

    def __call__(self):
        self.calls += 1
        step = self.steps.pop(0)
        if callable(step):
            step = step()
        if isinstance(step, Exception):
            raise step
        return step


def patience(stop=None, **options):
    return OutageRetry(stop or threading.Event(), **({"first_wait_s": 0.001, "between_attempts_s": 0.001} | options))


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.kind is Kind.OUTAGE])
def test_a_call_is_repeated_until_the_outage_is_over(reason):
    script = Script(RetryLater("away", reason), RetryLater("away", reason), "back")
    assert patience().call(script) == "back"


def test_an_outage_is_not_waited_for_for_ever():
    clock = FakeClock()

    def fail():
        clock.advance(100)
        raise away()

    with pytest.raises(OutageError, match="for 10 minutes: Label Studio cannot be reached") as caught:
        patience(lasts_s=600, clock=clock).call(fail)
    assert caught.value.reason is Reason.LABEL_STUDIO_UNREACHABLE
    assert clock.now == 1700


def test_the_error_of_a_short_retry_names_its_seconds():
    clock = FakeClock()

    def fail():
        clock.advance(10)
        raise away()

    with pytest.raises(OutageError, match="for 5 seconds: Label Studio cannot be reached"):
        patience(lasts_s=5, clock=clock).call(fail)


def test_a_long_wait_before_the_first_failure_takes_nothing_from_patience():
    clock = FakeClock()

    def late():
        clock.advance(10_000)
        return away()

    assert patience(clock=clock).call(Script(late, "back")) == "back"


@pytest.mark.parametrize("error", [ImageError("broken"), RetryLater("no such host", Reason.IMAGE_FETCH_FAILED)])
def test_what_is_no_outage_is_raised_at_once(error):
    script = Script(error)
    with pytest.raises(type(error)):
        patience().call(script)
    assert script.calls == 1


def test_a_server_that_names_a_wait_is_not_asked_sooner():
    started = time.monotonic()
    patience().call(Script(away(retry_after_s=0.2), "back"))
    assert time.monotonic() - started >= 0.2


def test_stop_ends_the_wait():
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        patience(stop, first_wait_s=60).call(Script(away(), "back"))
    assert time.monotonic() - started < 10


def test_a_call_that_succeeds_is_made_even_after_stop():
    stop = threading.Event()
    stop.set()
    assert patience(stop).call(Script("done")) == "done"


def test_the_check_raises_once_the_run_must_end():
    stop = threading.Event()
    patience(stop).raise_if_stopped()
    stop.set()
    with pytest.raises(Stopped):
        patience(stop).raise_if_stopped()


def test_an_image_that_cannot_be_fetched_is_tried_a_few_times():
    failures = [RetryLater("no such host", Reason.IMAGE_FETCH_FAILED) for _ in range(ATTEMPTS)]
    script = Script(*failures)
    with pytest.raises(RetryLater) as caught:
        patience().call_for_image(script, lambda: None)
    assert not isinstance(caught.value, OutageError)
    assert script.calls == ATTEMPTS


def test_an_image_that_label_studio_could_not_give_is_asked_for_again_when_that_is_back():
    look = Script(away(), away(), "1.23.2")
    script = Script(RetryLater("refused", Reason.IMAGE_FETCH_FAILED), "made")
    assert patience().call_for_image(script, look) == "made"
    assert look.calls == 3


def test_a_broken_image_is_not_tried_again():
    script = Script(ImageError("broken"))
    with pytest.raises(ImageError):
        patience().call_for_image(script, lambda: None)
    assert script.calls == 1
