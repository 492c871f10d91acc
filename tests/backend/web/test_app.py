"""The routes: recorded requests get answers of the recorded shape, and whatever else comes gets a short, right one."""

import base64
import io
import json
import logging
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.errors import Reason, RetryLater
from backend.types import Secret
from backend.web.access import Access
from backend.web.app import create_app
from tests.support.fakes import png
from tests.support.service import IMAGE, MB, SIZE_WH, STATUS, VERSION, Service, wait_until
from tests.support.wire_bodies import GOLDEN, click, encoded, recorded, rectangle, result
from tests.support.wire_reader import checked, mask_of

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
LOCKED = Access(20 * MB, user="annotator", password=Secret("paßwort:1"))
SOON_S = 10.0


@pytest.fixture
def service():
    with Service() as service:
        yield service


@pytest.fixture
def client(service):
    return service.client


@pytest.fixture
def locked():
    with Service(access=LOCKED) as service:
        yield service


def small_click():
    return click(result(original_width=SIZE_WH[0], original_height=SIZE_WH[1]))


def basic(user, password, charset="utf-8"):
    word = base64.b64encode(f"{user}:{password}".encode(charset)).decode()
    return {"Authorization": f"Basic {word}"}


def serve_images_of(body, service):
    """Give the source the images of a recorded request, of the sizes in its context."""
    sizes = [(entry["original_width"], entry["original_height"]) for entry in body["params"]["context"]["result"]]
    for task in body["tasks"]:
        for value in task["data"].values():
            for number, uri in enumerate(value if isinstance(value, list) else [value]):
                service.source.contents[uri] = png((10, number, 99), sizes[0])


def is_click(name):
    request = json.loads((GOLDEN / "requests" / f"{name}.json").read_text())
    context = request["body"]["params"]["context"] if request["path"] == "/predict" else None
    return any("x" in entry["value"] for entry in (context or {}).get("result", ()))


CLICKS = [path.stem for path in sorted((GOLDEN / "requests").glob("*.json")) if is_click(path.stem)]


def test_there_are_recorded_clicks():
    assert len(CLICKS) >= 6


@pytest.mark.parametrize("name", CLICKS)
def test_a_recorded_click_gets_masks_of_the_size_the_browser_shows(service, name):
    body = recorded(name)
    serve_images_of(body, service)
    [item] = service.predict(body)
    context = body["params"]["context"]["result"]
    rectangles = [entry for entry in context if entry["type"] == "rectanglelabels"]
    assert len(item["result"]) == (len(rectangles) or 1)
    for entry in item["result"]:
        assert entry["type"] == "brushlabels"
        assert entry["from_name"] in body["label_config"]
        assert entry["value"]["brushlabels"] == context[0]["value"][context[0]["type"]]
        for key in ("original_width", "original_height", "image_rotation", "to_name"):
            assert entry[key] == context[0][key]
        assert entry.get("item_index") == context[0].get("item_index")
        assert mask_of(entry).any()


@pytest.mark.parametrize(
    ("kind", "value"),
    [("textarea", {"text": ["two things"]}), ("choices", {"choices": ["Blurred"]}), ("rating", {"rating": 4})],
)
def test_a_choice_or_text_about_an_image_is_no_prompt_and_gets_no_region(service, caplog, kind, value):
    """In Auto-Annotation mode the editor sends it as it sends a click; the request with a text is a recorded one."""
    caplog.set_level(logging.INFO, "backend")
    body = recorded("textarea")
    [entry] = body["params"]["context"]["result"]
    assert entry["type"] == "textarea"
    entry |= {"type": kind, "value": value}
    assert service.predict(body) == [{"result": [], "score": 0.0, "model_version": VERSION}]
    assert service.count("paddle_sam_reasons_total", reason="not_a_prompt") == 1
    assert service.count("paddle_sam_reasons_total", reason="no_prompt") == 0
    assert "click answered: task=100 prompts='none' regions=0 score=- reasons=not_a_prompt " in caplog.text
    assert not service.decoder.calls


def test_a_text_beside_a_point_leaves_the_points_mask_alone(service):
    body = small_click()
    [text] = recorded("textarea")["params"]["context"]["result"]
    body["params"]["context"]["result"].append(text)
    [item] = service.predict(body)
    [region] = item["result"]
    assert region["type"] == "brushlabels"


