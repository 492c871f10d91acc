"""Embeddings in Redis: what is particular to that store, beside the contract in test_stores."""

import pytest

from backend.cluster.connection import PART_BYTES, RedisConnection
from backend.cluster.keys import Keys
from backend.cluster.store import RedisStore
from backend.embeddings.serialization import dump
from backend.embeddings.stores import EmbeddingKey
from tests.support.fakes import FakeClock, embedding, key, same
from tests.support.redis_server import RedisServer, needs_redis

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")


@pytest.fixture
def store(link):
    return RedisStore(link, KEYS, 60.0)


@needs_redis
def test_a_value_is_forgotten_after_its_time(link, redis_server):
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
        lambda data: data.replace(b"/4", b"/3", 1),
        lambda data: dump(embedding(), "another key", "float32"),
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["truncated", "empty", "pickle", "another version", "another key", "one bit"],
)
def test_what_is_not_a_whole_value_of_ours_is_a_miss_and_makes_room_for_one(store, redis_server, damage):
    store.put(key(), embedding())
    with redis_server.client() as client:
        client.set(KEYS.embedding(key()), damage(client.get(KEYS.embedding(key()))))
        assert store.get(key()) is None
        assert not client.exists(KEYS.embedding(key()))
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


class EvictingClient:
    """A client of Redis, whose values are evicted between the question for their length and the one for their bytes."""

    def __init__(self, client, evict):
        self._client, self._evict = client, evict

    def __getattr__(self, name):
        if name == "connection_pool":
            self._evict()
        return getattr(self._client, name)


class EvictingLink:
    """A connection whose clients are `EvictingClient`."""

    last_error = ""

    def __init__(self, link, evict):
        self._link, self._evict = link, evict

    def call(self, work):
        return self._link.call(lambda client: work(EvictingClient(client, self._evict)))


@needs_redis
@pytest.mark.parametrize("rest", [None, b"short"], ids=["gone", "shorter"])
def test_a_value_that_changes_while_it_is_read_is_a_miss_and_the_connection_goes_on(link, redis_server, rest):
    with redis_server.client() as client:

        def evict():
            client.delete(KEYS.embedding(key()))
            if rest is not None:
                client.set(KEYS.embedding(key()), rest)

        dropped = []
        store = RedisStore(EvictingLink(link, evict), KEYS, 60.0, on_drop=dropped.append)
        store.put(key(), embedding())
        assert store.get(key()) is None
        assert dropped == []
    store.put(key(), embedding())
    assert same(RedisStore(link, KEYS, 60.0).get(key()), embedding())
    assert link.last_error == ""


@needs_redis
def test_a_value_of_several_parts_is_read_whole_and_is_read_only(link):
    large = embedding(shape=(128, 160, 128))
    store = RedisStore(link, KEYS, 60.0)
    store.put(key(), large)
    value = store.get(key())
    assert large.image_embedding.nbytes > 2 * PART_BYTES
    assert same(value, large)
    assert not value.image_embedding.flags.writeable


@needs_redis
def test_a_redis_that_dies_in_the_middle_of_a_value_is_an_outage_and_a_miss(tmp_path):
    with RedisServer(tmp_path, maxmemory="100mb") as server:
        link = RedisConnection(server.url)
        RedisStore(link, KEYS, 60.0).put(key(), embedding())
        assert RedisStore(EvictingLink(link, server.kill), KEYS, 60.0).get(key()) is None
        assert link.is_down
        link.close()


@needs_redis
def test_a_key_of_another_type_is_a_miss(store, redis_server):
    with redis_server.client() as client:
        client.lpush(KEYS.embedding(key()), "x")
    assert store.get(key()) is None
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


@needs_redis
def test_a_list_of_files_of_another_type_is_begun_again(store, redis_server):
    with redis_server.client() as client:
        client.lpush(KEYS.files(7), "x")
        store.note_file(7, "ab" * 32)
        assert client.hkeys(KEYS.files(7)) == [b"ab" * 32]
        assert client.pttl(KEYS.files(7)) > 0


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
def test_an_embedding_without_an_end_gets_one(store, redis_server):
    """Redis lets nothing go that has none, however short room is."""
    store.put(key(), embedding())
    with redis_server.client() as client:
        client.persist(KEYS.embedding(key()))
        assert same(store.get(key()), embedding())
        assert 59_000 < client.pttl(KEYS.embedding(key())) <= 60_000


@needs_redis
def test_the_embeddings_of_this_installation_are_counted_whatever_their_model_and_nothing_else(link, redis_server):
    other_keys = Keys("paddle-sam", "SAM-H@5e6f7a8b")
    for number in range(3):
        RedisStore(link, KEYS, 60.0).put(key(number), embedding())
    for number in range(2):
        other_key = EmbeddingKey(f"{number:064x}", other_keys.model_version)
        RedisStore(link, other_keys, 60.0).put(other_key, embedding())
    RedisStore(link, Keys("elsewhere", KEYS.model_version), 60.0).put(key(), embedding())
    with redis_server.client() as client:
        client.mset({f"cache:{number}": "x" for number in range(2500)} | {"paddle-sam:embedding": "x"})
    clock = FakeClock()
    store = RedisStore(link, KEYS, 60.0, clock=clock)
    assert store.stats()[0].entries == 5
    store.put(key(7), embedding())
    assert store.stats()[0].entries == 5, "counted again only now and then"
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
