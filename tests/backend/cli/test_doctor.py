"""The doctor: what it looks at, what it finds wrong, and that each such finding says what to do."""

import json
import socket

import pytest

from backend.cli.doctor.examination import examine
from backend.cli.doctor.findings import Level
from backend.composition import parts
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.settings import read
from tests.support.certificates import company
from tests.support.fakes import LEGACY_TOKEN, PERSONAL_TOKEN, FakeLabelStudio, Reply, jwt, png
from tests.support.http_answers import AnswerServer
from tests.support.wire_bodies import CONFIG, WORDS_CONFIG

IMAGE = "/data/upload/7/a.png"


@pytest.fixture
def server():
    """A Label Studio with a project 7 of one task, whose image can be fetched."""
    with FakeLabelStudio() as server:
        server.routes["/api/version"] = Reply(b'{"release": "1.23.2"}')
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com"}')
        server.routes[IMAGE] = Reply(png(), headers={"Content-Type": "image/png"})
        set_project(server, CONFIG)
        set_connections(server, connection())
        set_tasks(server, {"image": IMAGE})
        yield server


def set_project(server, config):
    project = {"id": 7, "title": "Cats", "label_config": config}
    server.routes["/api/projects/7/"] = Reply(json.dumps(project).encode())


def connection(**changes):
    """A model's connection as Label Studio 1.23.2 lists it, as far as it is read, and one member more."""
    connection_state = {"id": 3, "url": "http://localhost:9090", "readable_state": "Connected", "is_interactive": True}
    return connection_state | {"error_message": None, "model_version": "small@00000000"} | changes


def set_connections(server, *connections):
    server.routes["/api/ml"] = Reply(json.dumps(list(connections)).encode())


def set_tasks(server, *data):
    tasks = [{"id": number + 1, "data": fields} for number, fields in enumerate(data)]
    server.routes["/api/tasks"] = Reply(json.dumps({"tasks": tasks, "total": len(tasks)}).encode())


@pytest.fixture
def look(server):
    """Findings by subject; by default the settings point at the fake Label Studio."""

    def look(project=None, weights=lambda: "small@00000000, native format, from small", **environ):
        settings = read(
            {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": PERSONAL_TOKEN, "PADDLE_SAM_WEIGHTS": "small"}
            | environ
        )
        client = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key, attempts=1))
        try:
            images = parts.image_source(settings, client)
            findings = list(examine(settings, client, images, project, weights))
        finally:
            client.http.close()
        assert all(bool(finding.fix) == (finding.level is not Level.OK) for finding in findings), "each with its fix"
        return {finding.subject: finding for finding in findings}

    return look


def refuse():
    raise ValueError("SAM-X: expected one of demo, SAM-H_box")


def test_where_nothing_is_wrong_everything_is_ok(look):
    findings = look(project=7, HOST="127.0.0.1")
    assert {finding.level for subject, finding in findings.items() if subject != "reserved address"} == {Level.OK}
    assert set(findings) >= {"weights", "Label Studio", "API key", "project 7", "image of task 1"}
    assert findings["Label Studio"].text.startswith("1.23.2 at http://localhost:")
    assert findings["API key"].text == "personal access token of me@example.com"
    assert findings["image of task 1"].text.startswith("40 x 30 pixels")
    assert "'Cats'" in findings["project 7"].text


def test_prompts_left_over_in_annotations_are_pointed_out_with_the_export_that_works(look, server):
    point = {"id": "k", "type": "keypointlabels", "value": {"x": 5, "y": 5, "width": 1, "keypointlabels": ["Cat"]}}
    mask = {"id": "m", "type": "brushlabels", "value": {"format": "rle", "rle": [0], "brushlabels": ["Cat"]}}
    annotations = [{"id": 1, "result": [mask, point]}, {"id": 2, "result": [point | {"id": "l"}]}]
    server.routes["/api/tasks/1/annotations/"] = Reply(json.dumps(annotations).encode())
    finding = look(project=7)["annotations of project 7"]
    assert finding.level is Level.HINT
    assert finding.text.startswith("2 keypoints in the newest 1 annotated tasks")
    assert "python -m backend export-coco --project 7" in finding.fix
    server.routes["/api/tasks/1/annotations/"] = Reply(json.dumps([{"id": 1, "result": [mask]}]).encode())
    assert "annotations of project 7" not in look(project=7)


def test_weights_that_cannot_be_read_are_a_problem(look):
    finding = look(weights=refuse)["weights"]
    assert finding.level is Level.PROBLEM
    assert "SAM-X" in finding.text
    assert "PADDLE_SAM_WEIGHTS" in finding.fix