def test_a_recorded_opening_of_a_task_gets_no_prediction_so_that_it_is_asked_for_again(service):
    assert service.predict(recorded("open_task_no_context")) == [[]]


def test_a_recorded_page_of_tasks_gets_one_item_each(service):
    body = recorded("retrieve_predictions_many_tasks")
    assert len(service.predict(body)) == len(body["tasks"]) > 1


def test_setup_and_predictions_tell_the_same_model_version(service, client):
    answer = client.post("/setup", data=encoded(recorded("setup")))
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json == {"model_version": VERSION}
    [item] = service.predict(small_click())
    assert item["model_version"] == VERSION


@pytest.mark.parametrize("name", ["webhook_annotation_created", "webhook_project_updated", "webhook_start_training"])
def test_recorded_webhooks_are_taken(client, name):
    assert client.post("/webhook", data=encoded(recorded(name))).status_code == 200


def test_start_training_reaches_what_starts_it_and_an_outage_is_reported_to_label_studio(service):
    events, failures = [], [RetryLater("Redis cannot be reached")]

    def on_event(event):
        events.append((event.action, event.project_id))
        if failures:
            raise failures.pop()

    app = create_app(service.segmenter, service.metrics, lambda: STATUS, Access(20 * MB), on_event=on_event)
    body = encoded(recorded("webhook_start_training"))
    answers = [app.test_client().post("/webhook", data=body) for _ in range(2)]
    assert [(answer.status_code, answer.json) for answer in answers] == [
        (503, {"error": "Redis cannot be reached"}), (200, {"status": "ok"}),
    ]  # fmt: skip
    assert events == 2 * [("START_TRAINING", 2)]


def test_health_is_json_that_says_up(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json == {"status": "UP", "model_class": VERSION}


def test_versions_are_listed(client):
    assert client.get("/versions").json == {"versions": [VERSION]}


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.5"])
def test_a_machine_gets_the_health_json_at_the_root(client, accept):
    answer = client.get("/", headers={"Accept": accept} if accept else {})
    assert answer.json == client.get("/health").json


def test_a_browser_gets_the_status_page_at_the_root(client):
    answer = client.get("/", headers={"Accept": BROWSER})
    assert answer.mimetype == "text/html"
    assert VERSION in answer.text


def test_health_and_setup_answer_while_the_model_encodes(service, client):
    service.encoder.gate.clear()
    clicking = threading.Thread(target=lambda: service.app.test_client().post("/predict", data=encoded(small_click())))
    clicking.start()
    try:
        assert service.encoder.running.wait(SOON_S)
        assert client.get("/health").status_code == 200
        assert client.get("/", headers={"Accept": BROWSER}).status_code == 200
        assert client.post("/setup", data=encoded(recorded("setup"))).json == {"model_version": VERSION}
        assert client.get("/versions").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert clicking.is_alive()
    finally:
        service.encoder.gate.set()
        clicking.join(SOON_S)
    assert not clicking.is_alive()


def test_health_and_setup_answer_while_the_decoder_is_busy(service, client):
    service.decoder.gate.clear()
    clicking = threading.Thread(target=lambda: service.app.test_client().post("/predict", data=encoded(small_click())))
    clicking.start()
    try:
        assert client.get("/health").status_code == 200
        assert client.post("/setup", data=encoded(recorded("setup"))).status_code == 200
        assert clicking.is_alive()
    finally:
        service.decoder.gate.set()
        clicking.join(SOON_S)


def test_clicks_beyond_those_that_may_wait_are_answered_empty_at_once():
    with Service(access=Access(20 * MB, max_predicts=2)) as service:
        service.encoder.gate.clear()
        answers = []

        def ask():
            answers.append(service.app.test_client().post("/predict", data=encoded(small_click())).json)

        waiting = [threading.Thread(target=ask) for _ in range(2)]
        for thread in waiting:
            thread.start()
        assert service.encoder.running.wait(SOON_S)
        wait_until(lambda: service.count("paddle_sam_waiting") == 2)
        [item] = service.predict(small_click())
        assert item["result"] == []
        assert service.reasons() == ["overloaded"]
        service.encoder.gate.set()
        for thread in waiting:
            thread.join(SOON_S)
        assert all(answer["results"][0]["result"] for answer in answers)
        [item] = service.predict(small_click())
        assert item["result"]


def test_a_refused_or_failed_prediction_gives_its_place_back():
    with Service(access=Access(20 * MB, max_predicts=1)) as service:
        service.client.post("/predict", data=b"hello")
        service.decoder.failures.append(ZeroDivisionError())
        service.predict(small_click())
        [item] = service.predict(small_click())
        assert item["result"]


# Who may call.


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/"), ("POST", "/setup"), ("POST", "/predict"), ("GET", "/webhook"), ("POST", "/webhook/"),
    ("GET", "/versions"), ("GET", "/metrics"), ("GET", "/nowhere"), ("GET", "/health/"), ("GET", "//health"),
])  # fmt: skip
def test_everything_but_health_and_the_webhook_wants_credentials(locked, method, path):
    answer = locked.client.open(path, method=method, data=b"{}")
    assert answer.status_code == 401
    assert answer.content_type == "application/json"
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert list(answer.json) == ["detail"]


