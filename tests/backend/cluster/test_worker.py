"""The worker process: how it starts and ends, and that it does not grow."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.cluster.worker import DEVICE_FAILED
from backend.embeddings.content_index import source_key
from backend.errors import Reason, RetryLater
from backend.types import Priority
from tests.support.cluster import KEYS, ROOT, SOON_S, Cluster, colour, eventually, ref
from tests.support.cluster_worker import TOO_LARGE
from tests.support.redis_server import needs_redis

pytestmark = pytest.mark.timeout(240)
RED, BLUE = (250, 0, 0), (0, 0, 250)


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        cluster.add("red", RED)
        cluster.add("blue", BLUE)
        yield cluster


@needs_redis
def test_a_click_waits_for_a_worker_that_still_loads_its_model(cluster, redis_server, monkeypatch):
    monkeypatch.setenv("CLUSTER_LOAD_S", "2")
    cluster.worker(wait=False)
    with redis_server.client() as client:
        eventually(lambda: client.zcard(KEYS.workers) == 1)
    start = time.monotonic()
    assert colour(cluster.web().get(ref("red"), SOON_S)) == RED
    assert time.monotonic() - start > 1.0, "it was still loading"


@needs_redis
def test_a_worker_whose_model_cannot_be_loaded_takes_its_name_back(cluster, redis_server, monkeypatch):
    monkeypatch.setenv("CLUSTER_LOAD_S", "-1")
    worker = cluster.worker(wait=False)
    assert worker.wait(SOON_S) == 1
    with redis_server.client() as client:
        assert client.zcard(KEYS.workers) == 0


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
    completed = command()
    assert completed.returncode == 2
    assert "set REDIS_URL" in completed.stderr


def test_weights_that_are_not_there_are_reported(tmp_path):
    completed = command(REDIS_URL="redis://127.0.0.1:1/0", PADDLE_SAM_WEIGHTS="SAM-X", MODEL_DIR=str(tmp_path))
    assert completed.returncode == 2
    assert "SAM-H_box" in completed.stderr


@needs_redis
def test_a_check_says_whether_this_machines_worker_is_alive(cluster, redis_server):
    environ = {"REDIS_URL": redis_server.address}
    assert command("--check", **environ).returncode == 1
    cluster.worker()
    assert command("--check", **environ).returncode == 0
    assert command("--check", REDIS_URL="redis://127.0.0.1:1/0").returncode == 2


@needs_redis
def test_a_worker_that_is_stopped_just_before_it_listens_to_its_queues_stops(cluster):
    completed = script(
        cluster,
        "def load():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return StandIn(None, 0, 64)\n"
        "sys.exit(redis_parts.worker(settings, fake_spec('stand-in@00000000'), print, load).run())\n",
    )
    assert (completed.returncode, completed.stderr) == (0, "")


@needs_redis
def test_a_worker_that_cannot_load_its_encoder_ends_with_a_failure(cluster):
    completed = script(
        cluster,
        "def load():\n    raise ValueError('weights are damaged')\n"
        "sys.exit(redis_parts.worker(settings, fake_spec('m@1'), print, load).run())\n",
    )
    assert completed.returncode == 1
    assert "weights are damaged" in completed.stderr


@needs_redis
def test_a_worker_whose_encoder_hangs_fails_the_click_and_ends_so_that_it_is_started_again(cluster):
    web = cluster.web()
    cluster.announce()
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(web.get, ref("red"), SOON_S)
        completed = script(
            cluster,
            "pipeline.ENCODE_TIMEOUT_S = 0.5\n"
            "label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, None))\n"
            "source = functools.partial(parts.image_source, settings, label_studio)\n"
            f"stand_in = StandIn(pathlib.Path({str(cluster.log)!r}), 300, 8)\n"
            "sys.exit(redis_parts.worker(settings, fake_spec('stand-in@00000000'), source, lambda: stand_in).run())\n",
        )
        assert completed.returncode == 1
        assert "encoder_hangs" in completed.stderr
        assert click.exception().reason is Reason.ENCODE_FAILED


@needs_redis
def test_a_worker_whose_device_fails_at_every_image_fails_three_of_them_and_ends_so_that_it_is_started_again(cluster):
    web, names = cluster.web(), ("one", "two", "three")
    for name in names:
        cluster.add(name, TOO_LARGE)
    worker = cluster.worker()
    reasons = []
    for name in names:
        with pytest.raises(RetryLater) as caught:
            web.get(ref(name), SOON_S)
        reasons.append(caught.value.reason)
    assert reasons == [Reason.OUT_OF_MEMORY] * 3
    assert worker.wait(SOON_S) == DEVICE_FAILED


def script(cluster, code):
    """Run a worker with parts of its own."""
    head = (
        "import functools, json, logging, os, pathlib, signal, sys\n"
        "from backend.cluster import pipeline\n"
        "from backend.composition import cluster as redis_parts, parts, web\n"
        "from backend.label_studio.client import LabelStudio\n"
        "from backend.label_studio.http import LabelStudioHttp\n"
        "from backend.settings import read\n"
        "from tests.support.cluster_worker import StandIn\n"
        "from tests.support.fakes import fake_spec\n"
        "logging.basicConfig(level='WARNING')\n"
        "settings = read(json.loads(sys.argv[1]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + code, json.dumps(cluster.environ)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )


@needs_redis
def test_workers_of_another_model_leave_our_queue_alone(cluster, redis_server):
    other_keys = KEYS.__class__(KEYS.prefix, "other@11111111")
    with redis_server.client() as client:
        image = ref("red")
        cluster.enqueue(image, Priority.INTERACTIVE)
        assert client.llen(f"rq:queue:{KEYS.queue(Priority.INTERACTIVE)}") == 1
        assert client.llen(f"rq:queue:{other_keys.queue(Priority.INTERACTIVE)}") == 0


# Over time


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    raise AssertionError("no such process")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_redis
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_worker_does_not_grow_over_thousands_of_jobs(cluster, redis_server):
    web, worker = cluster.web(), cluster.worker()
    assert colour(web.get(ref("blue"), SOON_S)) == BLUE
    leases = f"{KEYS.prefix}:*lease*"

    def work(numbers, client, parts):
        for number in numbers:
            cluster.add(f"n{number}", (number % 251, number // 251, 7))
            image = ref(f"n{number}")
            parts.queues.enqueue(image, source_key(image), Priority.INTERACTIVE)
            if number % 100 == 99:  # all of it takes as long as it takes, but each part must end
                eventually(lambda count=number + 2: len(cluster.encodes("end")) == count)
        eventually(lambda: not list(client.scan_iter(leases)))

    with redis_server.client() as client, cluster.parts() as parts:
        work(range(500), client, parts)
        before = resident_mb(worker.pid)
        work(range(500, 3000), client, parts)
        assert resident_mb(worker.pid) - before < 20
        assert len(list(client.scan_iter("rq:job:*"))) == 0
        assert len(list(client.scan_iter(leases))) == 0
        assert len(list(client.scan_iter(f"{KEYS.prefix}:*attempts*"))) == 0
