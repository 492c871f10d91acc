"""Faults of a cluster, with a real Redis and real worker processes: no caller hangs, no lock stays."""

import json
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.embeddings.content_index import source_key
from backend.errors import Reason, RetryLater
from backend.types import Priority
from tests.support.cluster import KEYS, SOON_S, Cluster, colour, eventually, ref
from tests.support.redis_server import RedisServer, free_port, needs_redis
from tests.support.slow_proxy import SlowProxy

pytestmark = [needs_redis, pytest.mark.timeout(240)]

RED, BLUE, GREEN = (250, 0, 0), (0, 0, 250), (0, 250, 0)
RECOVERED_S = 10.0
BUSY_S = 5.0
"""What a busy machine may add to any time."""


@pytest.fixture
def redis(tmp_path):
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(redis, tmp_path):
    with Cluster(redis, tmp_path) as cluster:
        for name, value in (("red", RED), ("blue", BLUE), ("green", GREEN)):
            cluster.add(name, value)
        yield cluster


def outcome(web, name, deadline_s=SOON_S):
    """A click's colour or its reason, and how long it took."""
    start = time.monotonic()
    try:
        answer = colour(web.get(ref(name), deadline_s))
    except RetryLater as error:
        answer = error.reason
    return answer, time.monotonic() - start


def answers_again(web, name, value):
    """Whether clicks are answered soon, as after a trouble is over."""
    eventually(lambda: outcome(web, name)[0] == value)


def test_redis_that_is_not_there_at_the_start_is_waited_for(cluster, redis):
    redis.kill()
    web, _ = cluster.web(), cluster.worker(wait=False)
    answer, took_s = outcome(web, "red")
    assert answer is Reason.STORE_UNAVAILABLE
    assert took_s < BUSY_S
    assert web.view().headline == "Redis does not answer"
    redis.start()
    answers_again(web, "red", RED)
    assert cluster.encodes() == [RED]


def test_redis_that_goes_while_a_click_waits_is_reported_and_warm_clicks_go_on(cluster, redis):
    web, _ = cluster.web(), cluster.worker(encode_s=2.0)
    web.get(ref("blue"), SOON_S)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        eventually(lambda: RED in cluster.encodes())
        redis.kill()
        for _ in range(20):
            assert outcome(web, "blue", 0.5)[0] == BLUE
        answer, took_s = click.result()
        assert answer is Reason.STORE_UNAVAILABLE
        assert took_s < RECOVERED_S + BUSY_S
    assert outcome(web, "green")[1] < BUSY_S
    redis.start()
    answers_again(web, "green", GREEN)
    answers_again(web, "red", RED)
    assert cluster.encodes().count(RED) <= 2


