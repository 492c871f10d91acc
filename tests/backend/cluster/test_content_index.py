"""What Redis knows of addresses: contents, failures, and events."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.cluster.content_index import LookupResult, SharedContentIndex, SharedRecord, parse_event
from backend.cluster.keys import Keys
from backend.cluster.lease import Leases
from backend.embeddings.content_index import source_key
from backend.errors import AccessError, BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images.fetch import Validators
from backend.types import ImageRef
from tests.support.redis_server import needs_redis

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")
PLACE = source_key(ImageRef("/a.png", 1, 1))
NOTE = SharedRecord("0" * 64, Validators("tag"), immutable=False)


@needs_redis
def test_what_a_holder_that_was_stopped_for_a_while_writes_is_not_kept(link, redis_server):
    contents, slow = SharedContentIndex(link, KEYS), Leases(link, lease_s=0.2)
    old = slow.acquire(KEYS.lease(PLACE))
    time.sleep(0.3)
    with slow.acquire(KEYS.lease(PLACE)) as new:
        contents.put(PLACE, NOTE, new)
        contents.put(PLACE, SharedRecord("1" * 64, Validators(), immutable=False), old)
        contents.fail(PLACE, ImageError("late"), old)
    assert contents.get(PLACE).record.digest == "0" * 64
    assert contents.get(PLACE).failure is None
    slow.release(old)


@needs_redis
@pytest.mark.parametrize("end", [{}, {"px": 86_400_000}], ids=["never", "tomorrow"])
def test_a_note_or_failure_without_an_end_of_ours_is_as_good_as_none(link, leases, redis_server, end):
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.put(PLACE, NOTE, lease)
        contents.fail(PLACE, RetryLater("x", Reason.IMAGE_FETCH_FAILED), lease)
    with redis_server.client() as client:
        for name in (KEYS.content(PLACE), KEYS.failure(PLACE)):
            client.set(name, client.get(name), **end)
    assert contents.get(PLACE) == LookupResult(None, None)


@needs_redis
def test_a_note_is_as_old_as_the_time_that_redis_has_taken_off_it(link, leases, redis_server):
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.put(PLACE, NOTE, lease)
    assert contents.get(PLACE).record.is_fresh
    with redis_server.client() as client:
        client.pexpire(KEYS.content(PLACE), 500_000)
    record = contents.get(PLACE).record
    assert 100 <= record.age_s < 110
    assert not record.is_fresh


@needs_redis
@pytest.mark.parametrize(
    ("error", "lasts_s"),
    [
        (ImageError("x", Reason.IMAGE_TOO_LARGE), 30),
        (AccessError("x"), 30),
        (RetryLater("x", Reason.IMAGE_FETCH_FAILED), 3),
        (RequestError("x"), 30),
        (BackendError("x"), 30),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_keeps_its_kind_and_reason_and_is_remembered_for_a_while(link, leases, redis_server, error, lasts_s):
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.fail(PLACE, error, lease)
    failure = contents.get(PLACE).failure
    assert (type(failure), failure.reason, str(failure)) == (type(error), error.reason, "x")
    with redis_server.client() as client:
        assert 0 < client.pttl(KEYS.failure(PLACE)) <= lasts_s * 1000


@needs_redis
@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[1]", b"\xff", b'{"digest":"zz","etag":"","last_modified":"","immutable":true}']
)
def test_a_foreign_entry_about_an_address_is_as_good_as_none(link, redis_server, value):
    with redis_server.client() as client:
        client.set(KEYS.content(PLACE), value, ex=500)
        client.set(KEYS.failure(PLACE), value, ex=500)
    entry = SharedContentIndex(link, KEYS).get(PLACE)
    assert (entry.record, entry.failure) == (None, None)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_foreign_notice_is_as_good_as_none(data):
    assert parse_event(data) is None
