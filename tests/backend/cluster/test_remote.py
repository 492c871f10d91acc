"""Embeddings over Redis and workers: one download and one encode for the whole team, and clicks that never hang."""

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from backend.cluster.monitor import LOADING_S
from backend.concurrency.byte_budget import ByteBudget
from backend.embeddings.content_index import source_key
from backend.errors import BackendError, ImageError, Reason, RetryLater
from backend.types import ImageRef, Priority
from tests.support.cluster import KEYS, SOON_S, Cluster, colour, eventually, ref
from tests.support.cluster_worker import POISON, TOO_LARGE
from tests.support.fakes import Reply, png
from tests.support.redis_server import needs_redis

pytestmark = [needs_redis, pytest.mark.timeout(180)]

RED, BLUE, GREEN = (250, 0, 0), (0, 0, 250), (0, 250, 0)


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        for name, value in (("red", RED), ("blue", BLUE), ("green", GREEN)):
            cluster.add(name, value)
        yield cluster


def gauge(web, name, **labels):
    return web.metrics.registry.get_sample_value(f"paddle_sam_{name}", labels)


def test_a_cold_click_is_answered_by_a_worker_and_the_next_one_from_memory(cluster):
    web, _ = cluster.web(), cluster.worker()
    assert colour(web.get(ref("red"), SOON_S)) == RED
    assert colour(web.get(ref("red"), 0.0)) == RED
    assert cluster.downloads() == ["red"]
    assert cluster.encodes() == [RED]
    assert gauge(web, "cache_lookups_total", tier="memory") == 1


def test_a_hundred_first_clicks_over_three_web_processes_are_one_download_and_one_encode(cluster):
    cluster.worker(encode_s=1.0)
    clickers = [
        cluster.spawn(
            "tests.support.cluster_web", json.dumps(cluster.environ), str(count), "red", stdout=subprocess.PIPE
        )
        for count in (50, 49)
    ]
    web = cluster.web()
    assert colour(web.get(ref("red"), SOON_S)) == RED
    answers = [json.loads(process.communicate(timeout=SOON_S)[0]) for process in clickers]
    assert answers == [[list(RED)] * 50, [list(RED)] * 49]
    assert cluster.downloads() == ["red"]
    assert cluster.encodes() == [RED]


def test_what_one_web_process_had_encoded_is_warm_for_another(cluster):
    first, second, _ = cluster.web(), cluster.web(), cluster.worker()
    first.get(ref("red"), SOON_S)
    assert colour(second.get(ref("red"), SOON_S)) == RED
    assert gauge(second, "cache_lookups_total", tier="redis") == 1
    assert cluster.encodes() == [RED]


def test_a_peek_finds_what_another_web_process_had_encoded_and_enqueues_nothing(cluster):
    first, second = cluster.web(), cluster.web()
    assert second.peek(ref("red")) is None
    assert second.encoding == 0
    cluster.worker()
    first.get(ref("red"), SOON_S)
    assert colour(second.peek(ref("red"))) == RED
    assert second.peek(ref("blue")) is None
    assert cluster.encodes() == [RED]


def test_two_addresses_of_one_content_on_two_workers_at_once_are_one_encode(cluster):
    cluster.add("again", RED)
    web = cluster.web()
    for _ in range(2):
        cluster.worker(encode_s=1.0)
    with ThreadPoolExecutor(2) as pool:
        colours = list(pool.map(lambda name: colour(web.get(ref(name), SOON_S)), ["red", "again"]))
    assert colours == [RED, RED]
    assert sorted(cluster.downloads()) == ["again", "red"]
    assert cluster.encodes() == [RED]


def test_an_unreadable_image_fails_all_its_waiters_at_once_and_is_remembered_for_half_a_minute(cluster, redis_server):
    cluster.add("broken", reply=Reply(png(size_wh=(300, 300))[:-40]))
    web, other, _ = cluster.web(), cluster.web(), cluster.worker()
    with ThreadPoolExecutor(10) as pool:
        errors = [pool.submit(process.get, ref("broken"), SOON_S) for process in (web, other) for _ in range(5)]
        assert {error.exception().reason for error in errors} == {Reason.IMAGE_UNREADABLE}
    with pytest.raises(ImageError):
        other.get(ref("broken"), SOON_S)
    assert cluster.downloads() == ["broken"]
    with redis_server.client() as client:
        assert 0 < client.ttl(KEYS.failure(source_key(ref("broken")))) <= 30
        client.delete(KEYS.failure(source_key(ref("broken"))))  # as time does
    cluster.add("broken", GREEN)
    assert colour(web.get(ref("broken"), SOON_S)) == GREEN


