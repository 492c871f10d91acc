"""Embeddings in Redis: what is particular to that store, beside the contract in test_stores."""

import json
import logging
import shutil
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import LookupResult, SharedContentIndex, SharedRecord, parse_event
from backend.cluster.keys import Keys
from backend.cluster.lease import Leases, attempts_key
from backend.cluster.monitor import ClusterMonitor
from backend.cluster.queues import JobQueues, JobState
from backend.cluster.store import RedisStore
from backend.embeddings.content_index import source_key
from backend.embeddings.serialization import dump
from backend.embeddings.stores import EmbeddingKey
from backend.errors import AccessError, BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images.fetch import Validators
from backend.types import ImageRef, Priority, Secret
from tests.support.fakes import FakeClock, embedding, key, same
from tests.support.redis_server import RedisServer, free_port, needs_redis, redis_module_server, redis_server  # noqa: F401

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")
PLACE = source_key(ImageRef("/a.png", 1, 1))
NOTE = SharedRecord("0" * 64, Validators("tag"), immutable=False)


@pytest.fixture
def link(redis_server):  # noqa: F811
    link = RedisConnection(redis_server.url)
    yield link
    link.close()


@pytest.fixture
def store(link):
    return RedisStore(link, KEYS, 60.0)


@pytest.fixture
def leases(link):
    leases = Leases(link, lease_s=0.5, renew_every_s=0.1)
    leases.start()
    yield leases
    leases.close()


def eventually(condition, within_s=20.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


# Values


@needs_redis
def test_a_value_is_forgotten_after_its_time(link, redis_server):  # noqa: F811
    RedisStore(link, KEYS, 60.0).put(key(), embedding())
    with redis_server.client() as client:
        assert 59_000 < client.pttl(KEYS.embedding(key())) <= 60_000


@needs_redis
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: b"",
        lambda data: b"\x80\x04\x95cbuiltins\nexit\n(tR.",
        lambda data: data.replace(b"/3", b"/2", 1),
        lambda data: dump(embedding(), "another key", "float32"),
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["truncated", "empty", "pickle", "another version", "another key", "one bit"],
)
def test_what_is_not_a_whole_value_of_ours_is_a_miss_and_makes_room_for_one(store, redis_server, damage):  # noqa: F811
    store.put(key(), embedding())
    with redis_server.client() as client:
        client.set(KEYS.embedding(key()), damage(client.get(KEYS.embedding(key()))))
        assert store.get(key()) is None
        assert not client.exists(KEYS.embedding(key()))
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


@needs_redis
def test_a_key_of_another_type_is_a_miss(store, redis_server):  # noqa: F811
    with redis_server.client() as client:
        client.lpush(KEYS.embedding(key()), "x")
    assert store.get(key()) is None
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


@needs_redis
def test_an_embedding_of_another_shape_than_the_networks_is_a_miss_is_dropped_and_counted(link):
    dropped = []
    RedisStore(link, KEYS, 60.0).put(key(), embedding(shape=(4, 2, 2)))
    store = RedisStore(link, KEYS, 60.0, shape=(3, 8, 8), on_drop=dropped.append)
    assert store.get(key()) is None
    assert dropped == ["redis"]
    assert not store.holds(key())
    store.put(key(), embedding(shape=(3, 8, 8)))
    assert store.get(key()) is not None


@needs_redis
def test_an_embedding_without_an_end_gets_one(store, redis_server):  # noqa: F811
    """Redis lets nothing go that has none, however short room is."""
    store.put(key(), embedding())
    with redis_server.client() as client:
        client.persist(KEYS.embedding(key()))
        assert same(store.get(key()), embedding())
        assert 59_000 < client.pttl(KEYS.embedding(key())) <= 60_000


@needs_redis
def test_the_embeddings_of_this_installation_are_counted_whatever_their_model_and_nothing_else(link, redis_server):  # noqa: F811
    other = Keys("paddle-sam", "SAM-H@5e6f7a8b")
    for number in range(3):
        RedisStore(link, KEYS, 60.0).put(key(number), embedding())
    for number in range(2):
        one = EmbeddingKey(f"{number:064x}", other.model_version)
        RedisStore(link, other, 60.0).put(one, embedding())
    RedisStore(link, Keys("elsewhere", KEYS.model_version), 60.0).put(key(), embedding())
    with redis_server.client() as client:
        client.mset({f"cache:{number}": "x" for number in range(2500)} | {"paddle-sam:embedding": "x"})
    clock = FakeClock()
    store = RedisStore(link, KEYS, 60.0, clock=clock)
    assert store.stats()[0].entries == 5
    store.put(key(7), embedding())
    assert store.stats()[0].entries == 5, "counted anew only now and then"
    clock.advance(31)
    assert store.stats()[0].entries == 6


@needs_redis
def test_installations_with_other_prefixes_do_not_meet(link):
    RedisStore(link, KEYS, 60.0).put(key(), embedding())
    assert RedisStore(link, Keys("other", KEYS.model_version), 60.0).get(key()) is None


