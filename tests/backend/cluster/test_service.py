"""The whole service over Redis with a real network: the same answers as without, and what operators see of it."""

import os

import pytest
from click.testing import CliRunner

from backend.cli.doctor.redis import examine
from backend.cli.main import main
from backend.composition import parts, web
from backend.settings import read
from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint
from tests.support.cluster import KEYS, SOON_S, Cluster, eventually
from tests.support.redis_server import needs_redis
from tests.support.wire_bodies import BROWSER, click_on, data_uri, encoded
from tests.support.wire_reader import checked

pytestmark = [needs_redis, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        cluster.weights = native.write(random_checkpoint(), tmp_path / "small.safetensors")
        yield cluster


def environ(cluster, **more):
    cache = {"PADDLE_SAM_CACHE_DIR": str(cluster.folder / "cache"), "PADDLE_SAM_DEVICE": "cpu"}
    return {**cluster.environ, **cache, "PADDLE_SAM_WEIGHTS": str(cluster.weights), **more}


def start_worker(cluster):
    process = cluster.spawn("backend", "worker", env={**os.environ, **environ(cluster)})
    name = f":{process.pid} ".encode()
    with cluster.redis.client() as client:
        eventually(lambda: any(name in worker for worker in client.zrange(KEYS.workers, 0, -1)))
    return process


def serve(cluster, **more):
    settings = read({name: value for name, value in environ(cluster, **more).items() if value})
    return web.build(settings, parts.read_weights(settings))


def answer(service, body):
    reply = service.app.test_client().post("/predict", data=encoded(body))
    items = checked(body, reply, service.segmenter.model_version)
    for item in items:
        for entry in item["result"]:
            entry.pop("id")
    return items


def test_a_click_over_redis_gets_the_answer_it_gets_without(cluster):
    worker = start_worker(cluster)
    body = click_on(data_uri((320, 240), (10, 120, 240)), (320, 240))
    alone, shared = serve(cluster, REDIS_URL=""), serve(cluster, PADDLE_SAM_PREDICT_BUDGET_S=str(SOON_S))
    try:
        shared.start()
        assert answer(shared, body) == answer(alone, body)
        eventually(lambda: b"paddle_sam_cluster_encodes 1.0" in shared.metrics.exposition())
        text = shared.metrics.exposition().decode()
        for name in (
            "workers 1.0",
            "redis_up 1.0",
            "queue_interactive_depth 0.0",
            "queue_prefetch_depth 0.0",
            "queue_bulk_age_seconds 0.0",
            "cluster_fetches 1.0",
        ):
            assert f"paddle_sam_{name}" in text
        assert shared.app.test_client().get("/health").status_code == 200
        page = shared.app.test_client().get("/", headers=BROWSER).get_data(as_text=True)
        assert str(worker.pid) in page
        assert "encoded by all workers" in page
        assert "Redis answers in" in page
    finally:
        alone.close()
        shared.close()


def test_a_web_process_over_redis_never_loads_an_encoder(cluster, monkeypatch):
    start_worker(cluster)
    loaded = []
    monkeypatch.setattr("model.build.load_encoder", lambda *arguments: loaded.append(arguments))
    service = serve(cluster, PADDLE_SAM_PREDICT_BUDGET_S=str(SOON_S))
    try:
        service.start()
        assert answer(service, click_on(data_uri()))[0]["result"] is not None
        assert service.metrics.recent()[0].total_ms > 0
        assert not loaded
    finally:
        service.close()


def test_without_redis_the_status_page_and_a_click_say_so(cluster):
    service = serve(cluster, REDIS_URL="redis://:open-sesame@127.0.0.1:1/0")
    try:
        service.start()
        [item] = answer(service, click_on(data_uri()))
        assert item["result"] == []
        assert "store_unavailable" in map(str, service.metrics.recent()[0].reasons)
        page = service.app.test_client().get("/", headers=BROWSER).get_data(as_text=True)
        assert "Redis cannot be reached" in page
        assert "open-sesame" not in page
        assert "paddle_sam_redis_up 0.0" in service.metrics.exposition().decode()
        assert service.app.test_client().get("/health").status_code == 200
    finally:
        service.close()


# The doctor


def findings(cluster, **more):
    return {finding.subject: finding for finding in examine(read(environ(cluster, **more)))}


def test_the_doctor_is_content_with_a_bounded_redis_and_a_live_worker(cluster):
    start_worker(cluster)
    reported = findings(cluster)
    assert {finding.level.value for finding in reported.values()} == {"ok"}
    assert set(reported) == {"Redis", "Redis memory", "workers", "queues"}


def test_the_doctor_reports_that_no_worker_is_alive_and_names_those_with_other_weights(cluster):
    assert findings(cluster)["workers"].level.value == "problem"
    cluster.worker()
    finding = findings(cluster)["workers"]
    assert (finding.level.value, "stand-in@00000000" in finding.text) == ("problem", True)
    assert "python -m backend worker" in finding.fix


@pytest.mark.parametrize(
    ("maxmemory", "policy", "subject", "level"),
    [
        ("0", "volatile-lru", "Redis memory", "problem"),
        ("10mb", "volatile-lru", "Redis memory", "problem"),
        ("100mb", "allkeys-lru", "Redis policy", "problem"),
        ("100mb", "noeviction", "Redis policy", "hint"),
    ],
)
def test_the_doctor_reports_what_is_wrong_with_redis_and_how_to_start_it(
    cluster, redis_server, maxmemory, policy, subject, level
):  # fmt: skip
    redis_server.config(maxmemory=maxmemory, maxmemory_policy=policy)
    try:
        finding = findings(cluster)[subject]
        assert finding.level.value == level
        assert finding.fix
    finally:
        redis_server.config(maxmemory="64mb", maxmemory_policy="volatile-lru")


def test_the_doctor_reports_that_redis_is_not_there_without_its_password(cluster):
    (finding,) = findings(cluster, REDIS_URL="redis://:open-sesame@127.0.0.1:1/0").values()
    assert finding.level.value == "problem"
    assert "open-sesame" not in finding.text + finding.fix


def test_without_redis_url_the_doctor_has_nothing_to_say_about_it(cluster):
    assert findings(cluster, REDIS_URL="") == {}


def test_the_command_shows_the_doctors_findings_about_redis(cluster):
    result = CliRunner().invoke(main, ["doctor"], env=environ(cluster))
    assert "Redis memory: at most" in result.output
    assert "PROBLEM workers" in result.output


def test_a_redis_url_that_is_none_is_refused_without_showing_its_password():
    result = CliRunner().invoke(main, ["worker"], env={"REDIS_URL": "http://:open-sesame@host"})
    assert result.exit_code == 2
    assert "redis://" in result.output
    assert "open-sesame" not in result.output