def test_memory_that_runs_out_is_tried_once_more_and_then_reported(cluster):
    cluster.add("large", TOO_LARGE)
    web, _ = cluster.web(), cluster.worker()
    with pytest.raises(RetryLater) as caught:
        web.get(ref("large"), SOON_S)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert cluster.encodes() == [TOO_LARGE, TOO_LARGE]
    assert colour(web.get(ref("red"), SOON_S)) == RED


@contextmanager
def supervised(cluster):
    """A worker that is started again whenever it dies."""
    stopped = threading.Event()

    def supervise():
        while not stopped.is_set():
            cluster.announce()  # it is alive while it starts, however long that takes
            cluster.worker(wait=False).wait()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        yield
    finally:
        stopped.set()
        cluster.processes[-1].kill()
        supervisor.join()


def test_an_image_that_kills_its_workers_is_given_up(cluster, monkeypatch):
    monkeypatch.setenv("CLUSTER_LEASE_S", "2")  # each death is noticed when the lease has expired
    cluster.add("poison", POISON)
    cluster.announce()
    web = cluster.web()
    with supervised(cluster):
        with pytest.raises(ImageError, match="died or hung while encoding") as caught:
            web.get(ref("poison"), 150)
        assert caught.value.reason is Reason.ENCODE_FAILED
        assert cluster.encodes() == [POISON] * 3
        assert colour(web.get(ref("red"), SOON_S)) == RED


def test_an_interactive_click_waits_for_the_job_in_hand_and_no_other(cluster):
    web = cluster.web()
    for number in range(250):
        name = f"later{number}"
        cluster.add(name, (number, 9, 9))
        for offset, priority in ((0, Priority.PREFETCH), (250, Priority.BULK)):
            image = ref(name, project_id=offset + 2)
            cluster.enqueue(image, priority)
    cluster.worker(encode_s=0.3)
    eventually(lambda: cluster.encodes())
    before = len(cluster.encodes())
    assert colour(web.get(ref("red"), SOON_S)) == RED
    assert cluster.encodes().index(RED) - before <= 1  # the one in hand may just have changed
    # What is known may be older than the last of the jobs; of those in bulk none is taken.
    eventually(lambda: web.cluster.is_known and web.cluster.queues[2].depth == 250)
    assert web.cluster.queues[1].depth > 200
    assert web.cluster.queues[1].age_s > 0


def held_up(cluster, name):
    """An image of a slow server, and what lets it go."""
    let_go, image = threading.Event(), png(GREEN)
    cluster.add(name, reply=lambda request: Reply(image if let_go.wait(SOON_S) else b""))
    return let_go


@pytest.mark.parametrize("priority", [Priority.PREFETCH, Priority.BULK])
def test_a_click_does_not_wait_for_a_slow_background_download(cluster, priority):
    let_go = held_up(cluster, "slow")
    cluster.worker()
    web = cluster.web()
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(web.get, ref("slow"), SOON_S, priority)
        eventually(lambda: cluster.downloads() == ["slow"])
        try:
            assert colour(web.get(ref("red"), 15.0)) == RED
        finally:
            let_go.set()
        assert colour(later.result()) == GREEN
    assert cluster.downloads() == ["slow", "red"]


def test_a_click_on_an_image_that_is_being_downloaded_for_bulk_work_takes_that_download_up(cluster):
    let_go = held_up(cluster, "slow")
    cluster.worker()
    web = cluster.web()
    with ThreadPoolExecutor(2) as pool:
        later = pool.submit(web.get, ref("slow"), SOON_S, Priority.BULK)
        eventually(lambda: cluster.downloads() == ["slow"])
        click = pool.submit(web.get, ref("slow"), SOON_S)
        time.sleep(1.0)
        let_go.set()
        assert [colour(future.result()) for future in (click, later)] == [GREEN, GREEN]
    assert cluster.downloads() == ["slow"]


