"""Embedding stores: one contract for all of them, then what is particular to each."""

import errno
import json
import os
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.cluster.store import RedisStore
from backend.embeddings.serialization import dump, load, rounded
from backend.embeddings.stores import EmbeddingKey, FileStore, MemoryStore, TieredStore
from model.types import Embedding
from tests.support.fakes import FakeClock, embedding, embedding_of_several_maps, key, same
from tests.support.redis_server import redis_module_server, redis_server  # noqa: F401 - fixtures

ENTRY = embedding(0.5).nbytes
STORES = {
    "memory": lambda folder, limit: MemoryStore(limit),
    "disk": lambda folder, limit: FileStore(folder / "cache", limit),
    "tiers": lambda folder, limit: TieredStore([MemoryStore(limit), FileStore(folder / "cache", limit)]),
}


@pytest.fixture(params=STORES)
def make(request, tmp_path):
    return lambda limit=10_000_000: STORES[request.param](tmp_path, limit)


@pytest.fixture(params=[*STORES, "redis"])
def store(request, tmp_path):
    if request.param != "redis":
        yield STORES[request.param](tmp_path, 10_000_000)
        return
    link = RedisConnection(request.getfixturevalue("redis_server").url)
    yield RedisStore(link, Keys("contract", "SAM@1a2b3c4d"), 60.0)
    link.close()


# The contract


def test_what_was_put_is_got_again(store):
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


def test_what_was_never_put_is_not_there(store):
    assert store.get(key()) is None


@pytest.mark.parametrize(
    "other",
    [
        {"number": 1},
        {"model_version": "SAM@99999999"},
        {"dtype": "float16"},
        {"preprocessing": "0.0"},
    ],
    ids=str,
)
def test_another_image_model_dtype_or_preprocessing_is_another_entry(store, other):
    store.put(key(), embedding())
    assert store.get(key(**other)) is None


def test_the_last_put_wins(store):
    store.put(key(), embedding(0.25))
    store.put(key(), embedding(0.75))
    assert same(store.get(key()), embedding(0.75))
    assert sum(entry.entries for entry in store.stats()[:1]) == 1


def test_a_store_stays_within_its_bytes(make):
    store = make(limit=5 * ENTRY)
    for number in range(20):
        store.put(key(number), embedding(number))
    for entry in store.stats():
        assert 0 < entry.nbytes <= entry.max_bytes
    assert same(store.get(key(19)), embedding(19))
    assert store.get(key(0)) is None


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_least_recently_used_goes_first(kind, tmp_path):
    big = embedding(shape=(4, 32, 32))
    store = STORES[kind](tmp_path, 3 * big.nbytes + 1500)
    for number in range(3):
        store.put(key(number), big)
    store.get(key(0))
    store.put(key(3), big)
    assert [store.get(key(number)) is not None for number in range(4)] == [True, False, True, True]


@pytest.mark.parametrize("limit", [0, ENTRY - 1])
def test_what_does_not_fit_at_all_is_not_kept(make, limit):
    store = make(limit=limit)
    store.put(key(), embedding())
    assert store.get(key()) is None