@needs_redis
def test_least_recently_used_embeddings_go_when_room_is_short_and_queues_stay(tmp_path):
    with RedisServer(tmp_path, maxmemory="6mb") as server:
        link = RedisConnection(server.url)
        store, big = RedisStore(link, KEYS, 60.0), embedding(shape=(64, 64, 64))
        with server.client() as client:
            client.rpush("rq:queue:ours", "job")
            for number in range(12):
                store.put(key(number), big)
            assert client.exists("rq:queue:ours")
        assert same(store.get(key(11)), big)
        assert sum(store.get(key(number)) is not None for number in range(12)) < 12
        link.close()


@needs_redis
def test_a_password_is_used_and_never_shown(tmp_path, caplog):
    with RedisServer(tmp_path, password="open-sesame") as server, caplog.at_level(logging.DEBUG):
        good, bad = (
            RedisConnection(server.url),
            RedisConnection(Secret(server.address.replace("open-sesame", "wrong-word"))),
        )
        RedisStore(good, KEYS, 60.0).put(key(), embedding())
        assert same(RedisStore(good, KEYS, 60.0).get(key()), embedding())
        with pytest.raises(RetryLater) as caught:
            bad.call(lambda client: client.ping())
        assert "invalid username-password" in str(caught.value)
        assert "wrong-word" not in str(caught.value) + caplog.text + bad.last_error
        good.close()
        bad.close()