def test_the_demo_model_is_pointed_out_as_one(look):
    finding = look(PADDLE_SAM_WEIGHTS="demo")["weights"]
    assert finding.level is Level.HINT
    assert "PADDLE_SAM_WEIGHTS=SAM-H_box" in finding.fix
    assert "PADDLE_SAM_WEIGHTS=mobile_sam" in finding.fix, "the smallest, and it takes points too"


def test_an_address_without_a_server_is_a_problem_and_ends_the_checks_that_depend_on_it(look):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://localhost:{free.getsockname()[1]}"
        findings = look(project=7, LABEL_STUDIO_URL=url)
    assert findings["Label Studio"].level is Level.PROBLEM
    assert f"now {url}" in findings["Label Studio"].fix
    assert "start Label Studio if it does not run" in findings["Label Studio"].fix
    assert "inside a container localhost is the container itself" in findings["Label Studio"].fix
    assert "project 7" not in findings
    assert "API key" not in findings


def test_a_redirect_names_the_address_to_set(look, server):
    server.routes["/api/version"] = Reply(b"", 301, {"Location": "https://labels.example.com/api/version"})
    finding = look()["Label Studio"]
    assert finding.level is Level.PROBLEM
    assert "labels.example.com" in finding.text


def test_something_else_at_the_address_is_a_problem(look, server):
    server.routes["/api/version"] = Reply(b"<html>nginx</html>")
    assert look()["Label Studio"].level is Level.PROBLEM


def test_a_missing_api_key_is_a_problem(look):
    finding = look(LABEL_STUDIO_API_KEY="")["API key"]
    assert finding.level is Level.PROBLEM
    assert "personal access token" in finding.fix


def test_a_refused_personal_token_is_a_problem(look, server):
    server.revoked = True
    finding = look()["API key"]
    assert finding.level is Level.PROBLEM
    assert "personal access token" in finding.text


def test_a_legacy_token_that_is_accepted_is_fine(look):
    finding = look(LABEL_STUDIO_API_KEY=LEGACY_TOKEN)["API key"]
    assert (finding.level, finding.text) == (Level.OK, "legacy token of me@example.com")


def test_a_refused_legacy_token_names_both_remedies(look, server):
    server.expire()
    finding = look(LABEL_STUDIO_API_KEY=LEGACY_TOKEN)["API key"]
    assert finding.level is Level.PROBLEM
    assert "personal access token" in finding.fix
    assert "enable legacy tokens" in finding.fix


UNKNOWN = b'{"detail": "Invalid token.", "status_code": 401}'
OFF = (
    b'{"detail": "Authentication token no longer valid: legacy token authentication has been disabled for this '
    b'organization"}'
)


@pytest.mark.parametrize(("detail", "expected", "is_off"), [
    (UNKNOWN, "it knows no such token", False), (OFF, "switched off", True), (b"", "switched off", True),
])  # fmt: skip
def test_a_wrong_legacy_token_is_distinguished_from_one_that_is_switched_off(look, server, detail, expected, is_off):
    """Both get a 401 from Label Studio 1.23.2, in other words."""
    server.routes["/api/current-user/whoami"] = Reply(detail, 401)
    finding = look(LABEL_STUDIO_API_KEY="0123456789abcdef0123456789abcdef01234567")["API key"]
    assert finding.level is Level.PROBLEM
    assert expected in finding.text
    assert ("enable legacy tokens" in finding.fix) is is_off


def test_an_access_token_for_an_api_key_is_pointed_out_even_while_it_works(look, server):
    access = jwt(token_type="access", iat=1700000000, exp=1700000300)
    server.accepted.add(f"Bearer {access}")
    finding = look(LABEL_STUDIO_API_KEY=access)["API key"]
    assert finding.level is Level.PROBLEM
    assert "expires after minutes" in finding.text
    assert "personal access token" in finding.fix


def test_no_token_is_ever_shown(look, server):
    server.revoked = True
    for token in (PERSONAL_TOKEN, LEGACY_TOKEN):
        assert token not in str(look(project=7, LABEL_STUDIO_API_KEY=token))


def test_a_private_address_brings_label_studios_refusal_and_its_remedy(look):
    finding = look().get("reserved address")
    if finding is None:
        pytest.skip("this machine has a public address")
    assert finding.level is Level.HINT
    for word in ("USE_DEFAULT_BANNED_SUBNETS=false", "ML_BLOCK_LOCAL_IP=false", "SSRF_PROTECTION_ENABLED=false"):
        assert word in finding.fix


