"""A service with a project's decoder: everything about that project names and uses it, and no other project does."""

import json
from dataclasses import replace

import pytest

from backend.composition import cluster, web
from backend.composition import decoders as composition_decoders
from backend.decoders.lazy_decoder import LazyDecoder
from backend.decoders.training import State, Training
from backend.metrics import Metrics
from backend.settings import read
from model import folders
from model.weights import decoder_weights
from tests.support.decoder_files import PROJECT, decoder_file
from tests.support.redis_server import needs_redis
from tests.support.service import wait_until
from tests.support.wire_bodies import BROWSER, click_on, data_uri, encoded, recorded, rectangle

SIZE_WH = (80, 60)
IMAGE = data_uri()


@pytest.fixture
def settings(tmp_path):
    names = {"PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"), "PADDLE_SAM_DECODERS_DIR": str(tmp_path / "decoders")}
    return read(names | {"PADDLE_SAM_DEVICE": "cpu", "LABEL_STUDIO_URL": "http://127.0.0.1:1"})


@pytest.fixture
def serve(settings, tiny_checkpoint):
    services = []

    def serve(**changes):
        services.append(web.build(settings.model_copy(update=changes), tiny_checkpoint))
        services[-1].start()
        return services[-1]

    yield serve
    for service in services:
        service.close()


def post(service, path, body):
    answer = service.app.test_client().post(path, data=encoded(body))
    assert answer.status_code == 200, answer.text
    return answer.json


def of_project(body, project):
    return {**body, "project": f"{project}.1795380049"}


def setup_version(service, project=PROJECT):
    return post(service, "/setup", of_project(recorded("setup"), project))["model_version"]


def click_version(service, project=PROJECT):
    [item] = post(service, "/predict", of_project(click_on(IMAGE, SIZE_WH), project))["results"]
    return item["model_version"]


def retrieve(service, project=PROJECT):
    """The answers for two tasks with a box each, as *Retrieve predictions* asks for them."""
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    annotations = [{"id": 1, "result": [rectangle(20, 20, 50, 50, id="box", **size)]}]
    tasks = [{"id": number, "data": {"image": IMAGE}, "annotations": annotations} for number in (1, 2)]
    body = {**of_project(click_on(IMAGE, SIZE_WH), project), "tasks": tasks, "params": {"context": None}}
    return post(service, "/predict", body)["results"]


def test_setup_clicks_and_retrieved_predictions_of_the_project_name_its_decoder(settings, serve, tiny_checkpoint):
    decoder = composition_decoders.publish(settings, PROJECT, decoder_file(tiny_checkpoint))
    tuned = decoder_weights.apply(tiny_checkpoint, decoder).model_version
    service = serve()
    assert [setup_version(service), click_version(service)] == [tuned, tuned]
    assert {item["model_version"] for item in retrieve(service) if item} == {tuned}
    base = tiny_checkpoint.model_version
    assert [setup_version(service, 8), click_version(service, 8)] == [base, base]
    assert {item["model_version"] for item in retrieve(service, 8) if item} == {base}
    client = service.app.test_client()
    assert client.get("/versions").json == {"versions": [base]}
    assert client.get("/health").json["model_class"] == base
    assert service.metrics.registry.get_sample_value("paddle_sam_decoders_active") == 1


def test_embeddings_are_shared_by_all_decoders(settings, serve, tiny_checkpoint):
    composition_decoders.publish(settings, PROJECT, decoder_file(tiny_checkpoint))
    service = serve()
    for project in (PROJECT, 8):
        click_version(service, project)
    assert service.metrics.registry.get_sample_value("paddle_sam_stage_seconds_count", {"stage": "encode"}) == 1