TASKS_CREATED = {
    "action": "TASKS_CREATED",
    "project": {"id": 1, "label_config": click()["label_config"]},
    "tasks": [{"id": 1, "data": {"image": IMAGE}}],
}


def test_the_webhook_that_label_studio_registers_without_credentials_is_ignored_and_no_alarm(locked, caplog):
    for _ in range(3):
        answer = locked.client.post("/webhook", data=encoded(TASKS_CREATED))
        assert (answer.status_code, answer.json) == (200, {"status": "ignored"})
    assert locked.source.fetched == []
    assert locked.count("paddle_sam_reasons_total", reason="auth_failed") == 0
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Settings > Webhooks" in warning.getMessage()


def test_a_webhook_with_the_right_credentials_encodes_new_tasks(locked):
    headers = basic("annotator", "paßwort:1")
    assert locked.client.post("/webhook", data=encoded(TASKS_CREATED), headers=headers).json == {"status": "ok"}
    wait_until(lambda: locked.encoder.calls == 1)


def test_a_webhook_with_wrong_credentials_is_refused_and_counted(locked):
    headers = basic("annotator", "other")
    assert locked.client.post("/webhook", data=encoded(TASKS_CREATED), headers=headers).status_code == 401
    assert locked.count("paddle_sam_reasons_total", reason="auth_failed") == 1


def test_health_wants_no_credentials(locked):
    assert locked.client.get("/health").status_code == 200


def test_the_right_credentials_open_the_door(locked):
    answer = locked.client.post("/predict", data=encoded(small_click()), headers=basic("annotator", "paßwort:1"))
    [item] = checked(small_click(), answer, VERSION)
    assert item["result"]


@pytest.mark.parametrize("headers", [
    basic("annotator", "paßwort"), basic("annotator", ""), basic("", "paßwort:1"), basic("other", "paßwort:1"),
    basic("annotator", "paßwort:1", "latin-1"), {"Authorization": "Bearer paßwort:1".encode().decode("latin-1")},
    {"Authorization": "Basic"}, {"Authorization": "Basic !!!"}, {"Authorization": "Basic " + "A" * 5000},
    {"Authorization": "Digest username=annotator"}, {"Authorization": ""},
])  # fmt: skip
def test_wrong_credentials_are_refused_and_counted(locked, headers):
    assert locked.client.get("/versions", headers=headers).status_code == 401
    assert locked.count("paddle_sam_reasons_total", reason="auth_failed") == 1