def test_redis_that_takes_two_seconds_slows_cold_clicks_down_and_warm_ones_not(cluster, redis):
    cluster.worker()
    with SlowProxy(redis.port) as proxy:
        web = cluster.web(REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        web.get(ref("blue"), SOON_S)
        proxy.delay_s = 2.0
        start = time.monotonic()
        for _ in range(20):
            assert outcome(web, "blue", 0.5)[0] == BLUE
        assert time.monotonic() - start < 1.0 + BUSY_S
        answer, took_s = outcome(web, "green", 1.0)
        assert answer in (Reason.BUDGET_EXCEEDED, Reason.STORE_UNAVAILABLE)
        assert took_s < 1.0 + BUSY_S
        assert outcome(web, "red")[0] == RED
        proxy.delay_s = 0.0
        answers_again(web, "green", GREEN)


def test_a_full_redis_is_reported_at_once_and_used_again_when_there_is_room(cluster, redis):
    web, _ = cluster.web(), cluster.worker()
    web.get(ref("blue"), SOON_S)
    redis.config(maxmemory_policy="noeviction", maxmemory="1")
    answer, took_s = outcome(web, "red")
    assert answer is Reason.STORE_UNAVAILABLE
    assert took_s < BUSY_S
    assert outcome(web, "blue", 0.5)[0] == BLUE
    assert any("OOM" in stats.trouble or "maxmemory" in stats.trouble for stats in web.store.stats())
    redis.config(maxmemory="64mb", maxmemory_policy="volatile-lru")
    answers_again(web, "red", RED)


def test_a_redis_that_fills_up_during_an_encode_is_reported_to_those_who_wait(cluster, redis):
    web, _ = cluster.web(), cluster.worker(encode_s=2.0)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        eventually(lambda: RED in cluster.encodes())
        redis.config(maxmemory_policy="noeviction", maxmemory="1")
        answer, took_s = click.result()
    assert answer is Reason.STORE_UNAVAILABLE
    assert took_s < RECOVERED_S + BUSY_S
    redis.config(maxmemory="64mb", maxmemory_policy="volatile-lru")
    answers_again(web, "red", RED)
    assert cluster.encodes() == [RED]  # the worker still had it


def test_a_redis_that_restarts_empty_during_an_encode_loses_no_click(cluster, redis):
    web, _ = cluster.web(), cluster.worker(encode_s=2.0)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        eventually(lambda: RED in cluster.encodes())
        redis.restart_empty()
        answer, took_s = click.result()
    assert (answer, took_s < 2 * RECOVERED_S + BUSY_S) == (RED, True)
    assert cluster.encodes() == [RED]


def test_a_redis_that_restarts_empty_loses_no_click_that_waits_for_its_turn(cluster, redis):
    web = cluster.web()
    cluster.announce()
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        with redis.client() as client:
            eventually(lambda: client.llen(f"rq:queue:{KEYS.queue(Priority.INTERACTIVE)}") == 1)
        redis.restart_empty()
        cluster.worker()
        assert click.result()[0] == RED


def test_a_read_only_replica_is_reported_and_what_it_holds_is_used(cluster, redis):
    web, other, _ = cluster.web(), cluster.web(), cluster.worker()
    web.get(ref("blue"), SOON_S)
    with redis.client() as client:
        client.replicaof("127.0.0.1", free_port())
        assert outcome(web, "blue", 0.5)[0] == BLUE
        assert outcome(other, "blue")[0] == BLUE
        answer, took_s = outcome(web, "red")
        assert answer is Reason.STORE_UNAVAILABLE
        assert took_s < BUSY_S
        client.replicaof("NO", "ONE")
    answers_again(web, "red", RED)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_clicks_outlast_a_worker_that_is_killed(cluster, redis, moment):
    """Before: it has taken the job off its queue and done nothing yet."""
    web = cluster.web()
    with ThreadPoolExecutor(3) as pool, redis.client() as client:
        if moment == "before":
            cluster.announce()
            clicks = [pool.submit(outcome, web, "red") for _ in range(3)]
            eventually(lambda: client.lpop(f"rq:queue:{KEYS.queue(Priority.INTERACTIVE)}") is not None)
            cluster.worker(wait=False)
            killed = time.monotonic()
        else:
            worker = cluster.worker(encode_s=30.0)
            clicks = [pool.submit(outcome, web, "red") for _ in range(3)]
            eventually(lambda: RED in cluster.encodes())
            cluster.worker()
            worker.send_signal(signal.SIGKILL)
            killed = time.monotonic()
        assert {click.result()[0] for click in clicks} == {RED}
        assert time.monotonic() - killed < RECOVERED_S + BUSY_S
        assert client.exists(KEYS.lease(source_key(ref("red")))) == 0
        assert client.exists(KEYS.enqueued(source_key(ref("red")), Priority.INTERACTIVE)) == 0
    assert cluster.encodes() == [RED] * (1 if moment == "before" else 2)


def test_a_worker_that_is_killed_after_the_encode_leaves_what_it_made(cluster, redis):
    web = cluster.web()
    worker = cluster.worker()
    web.get(ref("red"), SOON_S)
    worker.kill()
    assert outcome(cluster.web(), "red")[0] == RED
    cluster.worker()
    assert outcome(web, "blue")[0] == BLUE
    assert cluster.encodes() == [RED, BLUE]


def test_a_worker_that_is_stopped_finishes_the_job_in_hand_and_leaves(cluster, redis):
    web, worker = cluster.web(), cluster.worker(encode_s=2.0)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        eventually(lambda: RED in cluster.encodes())
        worker.terminate()
        assert click.result()[0] == RED
    assert worker.wait(SOON_S) == 0
    with redis.client() as client:
        assert client.zcard(KEYS.workers) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_that_is_stopped_does_so_at_once(cluster, number):
    worker = cluster.worker()
    worker.send_signal(number)
    assert worker.wait(SOON_S) == 0


def test_two_workers_given_the_same_image_encode_it_once(cluster, redis):
    web = cluster.web()
    for _ in range(2):
        cluster.worker(encode_s=1.5)
    image = ref("red")
    for priority in (Priority.INTERACTIVE, Priority.BULK):
        cluster.enqueue(image, priority)
    assert outcome(web, "red")[0] == RED
    assert cluster.encodes() == [RED]
    assert cluster.downloads() == ["red"]


def test_a_worker_that_was_stopped_for_a_while_harms_nothing(cluster, redis):
    web, stopped = cluster.web(), cluster.worker(encode_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(outcome, web, "red")
        eventually(lambda: RED in cluster.encodes())
        stopped.send_signal(signal.SIGSTOP)
        cluster.worker()
        assert click.result()[0] == RED
        stopped.send_signal(signal.SIGCONT)
    eventually(lambda: cluster.encodes("end").count(RED) == 2)
    assert outcome(web, "green")[0] == GREEN
    assert outcome(cluster.web(), "red")[0] == RED


def test_a_web_process_that_is_killed_while_waiting_leaves_its_work_to_the_others(cluster, redis):
    cluster.worker(encode_s=3.0)
    waiting = cluster.spawn(
        "tests.support.cluster_web", json.dumps(cluster.environ), "5", "red", stdout=subprocess.DEVNULL
    )
    eventually(lambda: RED in cluster.encodes())
    waiting.kill()
    assert outcome(cluster.web(), "red")[0] == RED
    assert cluster.encodes() == [RED]


def test_clocks_that_differ_do_not_matter(cluster, redis):
    """A web process whose clocks are a day off: what it goes by is how much time Redis says is left."""
    cluster.worker()
    cluster.web().get(ref("red"), SOON_S)
    for off_s in (-86_400.0, 86_400.0):
        other = cluster.web(clock=lambda off_s=off_s: time.monotonic() + off_s)
        assert outcome(other, "red")[0] == RED
        assert outcome(other, "red", 0.0)[0] == RED
    assert cluster.downloads() == ["red"]


def test_nothing_in_a_queue_makes_a_worker_run_anything_or_stop(cluster, redis, tmp_path):
    from rq import Queue
    from rq.job import Callback
    from rq.serializers import JSONSerializer

    web, worker = cluster.web(), cluster.worker()
    marks = [tmp_path / name for name in ("ran", "called back", "from a pickle")]
    with redis.client() as client:
        name = KEYS.queue(Priority.INTERACTIVE)
        queue = Queue(name, connection=client, serializer=JSONSerializer)
        queue.enqueue("os.mkdir", str(marks[0]), on_success=Callback("os.abort"), on_failure=Callback("os.abort"))
        queue.enqueue("os.mkdir", '{"uri": "a", "more": 1}', timeout=1, result_ttl=-1)
        Queue(name, connection=client).enqueue("os.mkdir", str(marks[2]))
        for number, fields in enumerate(
            [{}, {"data": b"\xff"}, {"data": b"[]", "created_at": "never"}, {"data": b"[1,2,3,4]", "status": "odd"}]
        ):
            if fields:
                client.hset(f"rq:job:bad{number}", mapping=fields)
            client.rpush(f"rq:queue:{name}", f"bad{number}")
        client.rpush(f"rq:queue:{name}", b"\xff\xfe")
    assert outcome(web, "red")[0] == RED
    assert outcome(web, "blue")[0] == BLUE
    assert not any(mark.exists() for mark in marks)
    assert worker.poll() is None


def test_a_worker_takes_no_commands_from_redis(cluster, redis):
    """RQ's own workers do: anything that can write to Redis can stop them."""
    web, _ = cluster.web(), cluster.worker()
    assert outcome(web, "red")[0] == RED
    with redis.client() as client:
        assert client.pubsub_channels("rq:*") == []
        assert client.smembers("rq:workers") == set()


def test_while_redis_is_away_for_long_what_a_process_holds_is_served_however_old(cluster, redis):
    offset_s = 0.0
    web, _ = cluster.web(clock=lambda: time.monotonic() + offset_s), cluster.worker()
    web.get(ref("red"), SOON_S)
    redis.kill()
    assert outcome(web, "blue")[0] is Reason.STORE_UNAVAILABLE
    offset_s = 86_400.0
    assert outcome(web, "red", 0.0)[0] == RED


def test_no_thread_is_left_behind_by_an_outage(cluster, redis):
    web = cluster.web()
    before = threading.active_count()
    for _ in range(3):
        redis.kill()
        outcome(web, "red", 1.0)
        redis.start()
        eventually(lambda: web.view().headline != "Redis does not answer")
    assert threading.active_count() <= before + 16 + 1  # the background threads and the prefetcher
