"""The job queues: what a worker takes from Redis, however it got there."""

import json
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.cluster.keys import Keys
from backend.cluster.parts import ClusterParts
from backend.cluster.queues import MAX_JOB_BYTES, JobState, TakenJob, dump, parse
from backend.embeddings.content_index import source_key
from backend.errors import ImageError, Reason, RequestError
from backend.types import ImageRef, Priority
from tests.support.redis_server import needs_redis

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")
REF = ImageRef("/a.png", 1, 1)
INTERACTIVE, PREFETCH, BULK = Priority


@pytest.fixture
def parts(redis_server):
    parts = ClusterParts.connect(redis_server.url, KEYS.prefix, KEYS.model_version)
    yield parts
    parts.link.close()


def take(parts, *priorities):
    return parts.queues.take(priorities or tuple(Priority), 1)


def packed(value):
    return zlib.compress(json.dumps(value).encode())


def push(server, fields, job_id="1" * 32):
    """Put a job into the interactive queue, as anything that can write to Redis may."""
    with server.client() as client:
        if fields:
            client.hset(f"rq:job:{job_id}", mapping=fields)
        client.rpush(f"rq:queue:{KEYS.queue(INTERACTIVE)}", job_id)


@needs_redis
def test_jobs_are_taken_in_the_order_of_their_priorities_and_leave_nothing_behind(parts, redis_server):
    for priority in reversed(Priority):
        assert parts.queues.enqueue(REF, source_key(REF), priority)
        assert not parts.queues.enqueue(REF, source_key(REF), priority), "it is enqueued"
    assert [take(parts).priority for _ in Priority] == [INTERACTIVE, PREFETCH, BULK]
    with redis_server.client() as client:
        assert not [key for key in client.scan_iter("rq:*") if key != b"rq:queues"]


@needs_redis
def test_a_job_of_another_priority_is_left_to_others(parts, redis_server):
    parts.queues.enqueue(REF, source_key(REF), BULK)
    assert take(parts, INTERACTIVE) is None
    parts.queues.enqueue(REF, source_key(REF), INTERACTIVE)
    assert take(parts, INTERACTIVE).ref == REF
    with redis_server.client() as client:
        assert not list(client.scan_iter("rq:*intermediate*")), "a list that only RQ's own workers clear"


@needs_redis
def test_the_state_of_a_job_follows_it_from_its_queue_to_its_lease(parts):
    def state():
        (state,) = parts.queues.job_states([(source_key(REF), INTERACTIVE)])
        return state

    assert state() is JobState.LOST
    parts.queues.enqueue(REF, source_key(REF), INTERACTIVE)
    assert state() is JobState.QUEUED
    job = take(parts)
    assert state() is JobState.TAKEN
    marker = KEYS.enqueued(source_key(REF), INTERACTIVE)
    with parts.leases.acquire(KEYS.lease(source_key(REF)), marker_key=marker, job_id=job.job_id):
        assert state() is JobState.LEASED
    assert state() is JobState.LOST


@needs_redis
def test_nothing_but_the_argument_of_a_job_is_read(parts, redis_server):
    fields = {
        "data": packed(["os.abort", "os", [dump(REF)], {"more": 1}]),
        "status": "odd",
        "enqueued_at": "yesterday",
        "success_callback_name": "os.abort",
        "failure_callback_name": "os.abort",
        "stopped_callback_name": "os.abort",
        "webhooks": '[{"url": "http://169.254.169.254/", "statuses": ["finished"]}]',
        "repeats_left": "1000000",
        "retries_left": "1000000",
        "dependency_ids": '["x"]',
        "rate_limit_key": "x",
        "timeout": "999999",
        "result_ttl": "-1",
        "failure_ttl": "-1",
    }
    push(redis_server, fields)
    assert take(parts) == TakenJob(REF, INTERACTIVE, "1" * 32)
    with redis_server.client() as client:
        assert not client.exists("rq:job:" + "1" * 32)


@needs_redis
@pytest.mark.parametrize(
    "fields",
    [
        {"data": ""},
        {"status": "queued"},
        {"data": "not packed"},
        {"data": packed(["f", None, [dump(REF)], {}])[:-4] + b"\0\0\0\0"},
        {"data": packed({"uri": "/a.png"})},
        {"data": packed(["f", None, [], {}])},
        {"data": packed("A" * (2 * MAX_JOB_BYTES + 10))},
    ],
    ids=["empty", "no data", "not packed", "damaged", "no call", "no argument", "a bomb"],
)
def test_what_does_not_look_like_a_job_is_refused_and_dropped(parts, redis_server, fields):
    push(redis_server, fields)
    with pytest.raises(RequestError):
        take(parts)
    with redis_server.client() as client:
        assert not client.exists("rq:job:" + "1" * 32)
    assert take(parts) is None


@needs_redis
def test_an_entry_without_a_job_is_as_good_as_none(parts, redis_server):
    push(redis_server, {})
    parts.queues.enqueue(REF, source_key(REF), INTERACTIVE)
    assert take(parts).ref == REF


# What jobs look like


@given(
    uri=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    numbers=st.tuples(*[st.none() | st.integers(-(2**62), 2**62)] * 3),
)
def test_a_job_survives_the_trip_through_redis(uri, numbers):
    ref = ImageRef(uri, *numbers)
    assert parse([dump(ref)]) == ref


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_lies_in_a_queue_is_a_job_or_refused(value):
    for arguments in (value, [value], [json.dumps(value)]):
        with pytest.raises(RequestError, match="job: "):
            parse(arguments)


@pytest.mark.parametrize(
    "argument",
    [
        '{"uri": ""}',
        '{"uri": "a", "task_id": "1"}',
        '{"uri": "a", "task_id": 1.5}',
        '{"uri": "a", "command": "rm"}',
        '{"uri": ["a"]}',
        '{"uri": "a"',
        " " * (MAX_JOB_BYTES + 1),
    ],
)
def test_a_job_of_another_shape_is_refused(argument):
    with pytest.raises(RequestError):
        parse([argument])


def test_an_image_too_large_for_a_job_is_refused_with_the_reason():
    with pytest.raises(ImageError) as caught:
        dump(ImageRef("data:image/png;base64," + "A" * MAX_JOB_BYTES))
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
