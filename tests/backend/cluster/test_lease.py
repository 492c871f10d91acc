"""Leases: one holder, renewed while it lives, and gone soon after it has died."""

import threading
import time

import pytest

from backend.cluster.content_index import LookupResult, SharedContentIndex, SharedRecord
from backend.cluster.keys import Keys
from backend.cluster.lease import Leases, attempts_key
from backend.cluster.monitor import ClusterMonitor
from backend.cluster.queues import JobQueues, JobState
from backend.embeddings.content_index import source_key
from backend.images.fetch import Validators
from backend.types import ImageRef, Priority
from tests.support.cluster import eventually
from tests.support.redis_server import needs_redis

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")
PLACE = source_key(ImageRef("/a.png", 1, 1))
NOTE = SharedRecord("0" * 64, Validators("tag"), immutable=False)


@needs_redis
def test_a_lease_has_one_holder_and_is_renewed_while_held(leases):
    lease = leases.acquire("a")
    assert lease is not None
    time.sleep(1.2)  # more than twice its time
    assert leases.acquire("a") is None
    leases.release(lease)
    assert leases.acquire("a") is not None


@needs_redis
@pytest.mark.parametrize("has_begun", [True, False])
def test_a_lease_whose_holder_died_lapses_and_its_attempt_counts_if_it_had_begun(link, leases, has_begun):
    dead = Leases(link, lease_s=0.3)  # never started, so it renews nothing
    lease = dead.acquire("a")
    assert lease is not None
    if has_begun:
        dead.count_attempt(lease)
    assert leases.acquire("a") is None
    taken = []
    eventually(lambda: taken.append(leases.acquire("a")) or taken[-1] is not None, 5)
    assert taken[-1].attempt == (2 if has_begun else 1)
    dead.count_attempt(lease)
    leases.release(taken[-1])
    assert leases.acquire("a").attempt == 1, "what no longer holds the lease counts nothing"


@needs_redis
def test_a_lease_that_ends_in_order_begins_the_count_of_attempts_again(leases):
    for _ in range(3):
        with leases.acquire("a") as lease:
            assert lease.attempt == 1
            leases.count_attempt(lease)


@needs_redis
def test_a_lease_that_is_released_while_it_is_being_renewed_stays_released(link, redis_server):
    leases = Leases(link, renew_every_s=0.0001)
    leases.start()
    with redis_server.client() as client:
        for _ in range(10):
            for lease in [leases.acquire(f"lease {number}") for number in range(20)]:
                leases.release(lease)
            time.sleep(0.02)
            assert list(client.scan_iter("lease *")) == []
    leases.close()


@needs_redis
def test_the_end_of_a_lapsed_lease_leaves_its_successor_in_the_same_process(leases, redis_server):
    lapsed = leases.acquire("a")
    with redis_server.client() as client:
        client.delete("a")
    successor = leases.acquire("a")
    leases.release(lapsed)
    time.sleep(1.2)  # more than twice its time
    assert leases.acquire("a") is None
    leases.release(successor)
    assert leases.acquire("a") is not None


@needs_redis
def test_the_holder_of_a_lease_learns_that_a_click_waits_for_it_here_or_elsewhere(link, leases):
    urgent, elsewhere = threading.Event(), Leases(link)
    lease = leases.acquire("a")
    lease.on_urgent = urgent.set
    leases.expedite("a")
    assert urgent.is_set()
    urgent.clear()
    elsewhere.expedite("a")
    assert urgent.wait(5)
    leases.release(lease)


@needs_redis
def test_a_lease_that_redis_lost_in_a_restart_is_written_again(link, leases, redis_server):
    lease = leases.acquire("a")
    with redis_server.client() as client:
        client.flushall()
        eventually(lambda: client.get("a") is not None, 5)
        assert client.get("a") == lease.token.encode()


@needs_redis
@pytest.mark.parametrize("end", [{}, {"px": 86_400_000}], ids=["never", "tomorrow"])
def test_a_lease_that_does_not_lapse_by_itself_is_made_to(link, leases, redis_server, end):
    """From a restored dump, or written by hand: the only worker would leave that image alone for ever."""
    with redis_server.client() as client:
        client.set("a", "somebody", **end)
        assert leases.acquire("a") is None, "another process may hold and renew it"
        assert 0 < client.pttl("a") <= 5000
        client.pexpire("a", 100)
    eventually(lambda: leases.acquire("a") is not None, 5)


@needs_redis
def test_keys_of_another_type_than_ours_stop_nothing(link, leases, redis_server):
    """Whatever lies at our names is made room for, or read as not there."""
    contents, queues = SharedContentIndex(link, KEYS), JobQueues(link, KEYS)
    cluster, ref = ClusterMonitor(link, KEYS, queues), ImageRef("/a.png", 1, 1)
    marker = KEYS.enqueued(PLACE, Priority.INTERACTIVE)
    with redis_server.client() as client:
        for name in (
            KEYS.lease(PLACE),
            attempts_key(KEYS.lease(PLACE)),
            marker,
            KEYS.content(PLACE),
            KEYS.failure(PLACE),
        ):
            client.hset(name, "a", "b")
        for name in (KEYS.counts, KEYS.workers):
            client.set(name, "x")
    assert contents.get(PLACE) == LookupResult(None, None)
    assert queues.job_states([(PLACE, Priority.INTERACTIVE)]) == [JobState.LEASED], "until a worker acquires the lease"
    with leases.acquire(KEYS.lease(PLACE), marker_key=marker, job_id="1") as lease:
        assert lease.attempt == 1
        contents.put(PLACE, NOTE, lease)
    assert contents.get(PLACE).record.digest == NOTE.digest
    assert queues.enqueue(ref, PLACE, Priority.INTERACTIVE)
    assert cluster.alive() == ()
    cluster.heartbeat(f"host:1 {KEYS.model}")
    assert cluster.look().worker_names == ("host:1",)
    assert not link.last_error


@needs_redis
def test_a_count_of_attempts_that_is_no_number_starts_over(leases, redis_server):
    with redis_server.client() as client:
        client.set(attempts_key("a"), "many")
    with leases.acquire("a") as lease:
        assert lease.attempt == 1


@needs_redis
def test_many_threads_want_one_lease_and_one_gets_it(leases):
    acquired = []
    threads = [threading.Thread(target=lambda: acquired.append(leases.acquire("a"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in acquired) == 1
