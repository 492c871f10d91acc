"""Embeddings made in this process: one fetch and one encode however many ask, in the right order, within a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from backend.concurrency.byte_budget import ByteBudget
from backend.concurrency.retry import Stopped
from backend.embeddings.content_index import ContentIndex, source_key
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.encode import DECODED_AT_ONCE, EncodeSpec, Preprocessor
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.pipeline import RESERVED, THREADS
from backend.embeddings.stores import FileStore, MemoryStore, TieredStore
from backend.errors import AccessError, BackendError, ImageError, Reason, RetryLater
from backend.images import decode
from backend.images.fetch import Fetched
from backend.label_studio.http import RefusedError
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from model.types import ModelInput
from tests.support.fakes import FakeClock, FakeEncoder, FakeSource, fake_spec, png
from tests.support.orientation_files import encoded

RED, BLUE, GREEN, GRAY = (250, 0, 0), (0, 0, 250), (0, 250, 0), (128, 128, 128)
SOON_S = 10.0


KEY = fake_spec().key("0" * 64)


class Setup:
    """A `LocalEmbeddings` and the fakes around it."""

    def __init__(self, folder):
        self.source, self.encoder, self.clock, self.metrics = FakeSource(), FakeEncoder(), FakeClock(), Metrics()
        for name, colour in (("red", RED), ("blue", BLUE), ("green", GREEN), ("gray", GRAY)):
            self.source.contents[name] = png(colour)
        self.folder, self.loads, self.open = folder, 0, []
        self.budget, self.contents = ByteBudget(10_000_000), None

    def load(self):
        self.loads += 1
        return self.encoder

    def build(self, load=None, memory=10_000_000, disk=10_000_000, **options):
        """Return what a new process would make."""
        tiers = [MemoryStore(memory), FileStore(self.folder / "embeddings", disk)]
        store = TieredStore(tiers if memory else tiers[1:], self.metrics.record_lookup)
        spec = fake_spec(**{"model_version": self.encoder.model_version, **options})
        self.contents = ContentIndex(self.clock, ContentDatabase(self.folder / "contents.db", "here"))
        embeddings = LocalEmbeddings(
            self.source, load or self.load, spec, store, self.metrics, self.contents, self.budget
        )
        self.open.append(embeddings)
        return embeddings

    def record(self, uri="red"):
        return self.contents.get(source_key(ref(uri)))

    def close(self):
        self.source.gate.set()
        self.encoder.gate.set()
        for embeddings in self.open:
            embeddings.close()


@pytest.fixture
def setup(tmp_path):
    setup = Setup(tmp_path)
    yield setup
    setup.close()


@pytest.fixture
def embeddings(setup):
    return setup.build()


def ref(uri="red", **fields):
    return ImageRef(uri, **{"task_id": 1, "project_id": 1, **fields})


def colour(embedding):
    return tuple(round(float(value) * 255) for value in embedding.image_embedding[:, 0, 0])


def eventually(condition):
    """Wait until something becomes true."""
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.002)


# Cached


def test_a_first_click_fetches_and_encodes(setup, embeddings):
    embedding = embeddings.get(ref(), SOON_S)
    assert colour(embedding) == RED
    assert embedding.original_size == (30, 40)
    assert (setup.source.fetched, setup.encoder.calls) == (["red"], 1)


def test_a_warm_click_neither_downloads_nor_decodes(setup, embeddings):
    first = embeddings.get(ref(), SOON_S)
    later = [embeddings.get(ref(), 0.0) for _ in range(5)]
    assert all(np.array_equal(embedding.image_embedding, first.image_embedding) for embedding in later)
    assert (len(setup.source.fetched), setup.encoder.calls) == (1, 1)


def test_a_peek_finds_what_is_there_and_begins_nothing(setup, embeddings):
    assert embeddings.peek(ref()) is None
    assert (setup.source.fetched, embeddings.encoding) == ([], 0)
    embeddings.get(ref(), SOON_S)
    assert colour(embeddings.peek(ref())) == RED
    assert (setup.source.fetched, setup.encoder.calls) == (["red"], 1)


def test_every_tier_gives_the_very_same_numbers(setup, embeddings):
    encoded = embeddings.get(ref(), SOON_S)
    from_memory = embeddings.get(ref(), SOON_S)
    from_disk = setup.build().get(ref(), SOON_S)
    for cached in (from_memory, from_disk):
        assert cached.image_embedding.dtype == np.float16
        assert np.array_equal(cached.image_embedding, encoded.image_embedding)


def test_a_restart_finds_the_content_and_the_embedding_on_disk(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.build().get(ref(), SOON_S)
    assert (len(setup.source.fetched), setup.encoder.calls) == (1, 1)
    assert setup.metrics.registry.get_sample_value("paddle_sam_cache_lookups_total", {"tier": "disk"}) == 1


def test_another_address_with_the_same_bytes_is_not_encoded_again(setup, embeddings):
    setup.source.contents["red?X-Amz-Signature=2"] = setup.source.contents["red"]
    embeddings.get(ref(), SOON_S)
    embeddings.get(ref("red?X-Amz-Signature=2"), SOON_S)
    assert (len(setup.source.fetched), setup.encoder.calls) == (2, 1)


def test_other_weights_are_another_embedding(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.encoder.model_version = "other@11111111"
    setup.build().get(ref(), SOON_S)
    assert setup.encoder.calls == 2


def test_two_projects_with_the_same_task_id_and_address_are_fetched_apart(setup, embeddings):
    embeddings.get(ref(project_id=1), SOON_S)
    embeddings.get(ref(project_id=2), SOON_S)
    assert (len(setup.source.fetched), setup.encoder.calls) == (2, 1)


def test_what_one_project_may_fetch_another_must_be_allowed_itself(setup, embeddings):
    embeddings.get(ref(project_id=1), SOON_S)
    setup.source.contents["red"] = AccessError("not yours")
    with pytest.raises(AccessError):
        embeddings.get(ref(project_id=2), SOON_S)


def test_alternating_between_two_images_encodes_each_once(setup, embeddings):
    for _ in range(4):
        assert colour(embeddings.get(ref("red"), SOON_S)) == RED
        assert colour(embeddings.get(ref("blue"), SOON_S)) == BLUE
    assert setup.encoder.calls == 2


def test_without_any_cache_clicks_are_still_answered(setup, tmp_path):
    embeddings = LocalEmbeddings(setup.source, setup.load, fake_spec(), MemoryStore(0), setup.metrics)
    setup.open.append(embeddings)
    assert colour(embeddings.get(ref(), SOON_S)) == RED
    assert colour(embeddings.get(ref(), SOON_S)) == RED


def test_an_image_decoded_smaller_keeps_its_original_size(setup):
    setup.source.contents["big"] = encoded(Image.new("RGB", (1600, 1200), RED), "JPEG")
    embeddings = setup.build(limits=decode.PixelLimits(reduce_above_pixels=1_000_000, model_side=256))
    assert embeddings.get(ref("big"), SOON_S).original_size == (1200, 1600)
    assert setup.encoder.sizes == [(192, 256)]


# Changed behind the address


def test_an_image_is_not_asked_about_for_a_minute(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.clock.advance(59)
    embeddings.get(ref(), SOON_S)
    time.sleep(0.05)
    assert len(setup.source.fetched) == 1


def test_after_a_minute_it_is_asked_about_while_the_click_is_answered(setup, embeddings):
    setup.source.versioned = True
    embeddings.get(ref(), SOON_S)
    setup.clock.advance(61)
    setup.source.gate.clear()
    assert colour(embeddings.get(ref(), 0.0)) == RED
    setup.source.gate.set()
    eventually(lambda: len(setup.source.fetched) == 2)
    assert setup.source.cached[1].is_known
    eventually(lambda: setup.contents.is_fresh(setup.record()))
    embeddings.get(ref(), 0.0)
    assert len(setup.source.fetched) == 2


def test_changed_bytes_behind_the_same_address_are_another_embedding(setup, embeddings):
    assert colour(embeddings.get(ref(), SOON_S)) == RED
    setup.source.contents["red"] = png(BLUE)
    setup.clock.advance(61)
    embeddings.get(ref(), SOON_S)
    eventually(lambda: setup.encoder.calls == 2)
    assert colour(embeddings.get(ref(), SOON_S)) == BLUE


def test_after_ten_minutes_nothing_is_taken_for_granted(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.source.contents["red"] = png(BLUE)
    setup.clock.advance(601)
    assert colour(embeddings.get(ref(), SOON_S)) == BLUE


def test_an_unchanged_image_is_not_read_again_even_then(setup, embeddings):
    setup.source.versioned = True
    embeddings.get(ref(), SOON_S)
    setup.clock.advance(601)
    assert colour(embeddings.get(ref(), SOON_S)) == RED
    assert setup.source.cached[1].is_known
    assert setup.encoder.calls == 1


def test_what_never_changes_is_asked_about_ten_times_less(setup, embeddings):
    setup.source.immutable = True
    embeddings.get(ref(), SOON_S)
    setup.clock.advance(599)
    embeddings.get(ref(), SOON_S)
    time.sleep(0.05)
    assert len(setup.source.fetched) == 1


def test_a_permission_that_was_withdrawn_is_noticed(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.source.contents["red"] = AccessError("revoked")
    setup.clock.advance(61)
    embeddings.get(ref(), SOON_S)
    eventually(lambda: setup.record() is None)
    with pytest.raises(AccessError, match="revoked"):
        embeddings.get(ref(), SOON_S)


def test_a_server_that_is_down_for_a_moment_is_not(setup, embeddings):
    embeddings.get(ref(), SOON_S)
    setup.source.contents["red"] = RetryLater("down", Reason.IMAGE_FETCH_FAILED)
    setup.clock.advance(61)
    embeddings.get(ref(), SOON_S)
    eventually(lambda: len(setup.source.fetched) == 2)
    assert colour(embeddings.get(ref(), SOON_S)) == RED


# Many at once


def test_thirty_first_clicks_on_one_image_are_one_fetch_and_one_encode(setup, embeddings):
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(30) as pool:
        futures = [pool.submit(embeddings.get, ref(), SOON_S) for _ in range(30)]
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 30)
        setup.encoder.gate.set()
        assert {colour(future.result()) for future in futures} == {RED}
    assert (setup.source.fetched, setup.encoder.calls) == (["red"], 1)
    assert setup.metrics.registry.get_sample_value("paddle_sam_encodes_shared_total") == 29
    assert setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 0


def test_two_addresses_of_one_content_at_once_are_one_encode(setup, embeddings):
    setup.source.contents["red2"] = setup.source.contents["red"]
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(embeddings.get, ref(uri), SOON_S) for uri in ("red", "red2")]
        eventually(lambda: len(setup.source.fetched) == 2 and setup.encoder.calls == 1)
        time.sleep(0.05)
        setup.encoder.gate.set()
        assert [colour(future.result()) for future in futures] == [RED, RED]
    assert setup.encoder.calls == 1


def test_many_threads_on_many_images_each_get_their_own(setup):
    setup.encoder.latency_s = 0.002
    colours = {f"c{number}": (number * 15, 255 - number * 15, number * 7) for number in range(16)}
    setup.source.contents |= {name: png(value) for name, value in colours.items()}
    embeddings = setup.build(dtype="float32")
    names = [f"c{number % 16}" for number in range(320)]
    with ThreadPoolExecutor(32) as pool:
        got_colours = list(pool.map(lambda name: colour(embeddings.get(ref(name), SOON_S)), names))
    assert got_colours == [colours[name] for name in names]
    assert setup.encoder.calls == 16


def test_a_device_encodes_one_image_at_a_time(setup, embeddings):
    setup.encoder.latency_s = 0.01
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: embeddings.get(ref(name), SOON_S), ["red", "blue", "green", "gray"]))
    assert setup.encoder.most_at_once == 1


# Within a time


def test_a_click_that_cannot_wait_any_longer_leaves_and_the_next_one_is_warm(setup, embeddings):
    setup.encoder.gate.clear()
    started = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(), 0.05)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert time.monotonic() - started < 2
    setup.encoder.gate.set()
    eventually(lambda: setup.encoder.calls == 1 and not embeddings.encoding)
    assert colour(embeddings.get(ref(), 0.0)) == RED
    assert (len(setup.source.fetched), setup.encoder.calls) == (1, 1)


def test_a_slow_download_does_not_hold_a_click_beyond_its_time(setup, embeddings):
    setup.source.gate.clear()
    started = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(), 0.05)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert time.monotonic() - started < 2


def test_warm_clicks_do_not_wait_for_cold_ones(setup, embeddings):
    embeddings.get(ref("blue"), SOON_S)
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(embeddings.get, ref("red"), SOON_S) for _ in range(20)]
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 20)
        started = time.monotonic()
        assert colour(embeddings.get(ref("blue"), 0.0)) == BLUE
        assert time.monotonic() - started < 0.5
        setup.encoder.gate.set()
        assert len([future.result() for future in futures]) == 20


def test_the_encoder_is_loaded_in_the_background_and_the_first_click_waits_for_it(setup):
    gate = threading.Event()

    def load():
        assert gate.wait(20)
        return setup.encoder

    embeddings = setup.build(load)
    embeddings.start()
    assert not embeddings.is_ready
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(), 0.05)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    gate.set()
    assert colour(embeddings.get(ref(), SOON_S)) == RED
    assert embeddings.is_ready


# Failures


def test_a_failed_fetch_wakes_every_waiter_with_its_reason(setup, embeddings):
    setup.source.gate.clear()
    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(embeddings.get, ref("none"), SOON_S) for _ in range(10)]
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 10)
        setup.source.gate.set()
        errors = [future.exception(SOON_S) for future in futures]
    assert {error.reason for error in errors} == {Reason.IMAGE_NOT_FOUND}
    assert len({id(error) for error in errors}) == 10
    assert setup.source.fetched == ["none"]


def test_a_failed_encode_wakes_every_waiter_with_its_reason(setup, embeddings):
    setup.encoder.gate.clear()
    setup.encoder.failures = [RuntimeError("kernel exploded")]
    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(embeddings.get, ref(), SOON_S) for _ in range(10)]
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 10)
        setup.encoder.gate.set()
        assert {future.exception(SOON_S).reason for future in futures} == {Reason.ENCODE_FAILED}
    assert colour(embeddings.get(ref("blue"), SOON_S)) == BLUE


def test_a_failure_is_remembered_for_thirty_seconds_and_not_for_ever(setup, embeddings):
    for _ in range(3):
        with pytest.raises(ImageError):
            embeddings.get(ref("none"), SOON_S)
    assert len(setup.source.fetched) == 1
    setup.source.contents["none"] = png(GREEN)
    setup.clock.advance(29)
    with pytest.raises(ImageError):
        embeddings.get(ref("none"), SOON_S)
    setup.clock.advance(2)
    assert colour(embeddings.get(ref("none"), SOON_S)) == GREEN


def test_a_passing_failure_is_remembered_for_three_seconds(setup, embeddings):
    setup.source.contents["none"] = RetryLater("busy", Reason.IMAGE_FETCH_FAILED)
    for _ in range(3):
        with pytest.raises(RetryLater):
            embeddings.get(ref("none"), SOON_S)
    assert len(setup.source.fetched) == 1
    setup.clock.advance(4)
    setup.source.contents["none"] = png(GREEN)
    assert colour(embeddings.get(ref("none"), SOON_S)) == GREEN


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>oops</html>", Reason.UNSUPPORTED_IMAGE_FORMAT),
        (b"", Reason.IMAGE_UNREADABLE),
        (png(size_wh=(300, 300))[:-40], Reason.IMAGE_UNREADABLE),
        (png(size_wh=(2000, 1)), Reason.IMAGE_TOO_LARGE),
    ],
    ids=["web page", "empty", "cut short", "too large"],
)
def test_an_image_that_cannot_be_read_has_its_reason_and_harms_no_other(setup, content, reason):
    embeddings = setup.build(limits=decode.PixelLimits(max_pixels=1999))
    setup.source.contents["bad"] = content
    if reason is Reason.IMAGE_UNREADABLE and content:
        embeddings = setup.build()
    with pytest.raises(ImageError) as caught:
        embeddings.get(ref("bad"), SOON_S)
    assert caught.value.reason is reason
    assert colour(embeddings.get(ref("red"), SOON_S)) == RED


def test_running_out_of_memory_is_tried_once_more(setup, embeddings):
    setup.encoder.failures = [MemoryError("no room")]
    assert colour(embeddings.get(ref(), SOON_S)) == RED
    assert setup.encoder.calls == 2


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("ResourceExhaustedError: Out of memory on GPU")]
)
def test_running_out_of_memory_twice_may_pass_and_harms_no_other(setup, embeddings, error):
    setup.encoder.failures = [error, error]
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(), SOON_S)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert colour(embeddings.get(ref("blue"), SOON_S)) == BLUE


def test_an_encoder_that_cannot_be_loaded_is_reported_and_tried_again(setup):
    answers = [ValueError("weights are damaged"), ValueError("weights are damaged"), setup.encoder]

    def load():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    embeddings = setup.build(load)
    with pytest.raises(BackendError, match="weights are damaged") as caught:
        embeddings.get(ref(), SOON_S)
    assert caught.value.reason is Reason.MODEL_NOT_READY
    assert colour(embeddings.get(ref("blue"), SOON_S)) == BLUE


def test_an_encoder_of_other_weights_than_the_decoder_is_never_used(setup):
    embeddings = setup.build(model_version="SAM@decoder")
    with pytest.raises(BackendError, match="expected an encoder of SAM@decoder") as caught:
        embeddings.get(ref(), SOON_S)
    assert caught.value.reason is Reason.MODEL_NOT_READY


def test_a_defect_in_the_source_is_a_reason_and_no_hang(setup, embeddings):
    setup.source.contents["odd"] = ZeroDivisionError("a defect")
    with pytest.raises(BackendError) as caught:
        embeddings.get(ref("odd"), SOON_S)
    assert caught.value.reason is Reason.INTERNAL_ERROR


# Ahead of time


def test_prefetched_images_are_warm(setup, embeddings):
    embeddings.prefetch([ref("red"), ref("blue")])
    eventually(lambda: setup.encoder.calls == 2 and not embeddings.encoding)
    assert colour(embeddings.get(ref("red"), 0.0)) == RED
    assert colour(embeddings.get(ref("blue"), 0.0)) == BLUE
    assert sorted(setup.source.fetched) == ["blue", "red"]


def test_prefetching_returns_at_once(setup, embeddings):
    setup.source.gate.clear()
    started = time.monotonic()
    embeddings.prefetch(ref(f"image {number}") for number in range(5000))
    assert time.monotonic() - started < 1
    assert embeddings.ahead <= 1000


def test_what_is_warm_is_not_prefetched(setup, embeddings):
    embeddings.get(ref("red"), SOON_S)
    embeddings.prefetch([ref("red"), ref("blue"), ref("red")])
    eventually(lambda: setup.encoder.calls == 2)
    assert setup.source.fetched == ["red", "blue"]


class SlowSource(FakeSource):
    """Holds the fetches of the addresses in ``slow`` until ``let_go`` is set, as a slow server does."""

    def __init__(self):
        super().__init__()
        self.let_go, self.slow, self.running = threading.Event(), set(), []

    def fetch(self, ref, cached=None, /):
        self.running.append(ref.uri)
        if ref.uri in self.slow:
            assert self.let_go.wait(20)
        return super().fetch(ref, cached)


@pytest.fixture
def slow(setup):
    source = setup.source = SlowSource()
    source.contents = {f"bulk {number}": png((number, 0, 0)) for number in range(20)} | {"click": png(GREEN)}
    source.slow = {f"bulk {number}" for number in range(20)}
    yield source
    source.let_go.set()


@pytest.fixture
def in_bulk(setup, slow):
    """Embeddings that are busy with bulk requests for twenty images of a slow server."""
    embeddings = setup.build()
    with ThreadPoolExecutor(20) as pool:
        for number in range(20):
            pool.submit(embeddings.get, ref(f"bulk {number}"), SOON_S, Priority.BULK)
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 20)
        yield embeddings
        slow.let_go.set()


def test_a_click_is_fetched_while_a_slow_server_holds_up_bulk_work(in_bulk):
    assert colour(in_bulk.get(ref("click"), SOON_S)) == GREEN


def test_a_click_on_an_image_whose_bulk_fetch_has_not_begun_has_it_fetched_at_once(in_bulk, slow):
    eventually(lambda: len(slow.running) >= THREADS - RESERVED)
    waits = next(name for name in slow.slow if name not in slow.running)
    slow.slow.remove(waits)
    assert in_bulk.get(ref(waits), SOON_S) is not None
    assert slow.running.count(waits) == 1


def test_a_click_overtakes_what_is_encoded_ahead(setup, embeddings):
    setup.encoder.gate.clear()
    embeddings.prefetch([ref("gray"), ref("red"), ref("blue")])
    eventually(lambda: embeddings.encoding == 3)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(embeddings.get, ref("green"), SOON_S)
        eventually(lambda: embeddings.encoding == 4)
        setup.encoder.gate.set()
        assert colour(click.result()) == GREEN
    eventually(lambda: setup.encoder.calls == 4)
    assert setup.encoder.colours[1] == GREEN


def test_a_click_on_what_is_being_encoded_ahead_is_urgent_from_then_on(setup, embeddings):
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        clicks = [pool.submit(embeddings.get, ref("gray"), SOON_S)]
        eventually(setup.encoder.running.is_set)
        embeddings.prefetch([ref("red")])
        eventually(lambda: embeddings.encoding == 2)
        for name, waiting in (("red", 2), ("blue", 3)):
            clicks.append(pool.submit(embeddings.get, ref(name), SOON_S))
            eventually(lambda n=waiting: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == n)
        eventually(lambda: embeddings.encoding == 3)
        setup.encoder.gate.set()
        assert [colour(click.result()) for click in clicks] == [GRAY, RED, BLUE]
    assert setup.encoder.colours == [GRAY, RED, BLUE]


def test_a_failure_ahead_of_time_is_counted_and_stops_nothing(setup, embeddings):
    embeddings.prefetch([ref("none"), ref("red")])
    eventually(lambda: setup.encoder.calls == 1)
    count = setup.metrics.registry.get_sample_value(
        "paddle_sam_background_failures_total", {"reason": "image_not_found"}
    )
    assert count == 1


class UncopyableError(BackendError):
    """An error with a defect."""

    def __reduce__(self):
        raise TypeError("cannot be copied")


def test_a_defect_ahead_of_time_stops_nothing(setup, embeddings, caplog):
    setup.source.contents["odd"] = UncopyableError("why")
    with pytest.raises(TypeError):
        embeddings.get(ref("odd"), SOON_S)
    embeddings.prefetch([ref("odd"), ref("red")])
    eventually(lambda: setup.encoder.calls == 1)
    assert "event=prefetch_defect" in caplog.text


@pytest.mark.parametrize("kind", [RefusedError, Stopped])
def test_an_error_of_any_kind_is_remembered_and_stops_nothing(setup, embeddings, kind):
    setup.source.contents["odd"] = kind("no", 404) if kind is RefusedError else kind()
    for _ in range(2):
        with pytest.raises(kind):
            embeddings.get(ref("odd"), SOON_S)
    embeddings.prefetch([ref("odd"), ref("red")])
    eventually(lambda: setup.encoder.calls == 1)


# Runs over a project


def day_later(setup):
    """Return what a process makes a day after the last one."""
    setup.clock.advance(86_400)
    return setup.build(memory=0)


def test_precompute_followed_by_the_service_is_one_fetch_and_one_encode(setup):
    assert setup.build(memory=0).ensure(ref())
    service = setup.build()
    assert colour(service.peek(ref())) == RED
    assert colour(service.get(ref(), 0.0)) == RED
    assert (len(setup.source.fetched), setup.encoder.calls) == (1, 1)


def test_an_upload_that_was_encoded_yesterday_is_there_at_the_first_click(setup):
    setup.source.immutable = True
    setup.build(memory=0).ensure(ref())
    assert colour(day_later(setup).get(ref(), 0.0)) == RED
    assert setup.encoder.calls == 1


def test_an_upload_that_was_encoded_yesterday_is_not_asked_about_by_the_next_run(setup):
    setup.source.immutable = True
    setup.build().ensure(ref())
    assert not day_later(setup).ensure(ref())
    assert len(setup.source.fetched) == 1


def test_a_run_asks_whether_what_may_change_has_changed_and_does_not_fetch_it(setup):
    setup.source.versioned = True
    setup.build().ensure(ref())
    assert not day_later(setup).ensure(ref())
    assert [cached is not None for cached in setup.source.cached] == [False, True]
    assert setup.encoder.calls == 1


def test_a_run_encodes_a_changed_image_again_after_one_fetch(setup):
    setup.source.versioned = True
    setup.build().ensure(ref())
    setup.source.contents["red"] = png(BLUE)
    assert day_later(setup).ensure(ref())
    assert (len(setup.source.fetched), setup.encoder.calls) == (2, 2)


def test_a_run_fetches_an_image_without_a_version_and_does_not_encode_it_again(setup):
    setup.build().ensure(ref())
    assert not day_later(setup).ensure(ref())
    assert (len(setup.source.fetched), setup.encoder.calls) == (2, 1)


def test_a_run_encodes_one_content_behind_two_addresses_once(setup, embeddings):
    setup.source.contents["copy"] = setup.source.contents["red"]
    assert embeddings.ensure(ref())
    assert not embeddings.ensure(ref("copy"))


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_embedding_that_was_let_go_or_damaged_is_made_again(setup, is_damaged):
    setup.source.immutable = True
    embeddings = setup.build(memory=0)
    first = embeddings.get(ref(), SOON_S)
    [path] = (setup.folder / "embeddings").iterdir()
    if is_damaged:
        path.write_bytes(path.read_bytes()[:-1])
        encoded_again = embeddings.get(ref(), SOON_S)
        assert np.array_equal(first.image_embedding, encoded_again.image_embedding)
    else:
        path.unlink()
        assert embeddings.ensure(ref())
    assert setup.encoder.calls == 2


def test_a_click_that_joins_a_run_gets_the_embedding_that_the_run_does_not_read(setup):
    setup.build(memory=0).ensure(ref())
    embeddings = day_later(setup)
    setup.source.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(embeddings.ensure, ref())
        eventually(lambda: len(setup.source.fetched) == 2)
        click = pool.submit(embeddings.get, ref(), SOON_S)
        eventually(lambda: setup.metrics.registry.get_sample_value("paddle_sam_waiting") == 2)
        setup.source.gate.set()
        assert (run.result(), colour(click.result())) == (False, RED)
    assert (len(setup.source.fetched), setup.encoder.calls) == (2, 1)


def test_a_store_that_keeps_nothing_ends_a_run_with_its_reason(setup):
    with pytest.raises(RetryLater) as caught:
        setup.build(memory=0, disk=10).ensure(ref())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def test_a_full_disk_is_reported_by_name(setup):
    (setup.folder / "embeddings").write_text("a file where a folder should be")
    with pytest.raises(RetryLater, match="cannot be stored: read failed: Not a directory"):
        setup.build(memory=0).ensure(ref())


def test_a_failure_of_one_image_fails_no_other_in_a_run(setup, embeddings):
    setup.encoder.failures = [RuntimeError("a defect")]
    with pytest.raises(BackendError, match="a defect"):
        embeddings.ensure(ref())
    assert embeddings.ensure(ref("blue"))


def test_a_run_that_ends_begins_no_encode(setup, embeddings):
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(embeddings.ensure, ref(name)) for name in ("red", "blue", "green")]
        eventually(lambda: embeddings.encoding == 3 and setup.encoder.running.is_set())
        threading.Timer(0.1, setup.encoder.gate.set).start()
        embeddings.close()
        errors = [run.exception(SOON_S) for run in runs]
    assert sorted(error.reason for error in errors if error) == [Reason.MODEL_NOT_READY] * 2
    assert setup.encoder.calls == 1


# The pipeline


def test_images_are_fetched_and_decoded_while_one_is_encoded(setup, embeddings):
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        for name in ("red", "blue", "green", "gray"):
            pool.submit(embeddings.ensure, ref(name))
        eventually(lambda: embeddings.encoding == 4 and setup.encoder.running.is_set())
        assert (len(setup.source.fetched), setup.encoder.calls) == (4, 1)
        setup.encoder.gate.set()


def test_images_in_memory_are_few_however_many_are_wanted(setup, embeddings):
    setup.source.contents = {str(number): png((number, 0, 0)) for number in range(3 * THREADS)}
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(3 * THREADS) as pool:
        for number in range(3 * THREADS):
            pool.submit(embeddings.ensure, ref(str(number)))
        eventually(lambda: embeddings.encoding == THREADS - RESERVED)
        time.sleep(0.1)
        assert len(setup.source.fetched) == THREADS - RESERVED
        setup.encoder.gate.set()
    assert setup.encoder.calls == 3 * THREADS


def test_few_images_are_decoded_at_a_time(setup):
    running, most, lock = set(), [], threading.Lock()

    def preprocess(pixels):
        with lock:
            running.add(threading.get_ident())
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.discard(threading.get_ident())
        return ModelInput(pixels, pixels.shape[:2])

    preprocessor = Preprocessor(EncodeSpec("fake@00000000", preprocess), setup.metrics)
    with ThreadPoolExecutor(12) as pool:
        list(
            pool.map(
                lambda number: preprocessor.prepare(png((number, 0, 0)), KEY, tuple(Priority)[number % 3]), range(12)
            )
        )
    assert max(most) == DECODED_AT_ONCE


def test_a_click_does_not_wait_for_background_images_that_wait_to_be_decoded(setup):
    order, finished, has_begun = [], threading.Semaphore(0), threading.Event()

    def preprocess(pixels):
        order.append(tuple(pixels[0, 0]))
        assert finished.acquire(timeout=SOON_S)
        return ModelInput(pixels, pixels.shape[:2])

    def click():
        has_begun.set()
        preprocessor.prepare(png(RED), KEY, Priority.INTERACTIVE)

    preprocessor = Preprocessor(EncodeSpec("fake@00000000", preprocess), setup.metrics)
    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(preprocessor.prepare, png((0, 0, number)), KEY, Priority.BULK) for number in range(8)]
        eventually(lambda: len(order) == DECODED_AT_ONCE)
        futures.append(pool.submit(click))
        assert has_begun.wait(SOON_S)
        time.sleep(0.5)  # until the click waits for its place
        finished.release()  # one place becomes free
        eventually(lambda: len(order) == DECODED_AT_ONCE + 1)
        finished.release(8)
        wait(futures)
    assert order[DECODED_AT_ONCE] == RED


# The end


def test_closing_wakes_every_waiter_and_ends_every_thread(setup):
    before = set(threading.enumerate())
    embeddings = setup.build()
    setup.encoder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(embeddings.get, ref(name), SOON_S) for name in ("red", "blue", "green")]
        eventually(lambda: embeddings.encoding == 3 and setup.encoder.running.is_set())
        closing = threading.Thread(target=embeddings.close)
        closing.start()
        eventually(lambda: sum(future.done() for future in futures) == 2)
        setup.encoder.gate.set()
        closing.join(SOON_S)
        outcomes = [future.exception(SOON_S) for future in futures]
    assert [outcome for outcome in outcomes if outcome is None] == [None]
    assert {outcome.reason for outcome in outcomes if outcome} == {Reason.MODEL_NOT_READY}
    assert set(threading.enumerate()) <= before


def test_after_closing_a_click_gets_a_reason(setup, embeddings):
    embeddings.get(ref("blue"), SOON_S)
    embeddings.close()
    with pytest.raises(RetryLater, match="stopping"):
        embeddings.get(ref("red"), SOON_S)
    assert colour(embeddings.get(ref("blue"), 0.0)) == BLUE


def test_closing_what_never_started_is_fine(setup):
    setup.build().close()
    assert setup.loads == 0


# Addresses


def test_long_addresses_take_no_more_room_than_short_ones():
    assert len(str(source_key(ref("data:" + "A" * 1_000_000)))) < 200


def test_without_a_project_an_address_belongs_to_its_task():
    assert source_key(ref(project_id=None, task_id=1)) != source_key(ref(project_id=None, task_id=2))
    assert source_key(ref(project_id=1, task_id=1)) == source_key(ref(project_id=1, task_id=2))


@pytest.mark.parametrize("uri", ["s3://bucket/a.png", " S3://bucket/a.png", "gs://b/a.png", "azure-blob://c/a.png"])
def test_a_cloud_address_belongs_to_the_task_that_it_is_resolved_through(uri):
    first, second = ImageRef(uri, 1, 7), ImageRef(uri, 2, 7)
    assert source_key(first) != source_key(second), "whatever project a caller says that the other task is in"
    assert source_key(first) == source_key(ImageRef(uri, 1, 8))
    assert source_key(ImageRef(uri, None, 7)) != source_key(ImageRef(uri, None, 8))


def test_no_caller_makes_an_address_of_one_project_another_tasks_image(setup):
    """A direct caller names project 7 and a task of his own, whose storage holds another file at the same address."""
    storages = {1: png(RED), 666: png(BLUE)}

    class Storages:
        gate = setup.source.gate

        def fetch(self, ref, cached=None, /):
            return Fetched(storages[ref.task_id])

    setup.source = Storages()
    embeddings = setup.build()
    planted = embeddings.get(ImageRef("s3://bucket/a.png", 666, 7), 20)
    embedding = embeddings.get(ImageRef("s3://bucket/a.png", 1, 7), 20)
    assert not np.array_equal(planted.image_embedding, embedding.image_embedding)


def test_every_file_gives_its_room_back_once_it_is_encoded_or_is_not_needed(setup):
    budget = ByteBudget(10_000_000)
    inner = setup.source

    class Counted:
        gate = inner.gate

        def fetch(self, ref, cached=None, /):
            file = inner.fetch(ref, cached)
            return None if file is None else replace(file, share=budget.take(len(file.data)))

    inner.contents |= {"red again": png(RED), "broken": b"no image"}
    setup.source = Counted()
    setup.encoder.gate.clear()
    embeddings = setup.build()
    names = ("red", "red again", "blue")
    threads = [threading.Thread(target=embeddings.get, args=(ref(name), 20)) for name in names]
    for thread in threads:
        thread.start()
    eventually(lambda: embeddings.encoding == 2 and len(inner.fetched) == 3)
    eventually(lambda: budget.taken == len(names) * 30 * 40 * 3)  # the inputs of the network, and no file
    with pytest.raises(ImageError):
        embeddings.get(ref("broken"), 20)
    setup.encoder.gate.set()
    for thread in threads:
        thread.join(20)
    eventually(lambda: budget.taken == 0)
    setup.clock.advance(61)
    embeddings.get(ref("red"), 20)
    eventually(lambda: inner.fetched.count("red") == 2)
    eventually(lambda: budget.taken == 0)


def test_data_addresses_that_are_waited_for_are_bounded_and_a_click_beyond_gets_the_reason(setup):
    uri = "data:" + "A" * 80_000
    setup.source.gate.clear()
    setup.source.contents[uri] = png(RED)
    setup.budget = ByteBudget(100_000)
    embeddings = setup.build()
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(uri), 0.01)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    with pytest.raises(RetryLater) as caught:
        embeddings.get(ref(uri + "A"), 20)
    assert caught.value.reason is Reason.OVERLOADED
    setup.source.gate.set()
    embeddings.get(ref(uri), 20)
    eventually(lambda: setup.budget.taken == 0)
