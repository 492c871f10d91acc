"""Workers and web processes over one Redis: how they scale, what a hit costs, and whether waiting costs anything.

Times, not rates: 1.8 times the images per second is 0.56 times the time per image. Where the processors are too few
for the processes that compute, beside Redis and this one, the ratio is only reported.
"""

import base64
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.cluster.queues import JobQueues
from backend.cluster.store import RedisStore
from backend.composition import parts
from backend.embeddings.content_index import source_key
from backend.embeddings.serialization import rounded
from backend.settings import read
from backend.types import ImageRef, Priority
from model.machine import cpu_count
from model.types import Embedding
from tests.benchmarks.rows import Row, limit, milliseconds, say
from tests.support.cluster import KEYS, Cluster, eventually, ref
from tests.support.fakes import Reply, Request, embedding, key, png
from tests.support.redis_server import PROGRAM, RedisServer

SCALING = 1 / 1.8
STAND_IN_S, IMAGES, DEMO_IMAGES = 0.1, 60, 24
CLICKS_S = 8.0
HIT_LIMIT_MS, HITS = 3.0, 200
WAITERS, WAITING_GOAL = 200, 2.0
PATIENCE_S = 300.0
SLOW_SERVER_S, SLOW_IMAGES, PIPELINE_GOAL_MS = 0.2, 64, 1000 / 9
CLICK_EVERY_S, CLICKS, CLICK_LIMIT_MS = 0.3, 20, 540.0


def run() -> Iterator[Row]:
    """Measure everything; nothing where there is no redis-server."""
    if PROGRAM is None:
        say("skipped cluster: needs redis-server on the PATH (apt-get install redis-server)")
        return
    yield hit("Redis hit, 2 MiB, median", embedding(shape=(256, 64, 64)), HIT_LIMIT_MS)
    yield waiting()
    yield warm_clicks()
    yield encodes("stand-in")
    yield encodes("demo")
    yield from pipeline()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A Redis with room, and nothing else yet."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder), maxmemory="1gb") as server,
        Cluster(server, Path(folder)) as new_cluster,
    ):
        yield new_cluster


def hit(name: str, value: Embedding, limit_ms: float) -> Row:
    """How long an embedding in half precision takes from Redis on loopback, checked and unpacked."""
    with cluster() as started:
        link = RedisConnection(started.redis.url)
        store, wanted = RedisStore(link, KEYS, 60.0), replace(key(), dtype="float16")
        store.put(wanted, rounded(value, "float16"))
        times = [milliseconds(lambda: store.fetch(wanted)) for _ in range(HITS)]
        link.close()
    return limit(name, statistics.median(times), limit_ms, "ms")


def encodes(encoder: str) -> Row:
    """The time per image with two workers beside that with one."""
    one_worker, two_workers = (_ms_per_image(encoder, workers) for workers in (1, 2))
    goal = SCALING if encoder == "stand-in" or cpu_count() > 2 else None  # each worker's encoder uses two cores
    return Row(
        f"per image, two workers, {encoder}",
        two_workers,
        one_worker,
        "ms",
        "one worker",
        goal,
        two_workers / one_worker,
    )


def _ms_per_image(encoder: str, workers: int) -> float:
    with cluster() as started:
        link = RedisConnection(started.redis.url)
        if encoder == "stand-in":
            keys, count = KEYS, IMAGES
            for _ in range(workers):
                started.worker(STAND_IN_S)
        else:
            keys, count = _demo_workers(started, workers), DEMO_IMAGES
        refs = [
            ImageRef(f"data:image/png;base64,{base64.b64encode(png((number, 9, 9))).decode()}", number, 1)
            for number in range(count)
        ]
        queues = JobQueues(link, keys)
        start = time.perf_counter()
        for item in refs:
            queues.enqueue(item, source_key(item), Priority.BULK)
        eventually(lambda: _done(link, keys) == count, PATIENCE_S)
        took = time.perf_counter() - start
        link.close()
    say(f"measured {workers} workers, {encoder}: {count / took:.1f} images/s")
    return took / count * 1000


