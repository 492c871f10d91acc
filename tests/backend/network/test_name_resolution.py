"""Names are resolved within a fetch's time, and look-ups that hang are few."""

import threading
import time

import pytest

from backend.errors import Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource, Route
from backend.label_studio.http import LabelStudioHttp
from backend.network.name_resolution import Resolver
from backend.types import ImageRef


@pytest.fixture
def hanging():
    """A function that resolves nothing until the test is over."""
    over, started = threading.Event(), []

    def resolve(host, port):
        started.append(host)
        over.wait(20)
        raise OSError("over")

    resolve.started = started
    yield resolve
    over.set()


def test_a_look_up_that_hangs_ends_with_the_fetchs_time(hanging):
    client = LabelStudioHttp("http://localhost:9", None)
    limits = FetchLimits(timeout_s=0.2)
    source = ImageSource(client, AddressPolicy(Origin.of(client.url)), limits, route=Route(hanging))
    started = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        source.fetch(ImageRef("http://slow.example.com/a.png"))
    assert time.monotonic() - started < 2
    assert caught.value.reason is Reason.IMAGE_FETCH_FAILED
    assert "slow.example.com" in str(caught.value)
    assert "PADDLE_SAM_FETCH_TIMEOUT_S" in str(caught.value)


def test_no_more_than_a_few_look_ups_hang(hanging):
    resolver = Resolver(hanging, at_once=2)
    for number in range(5):
        with pytest.raises(TimeoutError):
            resolver.addresses(f"host{number}", 80, 0.02)
    assert hanging.started == ["host0", "host1"]


def test_what_is_found_is_passed_on_and_so_is_what_fails():
    def resolve(host, port):
        if host == "there":
            return ["10.0.0.1"]
        raise OSError("not there")

    resolver = Resolver(resolve, at_once=1)
    for _ in range(3):
        assert resolver.addresses("there", 80, 5) == ["10.0.0.1"]
        with pytest.raises(OSError, match="not there"):
            resolver.addresses("elsewhere", 80, 5)