@needs_redis
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the PATH to make a certificate")
def test_an_encrypted_connection_is_made_where_the_certificate_is_known_and_nowhere_else(tmp_path):
    private, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(private), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *names],
        check=True,
        capture_output=True,
    )
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(private)]
    with RedisServer(tmp_path, more=[*tls, "--tls-auth-clients", "no"]):
        known = RedisConnection(Secret(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"))
        unknown = RedisConnection(Secret(f"rediss://localhost:{port}/0"))
        RedisStore(known, KEYS, 60.0).put(key(), embedding())
        assert same(RedisStore(known, KEYS, 60.0).get(key()), embedding())
        with pytest.raises(RetryLater, match="certificate"):
            unknown.call(lambda client: client.ping())
        known.close()
        unknown.close()


# A Redis that is not well


def test_a_redis_that_is_not_there_is_asked_once_and_then_left_alone_for_a_moment():
    clock, asked = FakeClock(), []
    link = RedisConnection(Secret(f"redis://127.0.0.1:{free_port()}/0"), clock=clock)

    def work(client):
        asked.append(1)
        return client.ping()

    for _ in range(5):
        with pytest.raises(RetryLater) as caught:
            link.call(work)
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert len(asked) == 1
    assert link.is_down
    clock.advance(1)
    with pytest.raises(RetryLater):
        link.call(work)
    assert len(asked) == 2
    assert link.down_s == 1
    assert RedisStore(link, KEYS, 60.0).get(key()) is None
    RedisStore(link, KEYS, 60.0).put(key(), embedding())
    assert "cannot be reached" in RedisStore(link, KEYS, 60.0).stats()[0].trouble


@needs_redis
def test_a_redis_that_is_back_is_used_again(tmp_path):
    clock = FakeClock()
    with RedisServer(tmp_path) as server:
        link = RedisConnection(server.url, clock=clock)
        assert link.call(lambda client: client.ping())
        server.kill()
        with pytest.raises(RetryLater):
            link.call(lambda client: client.ping())
        server.start()
        clock.advance(1)
        assert link.call(lambda client: client.ping())
        assert (link.is_down, link.last_error) == (False, "")
        link.close()


@needs_redis
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_redis_that_refuses_to_write_is_still_read(tmp_path, trouble):
    with RedisServer(tmp_path) as server:
        link = RedisConnection(server.url)
        store = RedisStore(link, KEYS, 60.0)
        store.put(key(1), embedding())
        if trouble == "full":
            server.config(maxmemory_policy="noeviction", maxmemory="1")
        else:
            with server.client() as client:
                client.replicaof("127.0.0.1", free_port())
        store.put(key(2), embedding())
        assert not store.holds(key(2))
        assert "Redis refuses" in store.last_error
        assert same(store.get(key(1)), embedding())
        assert not link.is_down
        link.close()


# Leases


@needs_redis
def test_a_lease_has_one_holder_and_is_renewed_while_held(leases):
    lease = leases.acquire("a")
    assert lease is not None
    time.sleep(1.2)  # more than twice its time
    assert leases.acquire("a") is None
    leases.release(lease)
    assert leases.acquire("a") is not None


@needs_redis
def test_a_lease_whose_holder_died_lapses(link, leases):
    dead = Leases(link, lease_s=0.3)  # never started, so it renews nothing
    assert dead.acquire("a") is not None
    assert leases.acquire("a") is None
    taken = []
    eventually(lambda: taken.append(leases.acquire("a")) or taken[-1] is not None, 5)
    assert taken[-1].attempt == 2


@needs_redis
def test_a_lease_that_ends_in_order_begins_the_count_of_attempts_anew(leases):
    for _ in range(3):
        with leases.acquire("a") as lease:
            assert lease.attempt == 1


@needs_redis
def test_a_lease_that_is_released_while_it_is_being_renewed_stays_released(link, redis_server):  # noqa: F811
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
def test_a_lease_that_redis_lost_in_a_restart_is_written_anew(link, leases, redis_server):  # noqa: F811
    lease = leases.acquire("a")
    with redis_server.client() as client:
        client.flushall()
        eventually(lambda: client.get("a") is not None, 5)
        assert client.get("a") == lease.token.encode()


@needs_redis
def test_what_a_holder_that_was_stopped_for_a_while_writes_is_not_kept(link, redis_server):  # noqa: F811
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
def test_a_lease_that_does_not_lapse_by_itself_is_made_to(link, leases, redis_server, end):  # noqa: F811
    """From a restored dump, or written by hand: the only worker would leave that image alone for ever."""
    with redis_server.client() as client:
        client.set("a", "somebody", **end)
        assert leases.acquire("a") is None, "it may be somebody's, who renews it"
        assert 0 < client.pttl("a") <= 5000
        client.pexpire("a", 100)
    eventually(lambda: leases.acquire("a") is not None, 5)


@needs_redis
@pytest.mark.parametrize("end", [{}, {"px": 86_400_000}], ids=["never", "tomorrow"])
def test_a_note_or_failure_without_an_end_of_ours_is_as_good_as_none(link, leases, redis_server, end):  # noqa: F811
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.put(PLACE, NOTE, lease)
        contents.fail(PLACE, RetryLater("x", Reason.IMAGE_FETCH_FAILED), lease)
    with redis_server.client() as client:
        for name in (KEYS.content(PLACE), KEYS.failure(PLACE)):
            client.set(name, client.get(name), **end)
    assert contents.get(PLACE) == LookupResult(None, None)


@needs_redis
def test_keys_of_another_type_than_ours_stop_nothing(link, leases, redis_server):  # noqa: F811
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
def test_a_count_of_attempts_that_is_no_number_begins_anew(leases, redis_server):  # noqa: F811
    with redis_server.client() as client:
        client.set(attempts_key("a"), "many")
    with leases.acquire("a") as lease:
        assert lease.attempt == 1


@needs_redis
def test_many_threads_want_one_lease_and_one_gets_it(leases):
    found = []
    threads = [threading.Thread(target=lambda: found.append(leases.acquire("a"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in found) == 1


# What is known of addresses


@needs_redis
def test_a_note_is_as_old_as_the_time_that_redis_has_taken_off_it(link, leases, redis_server):  # noqa: F811
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.put(PLACE, NOTE, lease)
    assert contents.get(PLACE).record.is_fresh
    with redis_server.client() as client:
        client.pexpire(KEYS.content(PLACE), 500_000)
    found = contents.get(PLACE).record
    assert 100 <= found.age_s < 110
    assert not found.is_fresh


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
def test_a_failure_keeps_its_kind_and_reason_and_is_remembered_for_a_while(link, leases, redis_server, error, lasts_s):  # noqa: F811
    contents = SharedContentIndex(link, KEYS)
    with leases.acquire(KEYS.lease(PLACE)) as lease:
        contents.fail(PLACE, error, lease)
    found = contents.get(PLACE).failure
    assert (type(found), found.reason, str(found)) == (type(error), error.reason, "x")
    with redis_server.client() as client:
        assert 0 < client.pttl(KEYS.failure(PLACE)) <= lasts_s * 1000


@needs_redis
@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[1]", b"\xff", b'{"digest":"zz","etag":"","last_modified":"","immutable":true}']
)
def test_a_foreign_entry_about_an_address_is_as_good_as_none(link, redis_server, value):  # noqa: F811
    with redis_server.client() as client:
        client.set(KEYS.content(PLACE), value, ex=500)
        client.set(KEYS.failure(PLACE), value, ex=500)
    found = SharedContentIndex(link, KEYS).get(PLACE)
    assert (found.record, found.failure) == (None, None)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_foreign_notice_is_as_good_as_none(data):
    assert parse_event(data) is None


# Names


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "x" * 65, "a\n"])
def test_a_prefix_is_a_plain_word(prefix):
    with pytest.raises(ValueError, match="prefix: expected"):
        Keys(prefix, "SAM@1")


def test_models_do_not_take_each_others_work_whatever_they_are_called():
    ours, theirs = Keys("p", "SAM@1"), Keys("p", "a:b/c d@1")
    for name in ("content", "failure", "lease"):
        assert getattr(ours, name)(PLACE) != getattr(theirs, name)(PLACE)
    assert ours.events != theirs.events
    assert theirs.model.count(":") == 0
    assert EmbeddingKey("0" * 64, "SAM@1").__str__() in ours.embedding(EmbeddingKey("0" * 64, "SAM@1"))