def test_a_running_service_takes_a_new_decoder_up_and_a_rollback_too(settings, serve, tiny_checkpoint):
    service = serve()
    base = tiny_checkpoint.model_version
    assert click_version(service) == base
    decoder = composition_decoders.publish(settings, PROJECT, decoder_file(tiny_checkpoint))
    wait_until(lambda: setup_version(service) == decoder_weights.apply(tiny_checkpoint, decoder).model_version)
    with composition_decoders.exchanged(settings) as folder:
        folder.change(PROJECT, lambda record: replace(record, active=None))
    wait_until(lambda: setup_version(service) == base)


def test_a_decoder_of_other_weights_is_on_the_status_page_and_the_base_serves(settings, serve, tiny_checkpoint):
    other_checkpoint = replace(tiny_checkpoint, digest="1" * 64)
    composition_decoders.publish(settings, PROJECT, decoder_file(other_checkpoint))
    service = serve()
    assert click_version(service) == tiny_checkpoint.model_version
    page = service.app.test_client().get("/", headers=BROWSER).text
    assert f"expected its base {other_checkpoint.model_version}, got {tiny_checkpoint.model_version}" in page
    assert service.metrics.registry.get_sample_value("paddle_sam_decoders_refused") == 1


def test_a_run_over_a_project_uses_its_decoder_or_says_why_not(settings, tiny_checkpoint):
    messages = []
    assert composition_decoders.tuned(settings, tiny_checkpoint, PROJECT, messages.append) is tiny_checkpoint
    decoder = composition_decoders.publish(settings, PROJECT, decoder_file(tiny_checkpoint))
    tuned = composition_decoders.tuned(settings, tiny_checkpoint, PROJECT, messages.append)
    assert tuned.model_version == decoder_weights.apply(tiny_checkpoint, decoder).model_version
    assert messages == []
    other_checkpoint = replace(tiny_checkpoint, digest="1" * 64)
    assert composition_decoders.tuned(settings, other_checkpoint, PROJECT, messages.append) is other_checkpoint
    assert messages[0].endswith(f"; {other_checkpoint.model_version} is used")


def test_a_training_and_how_it_went_are_on_the_status_page_and_in_the_metrics(settings, serve):
    state = Training(2, State.FAILED, 1_700_000_000.0, "no such project").dump()
    with composition_decoders.exchanged(settings) as folder:
        folders.write(folder.path(PROJECT, "training.json"), state)
    service = serve()
    page = service.app.test_client().get("/", headers=BROWSER).text
    assert "failed since 22:13:20: no such project" in page
    values = {
        name: service.metrics.registry.get_sample_value(f"paddle_sam_trainings_{name}")
        for name in ("waiting", "running", "done", "failed")
    }
    assert values == {"waiting": 0, "running": 0, "done": 0, "failed": 1}


@pytest.mark.slow
def test_the_button_starts_finetune_in_a_process_of_its_own(settings, serve):
    service = serve()
    body = recorded("webhook_start_training")
    assert post(service, "/webhook", body) == {"status": "ok"}
    path = settings.decoders_dir / str(body["project"]["id"]) / "training.json"
    wait_until(lambda: json.loads(path.read_text())["state"] not in ("waiting", "running"), seconds=120)
    training = json.loads(path.read_text())
    assert (training["state"], training["annotations"]) == ("failed", 1), "nothing listens where Label Studio is"


@needs_redis
def test_a_training_that_waits_is_enqueued_again_after_redis_was_emptied(settings, tiny_checkpoint, redis_server):
    settings = settings.model_copy(update={"redis_url": redis_server.url})
    parts = composition_decoders.web(settings, tiny_checkpoint, LazyDecoder(tiny_checkpoint, "cpu"), Metrics())
    worker = cluster.connect(settings, tiny_checkpoint.model_version)
    parts.start()
    try:
        assert parts.trainings.start(PROJECT, 3)
        with redis_server.client() as client:
            client.flushall()
        wait_until(lambda: worker.queues.take_training() == PROJECT, 120)
        assert parts.log.of(PROJECT).state is State.WAITING
    finally:
        parts.close()
        worker.link.close()