def test_many_threads_may_use_a_store(make):
    store, wrong = make(limit=8 * ENTRY), []

    def work(seed):
        for step in range(60):
            number = (seed * 7 + step) % 16
            store.put(key(number), embedding(number))
            stored = store.get(key(number))
            if stored is not None and not same(stored, embedding(number)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(entry.nbytes <= entry.max_bytes for entry in store.stats())


# Keys and bytes


def test_a_key_names_everything_that_decides_the_numbers():
    assert str(key(1)) == f"{1:064x}:SAM@1a2b3c4d:float32:3.1"


@pytest.mark.parametrize("digest", ["", "abc", "../../etc/passwd", "G" * 64])
def test_a_key_wants_a_digest(digest):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        EmbeddingKey(digest, "SAM@1")


numbers = st.floats(-100, 100, width=16)
sizes = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


@given(
    array=arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=numbers),
    original_size=sizes,
    input_size=sizes,
    model_version=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    dtype=st.sampled_from(["float16", "float32"]),
    other_orientation=st.sampled_from([1, 5, 6, 7, 8]),
)
@settings(deadline=None)
def test_embeddings_survive_the_trip_through_bytes(
    array, original_size, input_size, model_version, dtype, other_orientation
):
    before = Embedding(array, original_size, input_size, model_version, other_orientation)
    after = load(dump(before, "a key", dtype), "a key")
    assert same(after, rounded(before, dtype))
    assert after.image_embedding.dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_map_of_an_embedding_survives_the_trip_through_bytes(dtype):
    before = embedding_of_several_maps()
    after = load(dump(before, "a key", dtype), "a key")
    assert same(after, rounded(before, dtype))
    assert {name: array.shape for name, array in after.maps.items()} == {
        "image_embedding": (4, 8, 8),
        "high_res_feat_s0": (1, 32, 32),
        "high_res_feat_s1": (2, 16, 16),
    }
    assert after.family == "sam2"


def test_a_further_map_with_numbers_too_large_for_float16_keeps_all_in_float32():
    large = {"high_res_feat_s0": np.full((1, 4, 4), 1e6, np.float32)}
    before = replace(embedding(), further_maps=large)
    assert rounded(before, "float16") is before


@pytest.mark.parametrize("version", [1, 2])
def test_a_value_as_it_was_written_before_there_were_several_maps_is_a_miss(version):
    header = {
        "format": f"paddle-sam-embedding/{version}",
        "key": "a key",
        "dtype": "float32",
        "shape": [1, 1, 1],
        "original_size": [30, 40],
        "input_size": [48, 64],
        "model_version": "fake@00000000",
        **({"other_orientation": 1} if version == 2 else {}),
        "crc32": 0,
    }
    number = np.zeros(1, "<f4").tobytes()
    encoded = json.dumps(header, separators=(",", ":")).encode()
    sealed = encoded.replace(b'"crc32":0', f'"crc32":{zlib.crc32(number, zlib.crc32(encoded))}'.encode())
    assert load(sealed + b"\n" + number, "a key") is None


@pytest.mark.parametrize(
    ("declared", "put_in"),
    [
        (b'"image_embedding"', b'"high_res_feat_s1"'),
        (b"[2,16,16]", b"[2,16,99]"),
        (b'"maps":[{', b'"maps":[],"m":[{'),
        (b'"family":"sam2"', b'"family":"sam3"'),
    ],
)
def test_a_value_whose_header_describes_other_maps_is_a_miss(declared, put_in):
    data = dump(embedding_of_several_maps(), "a key", "float32")
    assert declared in data
    assert load(data.replace(declared, put_in), "a key") is None


def test_numbers_too_large_for_float16_stay_float32():
    large = embedding(1e6)
    assert rounded(large, "float16") is large
    assert same(load(dump(large, "k", "float16"), "k"), large)


def test_float16_halves_the_bytes():
    assert len(dump(embedding(), "k", "float16")) < len(dump(embedding(), "k", "float32")) * 0.7


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_one_damaged_byte_anywhere_is_a_miss(at, value):
    data = bytearray(dump(embedding(shape=(2, 4, 4)), "a key", "float32"))
    at %= len(data)
    changed = data[at] != value
    data[at] = value
    assert (load(bytes(data), "a key") is None) is changed


@given(data=st.binary(max_size=300))
@settings(deadline=None)
def test_foreign_bytes_are_a_miss(data):
    assert load(data, "a key") is None


@pytest.mark.parametrize("cut", [0, 1, 50, 200, 1000, -1])
def test_a_truncated_value_is_a_miss(cut):
    assert load(dump(embedding(), "a key", "float32")[:cut], "a key") is None