def pipeline() -> list[Row]:
    """One worker, images that take 200 ms to fetch and 100 ms to encode: bulk work, and clicks during it."""
    with cluster() as started:
        link, web = RedisConnection(started.redis.url), started.web()
        started.worker(STAND_IN_S)
        start = time.perf_counter()
        _enqueue_slow_images(started, JobQueues(link, KEYS), "alone", SLOW_IMAGES)
        eventually(lambda: _done(link, KEYS) == SLOW_IMAGES, PATIENCE_S)
        took_ms = (time.perf_counter() - start) * 1000
        say(f"measured one worker, slow server: {1000 * SLOW_IMAGES / took_ms:.1f} images/s")
        _enqueue_slow_images(started, JobQueues(link, KEYS), "meanwhile", 3 * SLOW_IMAGES)
        clicks = []
        for number in range(CLICKS):
            started.add(f"click{number}", reply=_slow((7, number, 9)))
            clicks.append(milliseconds(lambda name=f"click{number}": web.get(ref(name), PATIENCE_S)))
            time.sleep(CLICK_EVERY_S)
        is_bulk_over = _done(link, KEYS) == 4 * SLOW_IMAGES + CLICKS
        link.close()
    say(f"measured clicks during bulk work: median {statistics.median(clicks):.0f} ms, bulk over: {is_bulk_over}")
    return [
        limit("per image, one worker, slow server", took_ms / SLOW_IMAGES, PIPELINE_GOAL_MS, "ms"),
        limit("worst click during that bulk work", max(clicks), CLICK_LIMIT_MS, "ms"),
    ]


def _enqueue_slow_images(cluster: Cluster, queues: JobQueues, name: str, count: int) -> None:
    for number in range(count):
        cluster.add(f"{name}{number}", reply=_slow((len(name), number, 8)))
        item = ref(f"{name}{number}")
        queues.enqueue(item, source_key(item), Priority.BULK)


def _slow(colour: tuple[int, int, int]) -> Callable[[Request], Reply]:
    image = png(colour)

    def answer(request: Request) -> Reply:
        time.sleep(SLOW_SERVER_S)
        return Reply(image)

    return answer


def _done(link: RedisConnection, keys: Keys) -> int:
    return link.call(lambda client: sum(1 for _ in client.scan_iter(f"{keys.prefix}:*:place:*", count=1000)))


def _demo_workers(cluster: Cluster, workers: int) -> Keys:
    """Start real workers with the demo model, one thread each."""
    environ = {
        **os.environ,
        **cluster.environ,
        "PADDLE_SAM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    started = []
    for _ in range(workers):
        process = cluster.spawn("backend", "worker", env=environ)
        started.append(f":{process.pid} ".encode())
    with cluster.redis.client() as client:
        eventually(
            lambda: all(any(name in worker for worker in client.zrange(KEYS.workers, 0, -1)) for name in started),
            PATIENCE_S,
        )
    return Keys(KEYS.prefix, parts.read_weights(read(cluster.environ)).model_version)


def warm_clicks() -> Row:
    """The time per warm click, with two web processes beside one."""
    with cluster() as running:
        _demo_workers(running, 1)
        counts = {}
        for processes in (1, 2):
            started = [
                running.spawn(
                    "tests.benchmarks.cluster_clicks",
                    json.dumps({**running.environ, "PADDLE_SAM_DEVICE": "cpu"}),
                    str(CLICKS_S),
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                )
                for _ in range(processes)
            ]
            counts[processes] = sum(json.loads(each.communicate(timeout=PATIENCE_S)[0]) for each in started)
            say(f"measured {processes} web processes: {counts[processes]:.1f} clicks/s")
    one, two = (1000 / counts[processes] for processes in (1, 2))
    return Row("per warm click, two web processes", two, one, "ms", "one process", SCALING, two / one)


def waiting() -> Row:
    """The 95th percentile of finding a warm embedding while 200 clicks wait, beside that while none does."""
    with cluster() as started:
        started.add("warm", (0, 0, 250))
        started.add("cold", (250, 0, 0))
        web, worker = started.web(), started.worker()
        web.get(ref("warm"), PATIENCE_S)
        quiet = _p95(web)
        worker.terminate()
        worker.wait()
        started.announce()  # without a worker the clicks would not wait
        with ThreadPoolExecutor(WAITERS) as pool:
            for _ in range(WAITERS):
                pool.submit(web.get, ref("cold"), PATIENCE_S)
            eventually(lambda: web.metrics.registry.get_sample_value("paddle_sam_waiting") == WAITERS)
            crowded = _p95(web)
            started.worker()
    name = "finding a warm embedding, 200 waiting, p95"
    return Row(name, crowded, quiet, "ms", "none waiting", WAITING_GOAL, crowded / quiet)


def _p95(web) -> float:
    times = []
    for _ in range(400):
        times.append(milliseconds(lambda: web.get(ref("warm"), 0.0)))
        time.sleep(0.002)
    return statistics.quantiles(times, n=20)[-1]