def test_ten_annotators_prefetching_one_image_queue_it_once(cluster, redis_server):
    webs = [cluster.web() for _ in range(3)]
    for _ in range(4):
        for web in webs:
            web.prefetch([ref("red"), ref("blue")])
    eventually(lambda: not any(web.ahead for web in webs))
    with redis_server.client() as client:
        eventually(lambda: client.llen(f"rq:queue:{KEYS.queue(Priority.PREFETCH)}") == 2)
    cluster.worker()
    eventually(lambda: len(cluster.encodes("end")) == 2)
    webs[0].prefetch([ref("red")])
    eventually(lambda: not webs[0].ahead)
    time.sleep(0.3)
    assert sorted(cluster.downloads()) == ["blue", "red"]
    assert colour(webs[1].get(ref("blue"), SOON_S)) == BLUE


def test_a_click_on_a_prefetched_image_overtakes_its_own_prefetch(cluster):
    cluster.announce()
    web = cluster.web()
    web.prefetch([ref("blue"), ref("green"), ref("red")])
    eventually(lambda: not web.ahead)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(web.get, ref("red"), SOON_S)
        eventually(lambda: gauge(web, "waiting") == 1)
        time.sleep(0.3)
        cluster.worker(encode_s=0.3)
        assert colour(click.result()) == RED
    eventually(lambda: len(cluster.encodes("end")) == 3)
    assert cluster.encodes().index(RED) <= 1  # another may be encoded while it is being fetched


def test_a_click_that_cannot_wait_leaves_with_a_reason_and_the_work_goes_on(cluster):
    web, _ = cluster.web(), cluster.worker(encode_s=1.0)
    eventually(lambda: web.is_ready)
    started = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        web.get(ref("red"), 0.2)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert time.monotonic() - started < 1
    assert colour(web.get(ref("red"), SOON_S)) == RED
    assert cluster.encodes() == [RED]


def refused(web, name="red"):
    """The error of a click that could wait a minute, and after how many seconds it came."""
    start = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        web.get(ref(name), SOON_S)
    return caught.value, time.monotonic() - start


def test_without_a_worker_a_click_gets_the_reason_at_once_and_a_worker_that_starts_later_serves_it(cluster):
    web = cluster.web()
    eventually(lambda: web.cluster.is_known)
    error, took_s = refused(web)
    assert (error.reason, took_s < 2.0) == (Reason.NO_WORKER, True)
    assert "no worker is alive" in str(error)
    assert not web.is_ready
    assert web.view().headline == "no worker is running"
    assert refused(web)[0].reason is Reason.NO_WORKER
    cluster.worker()
    eventually(lambda: web.is_ready)
    assert colour(web.get(ref("red"), SOON_S)) == RED
    assert cluster.downloads() == ["red"]


def test_a_worker_of_another_model_is_none_and_is_named(cluster, redis_server):
    with redis_server.client() as client:
        seconds, _ = client.time()
        client.zadd(KEYS.workers, {"other:7 SAM-H@1a2b3c4d": seconds})
    error, took_s = refused(cluster.web())
    assert (error.reason, took_s < 2.0) == (Reason.NO_WORKER, True)
    assert "encode with other weights: other:7 SAM-H@1a2b3c4d" in str(error)


def test_a_worker_that_is_busy_or_late_by_some_seconds_counts_as_alive(cluster, redis_server):
    web = cluster.web()
    with redis_server.client() as client:
        client.zadd(KEYS.workers, {f"busy:1 {KEYS.model}": client.time()[0] - 3})
    with pytest.raises(RetryLater) as caught:
        web.get(ref("red"), 0.5)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED


def test_a_worker_that_loads_its_model_counts_as_alive_also_where_that_keeps_it_from_saying_so(cluster, redis_server):
    """Importing a library may hold Python's lock for seconds."""
    web = cluster.web()
    with cluster.parts() as parts:
        parts.monitor.heartbeat(f"busy:1 {KEYS.model}", LOADING_S)  # what a worker sends before it loads
    with redis_server.client() as client:
        client.zincrby(KEYS.workers, -20, f"busy:1 {KEYS.model}")  # 20 s later
    with pytest.raises(RetryLater) as caught:
        web.get(ref("red"), 0.5)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    with cluster.parts() as parts:
        parts.monitor.heartbeat(f"busy:1 {KEYS.model}")  # it is ready: from here on its heartbeats are frequent
    with redis_server.client() as client:
        client.zincrby(KEYS.workers, -11, f"busy:1 {KEYS.model}")
    assert refused(web, "blue")[0].reason is Reason.NO_WORKER


