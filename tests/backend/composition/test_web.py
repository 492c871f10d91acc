"""The composition root: what it puts together works, loads nothing too early, and says what cannot be loaded."""

import subprocess
import sys
import time

import pytest

from backend.composition import web
from backend.errors import Reason
from backend.settings import read
from backend.web.app import BODIES
from model import device
from tests.support.fakes import LEGACY_TOKEN, FakeLabelStudio, Reply, png
from tests.support.service import wait_until
from tests.support.wire_bodies import BROWSER, CONFIG, click_on, data_uri, encoded
from tests.support.wire_reader import checked, mask_of


def settings(folder, **environ):
    names = {"PADDLE_SAM_CACHE_DIR": str(folder / "cache"), "PADDLE_SAM_DEVICE": "cpu"}
    return read(names | environ)


@pytest.fixture
def build(tmp_path, tiny_checkpoint):
    services = []

    def build(**environ):
        services.append(web.build(settings(tmp_path, **environ), tiny_checkpoint))
        return services[-1]

    yield build
    for service in services:
        service.close()


# Building.


def test_building_loads_and_starts_nothing(tmp_path):
    code = (
        "import sys, threading\n"
        "from backend.composition import parts, web\nfrom backend.settings import read\n"
        "from tests.support.checkpoints import random_checkpoint\n"
        f"environ = {{'PADDLE_SAM_CACHE_DIR': {str(tmp_path)!r}}}\n"
        "service = web.build(read(environ), random_checkpoint())\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not {'paddle', 'torch'} & set(sys.modules), 'Paddle does not survive a fork'\n"
        "service.close()\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr


def test_a_service_answers_a_click_with_a_real_network(build, tiny_checkpoint):
    service = build()
    body = click_on(data_uri())
    answer = service.app.test_client().post("/predict", data=encoded(body))
    [item] = checked(body, answer, tiny_checkpoint.model_version)
    assert all(mask_of(entry).shape == (60, 80) for entry in item["result"])
    assert service.metrics.recent()[0].stages_ms["decoder"] > 0


def test_a_second_service_finds_what_the_first_left_on_disk(build):
    body = encoded(click_on(data_uri()))
    for encodes in (1, 0):
        service = build()
        assert service.app.test_client().post("/predict", data=body).status_code == 200
        encode_count = service.metrics.registry.get_sample_value("paddle_sam_stage_seconds_count", {"stage": "encode"})
        assert encode_count == encodes


def test_a_second_service_does_not_download_what_the_first_one_did(build):
    with FakeLabelStudio() as label_studio:
        label_studio.routes["/data/upload/1/a.png"] = Reply(png(size_wh=(80, 60)))
        for _ in range(2):
            service = build(LABEL_STUDIO_URL=label_studio.url, LABEL_STUDIO_API_KEY=LEGACY_TOKEN)
            body = click_on("/data/upload/1/a.png")
            answer = service.app.test_client().post("/predict", data=encoded(body))
            [item] = checked(body, answer, service.segmenter.model_version)
            assert item["result"]
            service.close()
        assert label_studio.paths().count("/data/upload/1/a.png") == 1


def test_a_service_without_any_cache_answers(build):
    service = build(PADDLE_SAM_MEMORY_CACHE_MB="0", PADDLE_SAM_DISK_CACHE_MB="0")
    assert service.app.test_client().post("/predict", data=encoded(click_on(data_uri()))).status_code == 200
    assert service.metrics.recent()[0].reasons in ((), (Reason.EMPTY_MASK,))


def test_settings_reach_the_service(build):
    service = build(
        BASIC_AUTH_USER="a", BASIC_AUTH_PASS="b", PADDLE_SAM_MAX_BODY_MB="1", PADDLE_SAM_MAX_IMAGE_PIXELS="100"
    )
    client = service.app.test_client()
    assert client.get("/versions").status_code == 401
    client.post("/predict", data=b" " * 1_000_001, auth=("a", "b"))
    client.post("/predict", data=encoded(click_on(data_uri())), auth=("a", "b"))
    counts = {
        reason: service.metrics.registry.get_sample_value("paddle_sam_reasons_total", {"reason": reason})
        for reason in ("body_too_large", "image_too_large")
    }
    assert counts == {"body_too_large": 1, "image_too_large": 1}


def test_the_detail_of_polygons_is_a_setting_and_an_attribute_of_the_control(build):
    polygons = CONFIG.replace("BrushLabels", "PolygonLabels")

    def corners(config, **environ):
        body = {**click_on(data_uri()), "label_config": config}
        answer = build(**environ).app.test_client().post("/predict", data=encoded(body))
        return max(len(region["value"]["points"]) for region in answer.json["results"][0]["result"])

    assert corners(polygons) > 9
    assert corners(polygons, PADDLE_SAM_POLYGON_CORNERS="5") <= 5
    assert (
        5
        < corners(polygons.replace('smart="false"', 'smart="false" model_corners="9"'), PADDLE_SAM_POLYGON_CORNERS="5")
        <= 9
    )


def test_the_limit_of_pictures_holds_for_the_sizes_that_clicks_tell_too(build, tiny_checkpoint):
    service = build(PADDLE_SAM_MAX_IMAGE_PIXELS="20000")
    for size_wh, reasons in (((160, 120), ()), ((240, 180), (Reason.SIZE_MISMATCH,))):
        body = click_on(data_uri(), size_wh)
        reply = service.app.test_client().post("/predict", data=encoded(body))
        checked(body, reply, tiny_checkpoint.model_version)
        assert service.metrics.recent()[0].reasons == reasons


def test_closing_twice_or_before_a_start_is_fine(build):
    service = build()
    service.close()
    service.close()
    started = build()
    started.start()
    started.close()
    assert [each.app.test_client().get("/health").status_code for each in (service, started)] == [200, 200]


def test_a_click_after_closing_is_answered_with_a_reason(build):
    service = build(LABEL_STUDIO_API_KEY="0" * 40)
    service.close()
    body = click_on(data_uri())
    answer = service.app.test_client().post("/predict", data=encoded(body))
    [item] = checked(body, answer, service.segmenter.model_version)
    assert item["result"] == []
    assert service.metrics.recent()[0].reasons == (Reason.MODEL_NOT_READY,)


def test_the_waiting_are_counted_in_the_metrics(build):
    text = build().metrics.exposition().decode()
    assert "paddle_sam_encodes_waiting 0.0" in text
    assert "paddle_sam_prefetch_waiting 0.0" in text


# The status page.


def test_the_status_page_turns_from_loading_to_ready(build, tiny_checkpoint):
    service = build()
    client = service.app.test_client()
    assert "loading the model" in client.get("/", headers=BROWSER).text
    service.start()
    wait_until(lambda: ">ready<" in client.get("/", headers=BROWSER).text)
    page = client.get("/", headers=BROWSER).text
    for word in (
        tiny_checkpoint.model_version,
        "cpu",
        "128 × 128 pixels",
        "boxes, mask input, negative points, points",
    ):
        assert word in page


def test_the_status_page_shows_the_last_requests_and_their_reasons(build):
    service = build()
    client = service.app.test_client()
    client.post("/predict", data=encoded(click_on(data_uri())))
    client.post("/predict", data=encoded(click_on("gopher://x/y")))
    page = client.get("/", headers=BROWSER).text
    assert "unsupported_image_source" in page
    assert "total" not in page.split("Last requests")[1].split("<footer>")[0]
    assert "encode" in page


def test_the_status_page_shows_what_an_operator_should_look_at(build):
    service = build()
    client = service.app.test_client()
    client.post("/setup", data=encoded({"project": "5.1", "schema": "<View><Image name='a' value='$b'/></View>"}))
    page = client.get("/", headers=BROWSER).text
    assert '<th scope="row">5</th>' in page
    assert "expected a control on image" in page
    assert "LABEL_STUDIO_API_KEY is not set" in page


def test_it_is_ready_once_clicks_can_be_answered_and_says_what_it_waits_for_before(build):
    service = build(BASIC_AUTH_USER="me", BASIC_AUTH_PASS="pw")
    client = service.app.test_client()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (503, {"status": "not ready", "reason": "loading the model"})
    assert client.get("/health").status_code == 200
    service.start()
    wait_until(lambda: client.get("/ready").status_code == 200)
    assert client.get("/ready").json == {"status": "ready"}
    assert client.post("/ready").status_code == 405


def test_the_status_page_shows_no_problem_that_is_put_right(build):
    service = build(LABEL_STUDIO_API_KEY="0" * 40)
    assert "Look at" not in service.app.test_client().get("/", headers=BROWSER).text


def test_a_click_leaves_in_time_while_the_decoder_is_being_loaded(build, tiny_checkpoint):
    body = click_on(data_uri())
    version = tiny_checkpoint.model_version

    def ask(service):
        return checked(body, service.app.test_client().post("/predict", data=encoded(body)), version)

    ask(build())  # its embedding is on disk now
    service = build(PADDLE_SAM_PREDICT_BUDGET_S="0.3")
    with device.building():  # as another network that is built meanwhile
        started = time.monotonic()
        [answer] = ask(service)
        assert time.monotonic() - started < 5
    assert answer["result"] == []
    assert service.metrics.recent()[0].reasons == (Reason.MODEL_NOT_READY,)
    wait_until(lambda: ask(service)[0]["result"])


def test_a_missing_device_is_reported_on_the_page_and_to_a_click(build):
    service = build(PADDLE_SAM_DEVICE="gpu:7")
    service.start()
    client = service.app.test_client()
    wait_until(lambda: "cannot be loaded" in client.get("/", headers=BROWSER).text)
    assert "gpu:7" in client.get("/", headers=BROWSER).text
    assert client.get("/health").status_code == 200
    client.post("/predict", data=encoded(click_on(data_uri())))
    assert service.metrics.recent()[0].reasons == (Reason.MODEL_NOT_READY,)


def test_bodies_addresses_and_files_share_one_budget_and_none_keeps_the_others_out(build):
    service = build(PADDLE_SAM_MAX_BODY_MB="1", PADDLE_SAM_MAX_IMAGE_BYTES="1000000", PADDLE_SAM_BUFFER_MB="104")
    bodies = service.app.config[BODIES]
    shares = [bodies.begin() for _ in range(4)]
    for body in shares:
        body.append(b" " * 900_000)
    assert [str(body.refusal) for body in shares] == ["None", "None", "overloaded", "overloaded"]
    exposition = service.metrics.exposition().decode()
    assert "\npaddle_sam_buffered_bodies_bytes 1.8e+06\n" in exposition
    assert "\npaddle_sam_buffer_bytes 4e+06\n" in exposition
    page = service.app.test_client().get("/", headers=BROWSER).text
    assert "2 MB bodies, 0 MB addresses, 0 MB files, of 4 MB" in page
    service.start()
    body = click_on(data_uri())
    answer = service.app.test_client().post("/predict", data=encoded(body)).json
    assert answer["results"][0]["result"], "an address and a file have room of their own"