def test_a_value_under_another_key_is_a_miss():
    assert load(dump(embedding(), "a key", "float32"), "another key") is None


def test_a_value_of_another_format_version_is_a_miss():
    data = dump(embedding(), "a key", "float32")
    assert load(data.replace(b"paddle-sam-embedding/4", b"paddle-sam-embedding/5"), "a key") is None


def in_format_3(value, name, dtype):
    """An embedding's bytes as they were written when the checksum was a CRC over all of them."""
    line, _, numbers = dump(value, name, dtype).partition(b"\n")
    header = json.loads(line) | {"format": "paddle-sam-embedding/3", "crc32": 0}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    checksum = zlib.crc32(numbers, zlib.crc32(encoded))
    return encoded.replace(b'"crc32":0', f'"crc32":{checksum}'.encode()) + b"\n" + numbers


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_value_of_format_3_is_read(dtype):
    before = embedding_of_several_maps()
    assert same(load(in_format_3(before, "a key", dtype), "a key"), rounded(before, dtype))


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_one_damaged_byte_of_format_3_is_a_miss(at, value):
    data = bytearray(in_format_3(embedding(shape=(2, 4, 4)), "a key", "float32"))
    at %= len(data)
    changed = data[at] != value
    data[at] = value
    assert (load(bytes(data), "a key") is None) is changed