@pytest.mark.parametrize(("release", "expected"), [
    (b'{"release": "1.22.0"}', "Label Studio 1.22.0 reaches such a backend, and from 1.23.1 on it does not"),
    (b'{"release": "1.23.0"}', "Label Studio 1.23.0 reaches such a backend, and from 1.23.1 on it does not"),
    (b'{"release": "1.23.1"}', "Label Studio 1.23.1 answers 403"),
    (b'{"release": "1.24"}', "Label Studio 1.24 answers 403"),
    (b'{"release": "develop"}', "Label Studio from 1.23.1 on answers 403"),
    (b"<html>", "Label Studio from 1.23.1 on answers 403"),
])  # fmt: skip
def test_what_a_release_of_label_studio_does_about_a_private_address_is_explained(look, server, release, expected):
    server.routes["/api/version"] = Reply(release)
    finding = look().get("reserved address")
    if finding is None:
        pytest.skip("this machine has a public address")
    assert expected in finding.text
    assert "no click arrives" in finding.text


@pytest.mark.parametrize(("environ", "is_told"), [
    ({}, True), ({"HOST": "127.0.0.1"}, False), ({"BASIC_AUTH_USER": "a", "BASIC_AUTH_PASS": "b"}, False),
])  # fmt: skip
def test_an_open_door_is_pointed_out(look, environ, is_told):
    assert ("access" in look(**environ)) is is_told


def test_a_project_that_is_not_there_is_a_problem(look):
    finding = look(project=8)["project 8"]
    assert finding.level is Level.PROBLEM
    assert "8" in finding.fix


def test_a_model_that_label_studio_reaches_is_named_with_its_address(look):
    finding = look(project=7)["model of project 7"]
    assert finding.level is Level.OK
    assert finding.text == "Label Studio reaches http://localhost:9090, and asks it on clicks"


def test_a_project_without_a_model_is_a_problem_that_says_where_to_connect_one(look, server):
    set_connections(server)
    finding = look(project=7)["model of project 7"]
    assert finding.level is Level.PROBLEM
    assert "Connect Model" in finding.fix


def test_a_model_that_label_studio_does_not_reach_is_a_problem_with_what_label_studio_says(look, server):
    set_connections(server, connection(readable_state="Disconnected"))
    finding = look(project=7)["model of project 7"]
    assert finding.level is Level.PROBLEM
    assert finding.text == "Label Studio does not reach http://localhost:9090 (Disconnected)"
    set_connections(server, connection(readable_state="Error", error_message="refused\nTraceback"))
    assert look(project=7)["model of project 7"].text.endswith("http://localhost:9090 (Error: refused)")


def test_a_model_that_is_not_asked_on_clicks_is_a_problem(look, server):
    set_connections(server, connection(is_interactive=False))
    finding = look(project=7)["model of project 7"]
    assert finding.level is Level.PROBLEM
    assert "Interactive preannotations" in finding.fix


def test_one_model_that_works_is_enough(look, server):
    old = connection(id=2, url="http://old:9090", readable_state="Disconnected")
    set_connections(server, old, connection())
    assert look(project=7)["model of project 7"].level is Level.OK


def test_passwords_in_a_models_address_are_not_shown(look, server):
    set_connections(server, connection(url="http://me:secret@sam:9090"))
    assert "secret" not in look(project=7)["model of project 7"].text


def test_connections_that_may_not_be_seen_are_a_hint(look, server):
    server.routes["/api/ml"] = Reply(b"{}", status=403)
    assert look(project=7)["model of project 7"].level is Level.HINT


def test_a_config_that_cannot_be_answered_is_a_problem_that_says_what_to_write(look, server):
    set_project(server, '<View><Image name="image" value="$image"/></View>')
    finding = look(project=7)["project 7"]
    assert finding.level is Level.PROBLEM
    assert "add for instance" in finding.text


def test_a_config_without_an_image_is_a_problem(look, server):
    set_project(server, "<View><Text name='t' value='$t'/></View>")
    assert "expected an <Image" in look(project=7)["project 7"].text


@pytest.mark.parametrize("name", ["segment_words", "segment_words_before"])
def test_a_field_for_words_without_a_detector_is_a_problem_that_says_what_to_set(look, server, name):
    set_project(server, WORDS_CONFIG.replace("segment_words", name))
    finding = look(project=7)["words of project 7"]
    assert finding.level is Level.PROBLEM
    assert f'<TextArea name="{name}">' in finding.text
    assert "PADDLE_SAM_DETECTOR" in finding.fix
    assert "words of project 7" not in look(project=7, PADDLE_SAM_DETECTOR="GroundingDINO-T")