NO_CREDENTIALS = [
    "Basic \xff", "Basic \xe9\xe8:\xe7", "\xff", "Basic \x80" * 50, "basic", "Basic ====", "Basic " + "A" * 60_000,
    "Basic YW5ub3RhdG9y", "Basic YW5ub3RhdG9yOv8=", "Basic //79", "Basic YW5u b3Rh", "BASIC\tYTpi", "Bearer",
    "Digest =",
    "Digest username=annotator, password=paßwort:1", "Digest username*=UTF-8''annotator, password=x",
    "Digest username*=no-such-charset''x", "Digest realm=\"", "Negotiate \xfe=", "Basic YTpi, Basic YTpi", " ", "\t",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/predict", "/setup", "/webhook", "/versions", "/metrics", "/nowhere"])
@pytest.mark.parametrize("header", NO_CREDENTIALS, ids=range(len(NO_CREDENTIALS)))
def test_a_malformed_authorization_header_is_a_wrong_one_on_every_route(locked, caplog, path, header):
    assert locked.client.post(path, data=b"{}", headers={"Authorization": header}).status_code == 401
    assert locked.count("paddle_sam_reasons_total", reason="internal_error") == 0
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("header", NO_CREDENTIALS, ids=range(len(NO_CREDENTIALS)))
def test_a_malformed_authorization_header_is_ignored_where_none_is_required(client, header):
    assert client.get("/versions", headers={"Authorization": header}).status_code == 200


def test_a_user_and_password_of_another_scheme_than_basic_open_nothing(locked):
    headers = {"Authorization": 'Digest username="annotator", password="paßwort:1"'}
    assert locked.client.get("/versions", headers=headers).status_code == 401


def test_without_configured_credentials_any_are_fine(client):
    assert client.get("/versions", headers=basic("any", "body")).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 200), ("GET", "/health", 200), ("POST", "/setup", 200), ("POST", "/predict", 200),
    ("GET", "/metrics", 200), ("GET", "/nowhere", 404), ("GET", "/predict", 405),
])  # fmt: skip
def test_no_browser_guesses_at_frames_or_keeps_an_answer(client, method, path, status):
    answer = client.open(path, method=method, data=b"{}", headers={"Accept": BROWSER})
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_refusal_for_want_of_credentials_has_these_headers_too(locked):
    assert locked.client.get("/", headers={"Accept": BROWSER}).headers["X-Content-Type-Options"] == "nosniff"


# What is no request of Label Studio's.


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b'"text"', b"{", b"\xff\xfe", b'{"tasks": 5}', b"[" * 5000])
@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_what_is_no_json_object_is_refused_in_one_line(client, path, body):
    answer = client.post(path, data=body)
    if (path, body) in {("/setup", b'{"tasks": 5}'), ("/webhook", b'{"tasks": 5}')}:
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert list(answer.json) == ["error"]
    assert "\n" not in answer.json["error"]
    assert "Traceback" not in answer.text


def test_a_refused_body_is_counted(service, client):
    client.post("/predict", data=b"hello")
    assert service.count("paddle_sam_reasons_total", reason="bad_request") == 1


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_the_declared_content_type_does_not_matter(client, content_type):
    answer = client.post("/predict", data=encoded(small_click()), content_type=content_type)
    [item] = checked(small_click(), answer, VERSION)
    assert item["result"]


def test_a_click_too_large_to_be_read_gets_an_empty_answer():
    with Service(access=Access(1000)) as service:
        answer = service.client.post("/predict", data=b" " * 1001)
        assert answer.status_code == 200
        assert answer.json == {"results": [{"result": [], "score": 0.0, "model_version": VERSION}]}
        assert service.count("paddle_sam_reasons_total", reason="body_too_large") == 1
        assert service.predict({"tasks": [{"id": 1}]}) == [[]]


@pytest.mark.parametrize("size", [1001, 5000])
def test_a_click_of_unknown_length_too_large_to_be_read_gets_an_empty_answer(size):
    unknown = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    with Service(access=Access(1000)) as service:
        answer = service.client.post("/predict", input_stream=io.BytesIO(b" " * size), environ_overrides=unknown)
        assert answer.json == {"results": [{"result": [], "score": 0.0, "model_version": VERSION}]}
        assert service.count("paddle_sam_reasons_total", reason="body_too_large") == 1


@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_a_body_over_which_another_server_stumbles_is_refused_in_one_line(client, path):
    class ChunkError(Exception):
        """As gunicorn's threads raise one."""

    class Malformed(io.BytesIO):
        def read(self, size=-1):
            raise ChunkError("zz")

        readinto = read

    unknown = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = client.post(path, input_stream=Malformed(), environ_overrides=unknown)
    assert answer.status_code == 400
    assert answer.json == {"error": "body: expected all of it, got ChunkError"}


@pytest.mark.parametrize("path", ["/setup", "/webhook"])
def test_anything_else_too_large_is_refused_as_such(path):
    with Service(access=Access(1000)) as service:
        answer = service.client.post(path, data=b" " * 1001)
        assert answer.status_code == 413
        assert answer.json == {"error": "expected at most 1000 bytes"}


