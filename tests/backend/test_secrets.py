"""Secrets stay secret: in the log at its most talkative, the doctor's report, the page, the metrics, every refusal."""

import json
import os

import pytest
from click.testing import CliRunner

from backend.cli.main import main
from backend.settings import SECRETS, read
from tests.support.fakes import HttpServer, Reply
from tests.support.processes import environment, serving
from tests.support.redis_server import PROGRAM, RedisServer, free_port
from tests.support.wire_bodies import click, encoded

KEY, PASSWORD, REDIS_PASSWORD, PROXY_PASSWORD = "5ec7e7a11ce", "5ec7e7b0b", "5ec7e7ca401", "5ec7e7da7e"
SECRET_WORDS = (KEY, PASSWORD, REDIS_PASSWORD, PROXY_PASSWORD)
BASIC = {"BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": PASSWORD}
HEADERS = {"Authorization": "Basic bWU6NWVjN2U3YjBi"}  # me and PASSWORD
IMAGE = "/data/upload/1/a.png"


@pytest.fixture
def run(monkeypatch):
    """Run the command line in this process, with no settings but the given ones."""

    def run(*arguments, **environ):
        for name in os.environ.keys() - environment().keys():
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, list(arguments))

    return run


def hidden(text):
    """Whether none of the secrets shows, in words that say which does."""
    return [secret for secret in (*SECRET_WORDS, HEADERS["Authorization"][6:]) if secret in text] == []


@pytest.fixture(scope="module")
def label_studio():
    """One that refuses the token and, as careless servers do, repeats it."""
    with HttpServer() as server:
        refusal = json.dumps({"detail": f"Invalid token: {KEY}"}).encode()
        for path in (IMAGE, "/api/version", "/api/current-user/whoami", "/api/token/refresh"):
            server.routes[path] = Reply(refusal, status=401)
        yield server


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A Redis that wants another password, or none at all where there is no redis-server."""
    if PROGRAM is None:
        yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{free_port()}/0"
        return
    with RedisServer(tmp_path_factory.mktemp("redis"), password="another") as server:
        yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module", params=["embedded", "over Redis"])
def environ(request, weights, label_studio, redis_url):
    return {
        "PADDLE_SAM_WEIGHTS": weights,
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "REDIS_URL": "" if request.param == "embedded" else redis_url,
        "PADDLE_SAM_PREDICT_BUDGET_S": "3",
        "LOG_LEVEL": "debug",
    }


def test_neither_log_nor_page_nor_metrics_nor_answers_show_them(environ, tmp_path):
    body = encoded(click(tasks=[{"id": 1, "data": {"image": IMAGE}}]))
    with serving(tmp_path, **environ, **BASIC) as server:
        answers = [
            server.ask("/predict", body, **HEADERS)[1],
            server.ask("/predict", body, Authorization="Basic eDp5")[1],
        ]
        answers += [
            server.ask(path, Accept="text/html", **HEADERS)[1] for path in ("/", "/metrics", "/health", "/nowhere")
        ]
    everything = b"\n".join(answers).decode() + server.log
    assert "event=predicted" in everything
    assert "reasons=-" not in everything
    assert hidden(everything)


def test_the_doctor_does_not_show_them(run, environ):
    completed = run("doctor", "--project", "1", **environ, **BASIC)
    assert completed.exit_code == 1
    assert "PROBLEM" in completed.stdout
    assert hidden(completed.output)


@pytest.mark.parametrize(
    "wrong",
    [
        {"PORT": "x"},
        {"REDIS_URL": f"http://:{REDIS_PASSWORD}@host"},
        {"PADDLE_SAM_IMAGE_PROXY": f"socks5://:{PROXY_PASSWORD}@host"},
        {"BASIC_AUTH_USER": ""},
    ],
)
def test_refused_settings_do_not_show_them(run, environ, wrong):
    completed = run("serve", **{**environ, **BASIC, **wrong})
    assert completed.exit_code == 2
    assert completed.stderr.startswith("error: ")
    assert hidden(completed.stderr)


def test_a_worker_that_cannot_enter_redis_does_not_show_them(run, environ):
    if not environ["REDIS_URL"]:
        pytest.skip("there is no worker without Redis")
    completed = run("worker", "--check", **environ)
    assert completed.exit_code != 0
    assert completed.output
    assert hidden(completed.output)


def test_every_secret_setting_is_one_that_does_not_print_itself():
    proxy = f"http://me:{PROXY_PASSWORD}@proxy:3128"
    values = {"LABEL_STUDIO_API_KEY": KEY, "REDIS_URL": f"redis://:{REDIS_PASSWORD}@host", **BASIC}
    values["PADDLE_SAM_IMAGE_PROXY"] = proxy
    assert set(SECRETS) <= set(values)
    settings = read(values)
    assert all(hidden(text) for text in (repr(settings), str(settings), f"{settings.redis_url}", str([settings])))