def test_clicks_that_wait_get_the_reason_when_the_last_worker_leaves(cluster, redis_server):
    cluster.announce()
    web = cluster.web()
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(refused, web)
        eventually(lambda: gauge(web, "waiting") == 1)
        with redis_server.client() as client:
            client.zrem(KEYS.workers, f"busy:1 {KEYS.model}")  # as a worker does that gets SIGTERM
        error, took_s = click.result()
    assert (error.reason, took_s < 15.0) == (Reason.NO_WORKER, True)


def test_a_changed_image_behind_the_same_address_is_noticed(cluster, redis_server):
    offset_s = 0.0
    web, _ = cluster.web(clock=lambda: time.monotonic() + offset_s), cluster.worker()
    cluster.images.routes["/elsewhere.png"] = Reply(png(RED))
    moved = ImageRef("/elsewhere.png", 5, 1)
    assert colour(web.get(moved, SOON_S)) == RED
    cluster.images.routes["/elsewhere.png"] = Reply(png(BLUE))
    key = source_key(moved)
    with redis_server.client() as client:
        client.pexpire(KEYS.content(key), 400_000)  # as if 200 of its 600 seconds had gone by
    offset_s = 200.0
    assert colour(web.get(moved, SOON_S)) == RED  # answered at once, and looked into meanwhile
    eventually(lambda: colour(web.get(moved, SOON_S)) == BLUE)


def test_a_slow_image_server_delays_no_warm_click(cluster):
    web, _ = cluster.web(), cluster.worker(encode_s=3.0)
    web.get(ref("blue"), SOON_S)
    with ThreadPoolExecutor(200) as pool:
        cold = [pool.submit(web.get, ref("red"), SOON_S) for _ in range(200)]
        eventually(lambda: gauge(web, "waiting") == 200)
        start = time.perf_counter()
        for _ in range(100):
            assert colour(web.get(ref("blue"), 0.0)) == BLUE
        assert time.perf_counter() - start < 2.0
        assert {colour(future.result()) for future in cold} == {RED}
    assert gauge(web, "encodes_shared_total") == 199


def test_closing_ends_every_wait_and_every_thread(cluster):
    before = set(threading.enumerate())
    cluster.announce()
    web = cluster.web()
    with ThreadPoolExecutor(3) as pool:
        clicks = [pool.submit(web.get, ref(name), SOON_S) for name in ("red", "blue", "red")]
        eventually(lambda: gauge(web, "waiting") == 3)
        web.close()
        assert {click.exception().reason for click in clicks} == {Reason.MODEL_NOT_READY}
    with pytest.raises(RetryLater, match="stopping"):
        web.get(ref("green"), SOON_S)
    assert set(threading.enumerate()) <= before


def test_an_image_inside_the_task_that_is_too_large_for_a_job_is_refused_with_the_reason(cluster):
    cluster.announce()
    web = cluster.web()
    large = ImageRef("data:image/png;base64," + "A" * 17_000_000, 1, 1)
    with pytest.raises(BackendError) as caught:
        web.get(large, SOON_S)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_an_address_that_is_no_text_is_refused_with_the_reason(cluster):
    cluster.announce()
    web = cluster.web()
    with pytest.raises(ImageError) as caught:
        web.get(ImageRef("http://localhost/\ud800.png", 1, 1), SOON_S)
    assert caught.value.reason is Reason.UNSUPPORTED_IMAGE_SOURCE


def test_images_inside_tasks_that_are_waited_for_are_bounded_and_a_click_beyond_gets_the_reason(cluster):
    cluster.announce()
    budget = ByteBudget(100_000)
    web = cluster.web(budget=budget)
    uris = ["data:image/png;base64," + letter * 80_000 for letter in "AB"]
    with pytest.raises(RetryLater) as caught:
        web.get(ImageRef(uris[0], 1, 1), 0.01)
    assert caught.value.reason in (Reason.BUDGET_EXCEEDED, Reason.MODEL_NOT_READY)
    with pytest.raises(RetryLater) as caught:
        web.get(ImageRef(uris[1], 1, 1), SOON_S)
    assert caught.value.reason is Reason.OVERLOADED
    web.close()
    assert budget.taken == 0
