"""The worker: what RQ is let do, how it starts and ends, and that it does not grow."""

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from rq.exceptions import NoSuchJobError

from backend.cluster.queues import MAX_JOB_BYTES
from backend.cluster.worker import _job_class
from backend.embeddings.content_index import source_key
from backend.types import Priority
from tests.support.cluster import KEYS, ROOT, SOON_S, Cluster, colour, eventually, ref
from tests.support.redis_server import needs_redis, redis_module_server, redis_server  # noqa: F401 - fixtures

pytestmark = pytest.mark.timeout(240)
RED, BLUE = (250, 0, 0), (0, 0, 250)


@pytest.fixture
def cluster(redis_server, tmp_path):  # noqa: F811
    with Cluster(redis_server, tmp_path) as cluster:
        cluster.add("red", RED)
        cluster.add("blue", BLUE)
        yield cluster


@needs_redis
def test_a_click_waits_for_a_worker_that_still_loads_its_model(cluster, redis_server):  # noqa: F811
    arguments = json.dumps(cluster.environ), str(cluster.log), "0"
    cluster.spawn("tests.support.cluster_worker", *arguments, env=os.environ | {"CLUSTER_LOAD_S": "2"})
    with redis_server.client() as client:
        eventually(lambda: client.zcard(KEYS.workers) == 1)
    start = time.monotonic()
    assert colour(cluster.web().get(ref("red"), SOON_S)) == RED
    assert time.monotonic() - start > 1.0, "it was still loading"


@needs_redis
def test_a_worker_whose_model_cannot_be_loaded_takes_its_name_back(cluster, redis_server):  # noqa: F811
    arguments = json.dumps(cluster.environ), str(cluster.log), "0"
    worker = cluster.spawn("tests.support.cluster_worker", *arguments, env=os.environ | {"CLUSTER_LOAD_S": "-1"})
    assert worker.wait(SOON_S) == 1
    with redis_server.client() as client:
        assert client.zcard(KEYS.workers) == 0


def job(fields):
    ran = []
    kind = _job_class(lambda arguments, queue, job_id: ran.append((arguments, queue, job_id)))
    made = kind("1" * 32, connection=object(), serializer="json")
    made.restore(fields)
    return made, ran


def packed(value):
    return zlib.compress(json.dumps(value).encode())


# What is taken from Redis


def test_a_job_runs_what_the_worker_does_and_not_what_it_names():
    made, ran = job({b"data": packed(["os.abort", "os", ["an argument"], {"more": 1}])})
    made.found_in = "a queue"
    made.perform()
    assert ran == [(["an argument"], "a queue", "1" * 32)]


def test_callbacks_hooks_repeats_and_limits_of_a_job_are_left_in_redis():
    made, _ = job(
        {
            b"data": packed(["f", None, [""], {}]),
            b"success_callback_name": b"os.abort",
            b"failure_callback_name": b"os.abort",
            b"stopped_callback_name": b"os.abort",
            b"webhooks": b'[{"url": "http://169.254.169.254/", "statuses": ["finished"]}]',
            b"repeats_left": b"1000000",
            b"retries_left": b"1000000",
            b"dependency_ids": b'["x"]',
            b"rate_limit_key": b"x",
            b"timeout": b"999999",
            b"result_ttl": b"-1",
            b"failure_ttl": b"-1",
        }
    )
    assert made.success_callback is None
    assert made.failure_callback is None
    assert not made.webhooks
    assert not made.repeats_left
    assert not made.retries_left
    assert not made._dependency_ids
    assert not made.rate_limit_key
    assert (made.timeout, made.result_ttl, made.failure_ttl) == (900, 0, 60)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"data": b""},
        {b"data": b"not packed"},
        {b"data": packed([])[:-4] + b"\0\0\0\0"},
        {b"data": packed(["f", None, [""], {}]), b"status": b"odd"},
        {b"data": packed(["f", None, [""], {}]), b"enqueued_at": b"yesterday"},
        {b"data": packed("A" * (2 * MAX_JOB_BYTES + 10))},
    ],
    ids=["nothing", "empty", "not packed", "damaged", "odd status", "odd time", "a bomb"],
)
def test_what_does_not_look_like_a_job_is_as_good_as_none(fields):
    with pytest.raises(NoSuchJobError):
        job(fields)


# How it starts and ends


