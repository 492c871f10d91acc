"""The two HTTP clients, for images and for Label Studio's API, obey one set of rules."""

import json
import socket

import pytest

from backend.errors import AccessError, BackendError, ImageError
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.types import ImageRef
from tests.support.http_answers import NOT_SHOWN, AnswerServer, answer

ANSWER = {"api/version": answer(body=json.dumps({"release": "1.23.2"}).encode())}


def ask_for_an_image(url):
    client = LabelStudioHttp("http://localhost:9", None)
    policy = AddressPolicy(Origin.of(client.url), ("localhost", "127.0.0.1", "::1"))
    ImageSource(client, policy, FetchLimits(timeout_s=5, retry_wait_s=0.001)).fetch(ImageRef(f"{url}/api/version"))


def ask_the_api(url):
    client = LabelStudio(LabelStudioHttp(url, None, attempts=1))
    try:
        client.version()
    finally:
        client.http.close()


both = pytest.mark.parametrize("ask", [ask_for_an_image, ask_the_api])


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@both
@pytest.mark.parametrize(
    ("host", "name", "expected"),
    [
        pytest.param(
            "::1", "[::1]", "[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
        ),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "LocalHost", "localhost"),
    ],
)
def test_the_host_header_is_written_by_the_standard(ask, host, name, expected):
    with AnswerServer(host, answers=ANSWER, name=name) as server:
        ask(server.url)
        assert server.headers()["host"] == f"{expected}:{server.port}"


@both
def test_a_proxy_of_the_environment_does_not_count(ask, monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with AnswerServer(answers=ANSWER) as server:
        ask(server.url)
        assert len(server.requests) == 1


@both
@pytest.mark.parametrize("name", [name for name in NOT_SHOWN if name.startswith("to-")])
def test_a_redirect_that_leads_nowhere_is_no_matter_of_time(ask, name):
    with AnswerServer(answers={"api/version": NOT_SHOWN[name]}) as server, pytest.raises(BackendError) as caught:
        ask(server.url)
    assert not caught.value.retry
    assert isinstance(caught.value, ImageError | AccessError)