@pytest.mark.parametrize(
    "path", ["/nowhere", "/predict/", "/api/predict", "/static/x", "/%00", "/..%2f..%2fetc/passwd"]
)
def test_an_unknown_route_is_not_found_in_json(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.content_type) == (404, "application/json")
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/predict", "POST"), ("PUT", "/predict", "POST"), ("GET", "/setup", "POST"), ("POST", "/health", "GET"),
    ("DELETE", "/", "GET"),
])  # fmt: skip
def test_a_wrong_method_is_answered_in_json_with_the_right_one(client, method, path, allowed):
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.content_type) == (405, "application/json")
    assert allowed in answer.headers["Allow"]
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize("body", [
    b"{}", b'{"action": 5}', b'{"action":"TASKS_CREATED","tasks":[null,1,{}],"project":[]}',
    b'{"action":"TASKS_DELETED","tasks":[{"id":1}]}',
])  # fmt: skip
def test_any_event_is_taken(client, body):
    answer = client.post("/webhook", data=body)
    assert (answer.status_code, answer.content_type) == (200, "application/json")


def test_a_defect_is_one_line_without_a_traceback_which_the_log_has(service, caplog):
    def broken(request):
        raise ZeroDivisionError("a slip in /secret/path")

    service.segmenter.setup = broken
    answer = service.client.post("/setup", data=b"{}")
    assert (answer.status_code, answer.content_type) == (500, "application/json")
    assert answer.json == {"error": "internal error; the log has the details"}
    assert "ZeroDivisionError: a slip" in caplog.text
    assert service.count("paddle_sam_reasons_total", reason="internal_error") == 1


# What is counted and logged.


def test_the_metrics_are_prometheus_text_and_tell_of_a_click(service):
    service.predict(small_click())
    service.predict(small_click())
    service.predict(click())
    answer = service.client.get("/metrics")
    assert answer.mimetype == "text/plain"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    stages = {sample.labels["stage"] for sample in families["paddle_sam_stage_seconds"].samples}
    assert {"fetch", "decode_image", "encode", "embedding", "decoder", "rle", "total", "receive"} <= stages
    assert {"paddle_sam_cache_lookups", "paddle_sam_reasons", "paddle_sam_tasks", "paddle_sam_waiting"} <= set(families)
    assert service.count("paddle_sam_tasks_total", outcome="regions") == 2
    assert service.count("paddle_sam_tasks_total", outcome="empty") == 1
    assert service.count("paddle_sam_reasons_total", reason=str(Reason.NO_PROMPT)) == 1
    assert service.count("paddle_sam_stage_seconds_count", stage="decoder") == 2
    assert service.count("paddle_sam_stage_seconds_count", stage="encode") == 1


def test_every_answer_is_one_line_in_the_log(service, caplog):
    caplog.set_level(logging.INFO, "backend")
    service.predict(small_click())
    service.source.contents[IMAGE] = png()
    service.predict(click())
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("click answered: ")]
    assert len(lines) == 2
    assert "task=1 prompts='1 point' regions=1 score=0." in lines[0]
    assert "task=1 prompts='none' regions=0 score=- reasons=no_prompt " in lines[1]


def test_neither_bodies_nor_tokens_are_logged(service, caplog):
    caplog.set_level(logging.DEBUG)
    body = small_click()
    body["tasks"][0]["drafts"] = [{"result": [{"value": {"rle": [7] * 50}}]}]
    service.predict(body)
    service.client.post("/setup", data=encoded(recorded("setup")))
    service.client.post("/predict", data=b'{"tasks": "BODYWORD"}')
    for word in ("7,7", "7, 7", recorded("setup")["access_token"], "BODYWORD"):
        assert word not in caplog.text


def test_the_answer_to_the_latest_of_several_clicks_is_its_own(service):
    """Several are in flight at once; each gets the mask of its own prompts."""
    answers = {}

    def ask(x):
        body = click(rectangle(x, 10, 10, 10, original_width=80, original_height=60))
        answers[x] = json.loads(service.app.test_client().post("/predict", data=encoded(body)).data)

    threads = [threading.Thread(target=ask, args=(x,)) for x in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, answer in answers.items():
        [entry] = answer["results"][0]["result"]
        columns = mask_of(entry).any(axis=0).nonzero()[0]
        assert abs((columns[0] + columns[-1]) / 2 - (x + 5) * 0.8) <= 6