def command(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "backend", "worker", *arguments],
        cwd=ROOT,
        env={"PATH": "", "HOME": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )


def test_without_redis_url_a_worker_refuses_to_start_and_says_what_to_set():
    done = command()
    assert done.returncode == 2
    assert "set REDIS_URL" in done.stderr


def test_weights_that_are_not_there_are_told(tmp_path):
    done = command(REDIS_URL="redis://127.0.0.1:1/0", PADDLE_SAM_WEIGHTS="SAM-X", MODEL_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "SAM-H_box" in done.stderr


@needs_redis
def test_a_check_tells_whether_this_machines_worker_is_alive(cluster, redis_server):  # noqa: F811
    environ = {"REDIS_URL": redis_server.address}
    assert command("--check", **environ).returncode == 1
    cluster.worker()
    assert command("--check", **environ).returncode == 0
    assert command("--check", REDIS_URL="redis://127.0.0.1:1/0").returncode == 2


@needs_redis
def test_a_worker_told_to_stop_just_before_it_listens_to_its_queues_stops(cluster, tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(
        "import json, os, signal, sys\n"
        "from backend.composition import cluster as redis_parts\n"
        "from backend.settings import read\n"
        "from tests.support.cluster_worker import StandIn\nfrom tests.support.fakes import fake_spec\n"
        "settings = read(json.loads(sys.argv[1]))\n"
        "worker = redis_parts.worker(settings, fake_spec('stand-in@00000000'), None, lambda: StandIn(None, 0, 64))\n"
        "connect = worker._link.connect\n"
        "def stopped_meanwhile():\n    os.kill(os.getpid(), signal.SIGTERM)\n    return connect()\n"
        "worker._link.connect = stopped_meanwhile\n"
        "sys.exit(worker.run())\n"
    )
    command = [sys.executable, str(script), json.dumps(cluster.environ)]
    assert subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=SOON_S, check=False).returncode == 0


@needs_redis
def test_a_worker_that_cannot_load_its_encoder_ends_with_a_failure(cluster, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(
        "import json, sys\n"
        "from backend.composition import cluster as redis_parts\n"
        "from backend.settings import read\nfrom tests.support.fakes import fake_spec\n"
        "def load():\n    raise ValueError('weights are damaged')\n"
        "settings = read(json.loads(sys.argv[1]))\n"
        "sys.exit(redis_parts.worker(settings, fake_spec('m@1'), None, load).run())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(cluster.environ)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    assert done.returncode == 1
    assert "weights are damaged" in done.stderr


@needs_redis
def test_workers_of_another_model_leave_our_queue_alone(cluster, redis_server):  # noqa: F811
    web = cluster.web()
    other = KEYS.__class__(KEYS.prefix, "other@11111111")
    with redis_server.client() as client:
        one = ref("red")
        web._queues.ask(one, source_key(one), Priority.INTERACTIVE)
        assert client.llen(f"rq:queue:{KEYS.queue(Priority.INTERACTIVE)}") == 1
        assert client.llen(f"rq:queue:{other.queue(Priority.INTERACTIVE)}") == 0


# Over time


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    raise AssertionError("no such process")


@pytest.mark.slow
@needs_redis
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_worker_does_not_grow_over_thousands_of_jobs(cluster, redis_server):  # noqa: F811
    web, worker = cluster.web(), cluster.worker()
    assert colour(web.get(ref("blue"), SOON_S)) == BLUE

    def work(count, first):
        for number in range(first, first + count):
            cluster.add(f"n{number}", (number % 251, number // 251, 7))
            one = ref(f"n{number}")
            web._queues.ask(one, source_key(one), Priority.INTERACTIVE)
        with redis_server.client() as client:
            eventually(lambda: not client.llen(f"rq:queue:{KEYS.queue(Priority.INTERACTIVE)}"), 200)

    work(500, 0)
    before = resident_mb(worker.pid)
    work(2500, 500)
    eventually(lambda: len(cluster.encodes("end")) == 3001)
    time.sleep(0.5)
    assert resident_mb(worker.pid) - before < 20
    with redis_server.client() as client:
        assert len(list(client.scan_iter("rq:job:*"))) == 0
        assert len(list(client.scan_iter(f"{KEYS.prefix}:*lease*"))) == 0
        assert len(list(client.scan_iter(f"{KEYS.prefix}:*attempts*"))) == 0