def test_a_field_for_anything_else_needs_no_detector(look, server):
    set_project(server, WORDS_CONFIG.replace("segment_words", "comment"))
    assert "words of project 7" not in look(project=7)


def test_a_project_without_open_tasks_is_a_hint(look, server):
    set_tasks(server)
    finding = look(project=7)["images of project 7"]
    assert finding.level is Level.HINT
    assert "no unfinished task" in finding.text


def test_a_task_without_an_image_is_a_problem(look, server):
    set_tasks(server, {"picture": IMAGE})
    finding = look(project=7)["image of task 1"]
    assert finding.level is Level.PROBLEM
    assert "<Image value>" in finding.fix


def test_an_image_on_a_host_that_is_not_known_brings_the_setting_that_may_be_missing(look, server):
    public = "http://me:secret@127.0.0.1:9"
    server.routes["/data/local-files/"] = server.routes[IMAGE]
    set_tasks(server, {"image": public + "/data/local-files/?d=a.png"})
    finding = look(project=7)["image of task 1"]
    assert "reason forbidden_address" in finding.text
    assert "at http://127.0.0.1:9, set PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL" in finding.fix
    findings = look(project=7, PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL="http://127.0.0.1:9")["image of task 1"]
    assert findings.level is Level.OK


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9", "s3://bucket"])
def test_an_image_of_label_studios_own_does_not(look, server, url):
    set_tasks(server, {"image": url + "/data/upload/7/gone.png"})
    finding = look(project=7, PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL="http://127.0.0.1:9")["image of task 1"]
    assert finding.level is Level.PROBLEM
    assert "PUBLIC_URL" not in finding.fix


@pytest.mark.parametrize(("uri", "reply", "reason", "fix"), [
    ("/data/upload/7/gone.png", None, "image_not_found", "still there"),
    (IMAGE, Reply(b"no image at all"), "image_unreadable", "another image"),
    (IMAGE, Reply(png(size_wh=(300, 300))), "image_too_large", "PADDLE_SAM_MAX_IMAGE_PIXELS"),
    ("http://10.1.2.3/a.png", None, "forbidden_address", "PADDLE_SAM_ALLOWED_HOSTS"),
    ("gopher://x/a.png", None, "unsupported_image_source", "use http(s)"),
    (IMAGE, Reply(b"", 503), "image_fetch_failed", "again"),
])  # fmt: skip
def test_an_image_that_cannot_be_had_is_a_problem_with_its_reason_and_remedy(look, server, uri, reply, reason, fix):
    set_tasks(server, {"image": uri})
    if reply is not None:
        server.routes[uri] = reply
    finding = look(project=7, PADDLE_SAM_MAX_IMAGE_PIXELS="2000")["image of task 1"]
    assert finding.level is Level.PROBLEM
    assert f"reason {reason}" in finding.text
    assert fix in finding.fix


# Certificates and proxies


@pytest.mark.parametrize(
    ("certificate", "text", "fix"),
    [
        ("server", "unable to get local issuer certificate; set SSL_CERT_FILE", "SSL_CERT_FILE"),
        ("expired", "expired; renew it", "expired"),
        ("other", "for this name", "another name"),
    ],
)
def test_a_certificate_that_is_refused_is_named_as_the_cause_with_the_setting_that_helps(
    look, tmp_path, monkeypatch, certificate, text, fix
):
    own = company()
    if certificate != "server":
        monkeypatch.setenv("SSL_CERT_FILE", str(own.write(tmp_path / "company.pem")))
    context = own.server("other.example.com") if certificate == "other" else getattr(own, certificate)()
    with AnswerServer(tls=context) as secured:
        findings = look(LABEL_STUDIO_URL=secured.url)
    finding = findings["Label Studio"]
    assert finding.level is Level.PROBLEM
    assert text in finding.text
    assert fix in finding.fix
    assert "inside a container" not in finding.fix


def test_an_image_whose_servers_certificate_is_refused_is_reported_as_that(look, server):
    with AnswerServer(tls=company().server()) as secured:
        set_tasks(server, {"image": f"{secured.url}/plain"})
        finding = look(project=7, PADDLE_SAM_ALLOWED_HOSTS="localhost")["image of task 1"]
    assert "untrusted_certificate" in finding.text
    assert finding.fix.startswith("set SSL_CERT_FILE")


def test_an_image_that_cannot_be_reached_brings_up_the_proxy(look, server):
    set_tasks(server, {"image": "http://nowhere.invalid/a.png"})
    assert "PADDLE_SAM_IMAGE_PROXY" in look(project=7)["image of task 1"].fix