SPOILT = {
    "a page of zeros": lambda numbers: numbers[8192:12288].__setitem__(slice(None), 0),
    "a page twice": lambda numbers: numbers[4096:8192].__setitem__(slice(None), numbers[:4096]),
    "pages in another order": lambda numbers: numbers[:8192].__setitem__(slice(None), np.roll(numbers[:8192], 4096)),
    "a byte more before all others": lambda numbers: numbers.__setitem__(slice(None), np.roll(numbers, 1)),
    "words in another order": lambda numbers: numbers[:16].__setitem__(slice(None), np.roll(numbers[:16], 8)),
    "a byte at the end": lambda numbers: numbers[-1:].__setitem__(slice(None), numbers[-1] ^ 1),
    "megabytes in another order": lambda numbers: numbers[: 2 << 20].__setitem__(
        slice(None), np.roll(numbers[: 2 << 20], 1 << 20)
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_value_of_the_size_that_sam_has_is_a_miss(spoil):
    random = np.random.default_rng(0).standard_normal((256, 64, 64), np.float32)
    data = dump(replace(embedding(), image_embedding=random), "a key", "float16")
    assert load(data, "a key") is not None
    damaged = bytearray(data)
    spoil(np.frombuffer(damaged, np.uint8)[data.index(b"\n") + 1 :])
    assert damaged != data
    assert load(bytes(damaged), "a key") is None


def test_the_numbers_of_a_value_are_aligned():
    for name in ("a", "a key", "a longer key"):
        assert (dump(embedding(), name, "float32").index(b"\n") + 1) % 64 == 0


# Files


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def disk(tmp_path, clock):
    return FileStore(tmp_path / "cache", 10_000_000, pause_s=60, clock=clock)


def files(store_folder):
    return sorted(path.name for path in (store_folder / "cache").iterdir())


def test_files_survive_a_restart(tmp_path):
    FileStore(tmp_path, 10_000_000).put(key(), embedding())
    assert same(FileStore(tmp_path, 10_000_000).get(key()), embedding())


def test_an_embedding_of_several_maps_comes_back_whole_from_every_store(store):
    store.put(key(), embedding_of_several_maps())
    assert same(store.get(key()), embedding_of_several_maps())


def test_memory_counts_the_bytes_of_every_map():
    value = embedding_of_several_maps()
    assert value.nbytes == 4 * (4 * 8 * 8 + 32 * 32 + 2 * 16 * 16)
    memory = MemoryStore(2 * value.nbytes)
    for number in range(3):
        memory.put(key(number), value)
    assert memory.stats()[0].entries == 2
    assert memory.stats()[0].nbytes == 2 * value.nbytes


def test_memory_counts_what_a_decoder_keeps_beside_an_embedding_and_makes_room_for_it():
    first, second = embedding(), embedding()
    store, room = MemoryStore(max_bytes=4 * first.nbytes), first.nbytes
    store.put(key(1), first)
    store.put(key(2), second)
    second.prepared.keep("SAM@1a2b3c4d", (np.zeros(room // 4, np.float32),))
    assert store.stats()[0].nbytes == 3 * room
    first.prepared.keep("SAM@1a2b3c4d", (np.zeros(room // 2, np.float32),))  # now both need 5 times the room of one
    assert store.get(key(2)) is None
    assert store.get(key(1)) is first
    assert store.stats()[0].nbytes == 3 * room


def test_memory_lets_go_of_an_embedding_whose_prepared_numbers_do_not_fit_at_all():
    value = embedding()
    store = MemoryStore(max_bytes=2 * value.nbytes)
    store.put(key(1), value)
    value.prepared.keep("SAM@1a2b3c4d", (np.zeros(value.nbytes, np.float32),))
    assert store.get(key(1)) is None
    assert store.stats()[0].nbytes == 0


def test_a_lower_limit_after_a_restart_is_kept_to(tmp_path):
    for number in range(5):
        FileStore(tmp_path, 10_000_000).put(key(number), embedding(number))
    smaller = FileStore(tmp_path, 2 * ENTRY + 1000)
    smaller.put(key(9), embedding(9))
    assert smaller.stats()[0].entries == 2


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"format":1}\n123'])
def test_a_damaged_file_is_a_miss_and_goes_away(disk, tmp_path, content):
    disk.put(key(), embedding())
    (name,) = files(tmp_path)
    (tmp_path / "cache" / name).write_bytes(content)
    assert disk.get(key()) is None
    assert files(tmp_path) == []


def test_a_model_name_with_odd_characters_makes_no_odd_file_names(disk, tmp_path):
    odd = key(model_version="../my model: ü/\n@1")
    disk.put(odd, embedding())
    assert same(disk.get(odd), embedding())
    assert len(files(tmp_path)) == 1


def test_a_file_is_whole_or_not_there(disk, tmp_path):
    disk.put(key(), embedding())
    assert not [name for name in files(tmp_path) if name.endswith(".part")]


def test_what_a_killed_process_left_behind_is_cleared_away(tmp_path):
    old, fresh = tmp_path / "dead.part", tmp_path / "busy.part"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (1, 1))
    FileStore(tmp_path, 10_000_000).put(key(), embedding())
    assert not old.exists()
    assert fresh.exists()


def test_files_of_others_in_the_directory_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"x" * 100_000)
    store = FileStore(tmp_path, 2 * ENTRY)
    store.put(key(), embedding())
    assert (tmp_path / "notes.txt").exists()
    assert store.stats()[0].entries == 1


def test_a_directory_that_cannot_be_made_is_passed_over(tmp_path, clock):
    (tmp_path / "file").write_bytes(b"")
    store = FileStore(tmp_path / "file" / "cache", 10_000_000, clock=clock)
    store.put(key(), embedding())
    assert store.get(key()) is None
    assert "failed" in store.stats()[0].trouble


class FullDisk:
    """Has no room for a file's content while ``is_full`` is set; counts the attempts to write one."""

    def __init__(self):
        self.is_full, self.attempts = True, 0
        self.write = Path.write_bytes

    def write_bytes(self, path, content):
        self.attempts += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write(path, content)


@pytest.fixture
def full_disk(monkeypatch):
    full_disk = FullDisk()
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: full_disk.write_bytes(path, content))
    return full_disk


def test_a_full_disk_is_passed_over_for_a_minute_and_then_tried_again(tmp_path, clock, full_disk):
    store = FileStore(tmp_path / "cache", 10_000_000, pause_s=60, clock=clock)
    store.put(key(), embedding())
    store.put(key(), embedding())
    assert full_disk.attempts == 1
    assert list((tmp_path / "cache").iterdir()) == []
    assert "No space left on device" in store.stats()[0].trouble
    full_disk.is_full = False
    clock.advance(61)
    store.put(key(), embedding())
    assert store.get(key()) is not None
    assert store.stats()[0].trouble == ""


def test_a_disk_that_became_read_only_serves_what_it_holds(tmp_path, full_disk):
    store, full_disk.is_full = FileStore(tmp_path / "cache", 10_000_000), False
    store.put(key(), embedding())
    full_disk.is_full = True
    store.put(key(1), embedding())
    assert same(store.get(key()), embedding())
    assert store.get(key(1)) is None


def test_files_that_another_process_writes_are_counted_before_long(tmp_path):
    first, second = FileStore(tmp_path, 8 * ENTRY), FileStore(tmp_path, 8 * ENTRY)
    for number in range(200):
        first.put(key(number), embedding(number))
        second.put(key(1000 + number), embedding(number))
    assert first.stats()[0].nbytes <= 2 * 8 * ENTRY


# Tiers


def test_a_slower_tier_fills_the_faster_one(tmp_path):
    keys = []
    disk = FileStore(tmp_path, 10_000_000)
    disk.put(key(), embedding())
    store = TieredStore([MemoryStore(10_000_000), disk], keys.append)
    store.get(key())
    store.get(key())
    store.get(key(1))
    assert keys == ["disk", "memory"]


def test_a_failing_disk_leaves_memory_working(tmp_path, full_disk):
    store = TieredStore([MemoryStore(10_000_000), FileStore(tmp_path, 10_000_000)])
    store.put(key(), embedding())
    assert full_disk.attempts == 1
    assert same(store.get(key()), embedding())


@pytest.mark.parametrize("wrong", [
    embedding(shape=(3, 8, 8)),
    embedding(shape=(4, 4, 16)),
    Embedding(np.full((4, 8, 8), 0.25, np.float16), (30, 40), (48, 64), "fake@00000000"),
], ids=["channels", "sides", "half as exact"])  # fmt: skip
def test_what_the_decoder_could_not_take_is_a_miss_is_dropped_and_counted(tmp_path, wrong):
    """Under the right name, whole, and all the same not what this network makes."""
    dropped = []
    store = FileStore(tmp_path, 10_000_000, shape=(4, 8, 8), on_drop=dropped.append)
    store.put(key(), embedding())
    (file,) = tmp_path.iterdir()
    file.write_bytes(dump(wrong, str(key()), wrong.image_embedding.dtype.name))
    assert store.get(key()) is None
    assert dropped == ["disk"]
    assert not list(tmp_path.iterdir())
    store.put(key(), embedding())
    assert same(store.get(key()), embedding())


def test_numbers_that_float16_cannot_hold_are_kept_as_they_were_made(tmp_path):
    store = FileStore(tmp_path, 10_000_000, shape=(4, 8, 8))
    store.put(key(dtype="float16"), embedding(1e6))
    assert same(store.get(key(dtype="float16")), embedding(1e6))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("number", [np.nan, -np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_a_miss(tmp_path, number, dtype):
    dropped = []
    store = FileStore(tmp_path, 10_000_000, on_drop=dropped.append)
    store.put(key(dtype=dtype), embedding(1.0))
    (file,) = tmp_path.iterdir()
    numbers = np.ones((4, 8, 8), dtype)
    wrong = replace(embedding(), image_embedding=numbers)  # a view, so that the numbers can be spoilt afterwards
    numbers[3, 4, 5] = number
    file.write_bytes(dump(wrong, str(key(dtype=dtype)), dtype))
    assert store.get(key(dtype=dtype)) is None
    assert dropped == ["disk"]
