"""A company's own authority counts for every connection, and what is refused says what to change."""

import json
import os
import socket
import ssl
import threading

import pytest
from click.testing import CliRunner

from backend.cli.main import main
from backend.errors import AccessError, ImageError, Reason
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.settings import SettingsError, read
from backend.types import ImageRef
from model import tls
from model.paddlex.inputs import InputError, Source
from model.weights import WeightsError
from model.weights.download import Source as WeightsSource
from model.weights.download import download
from tests.support.certificates import company
from tests.support.http_answers import IMAGE, AnswerServer, answer

ANSWERS = {
    "a.png": answer(),
    "api/version": answer(body=json.dumps({"release": "1.23.2"}).encode()),
    "sam.pth": answer(body=b"no weights"),
}


@pytest.fixture(scope="module")
def own():
    return company()


@pytest.fixture(scope="module")
def server(own):
    """A server with a certificate of that authority."""
    with AnswerServer(tls=own.server(), answers=ANSWERS) as server:
        yield server


@pytest.fixture
def unset(monkeypatch):
    for name in tls.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def save(own, tmp_path, form):
    if form == "file":
        return own.write(tmp_path / "company.pem")
    folder = tmp_path / "certificates"
    folder.mkdir()
    own.write(folder / "company.crt")
    (folder / "README").write_text("not a certificate")
    return f"{tmp_path / 'nowhere'}{os.pathsep}{folder}" if form == "folders" else folder


WAYS = (
    "SSL_CERT_FILE-file",
    "SSL_CERT_DIR-folder",
    "SSL_CERT_DIR-folders",
    "REQUESTS_CA_BUNDLE-file",
    "REQUESTS_CA_BUNDLE-folder",
)


@pytest.fixture(params=WAYS)
def trusted(request, own, unset, tmp_path, monkeypatch):
    """The environment names the authority, in each of the ways."""
    name, form = request.param.split("-")
    monkeypatch.setenv(name, str(save(own, tmp_path, form)))


def fetch(url):
    client = LabelStudioHttp("http://localhost:9", None)
    policy = AddressPolicy(Origin.of(client.url), ("localhost",))
    return ImageSource(client, policy, FetchLimits(timeout_s=10, retry_wait_s=0.001)).fetch(ImageRef(url))


def ask(url):
    client = LabelStudio(LabelStudioHttp(url, None, attempts=1))
    try:
        return client.version()
    finally:
        client.http.close()


def load(url, folder):
    sources = {"x": WeightsSource(f"{url}/sam.pth")}
    return download("x", folder, attempts=2, sources=sources, show_progress=False)


def test_images_honour_it(trusted, server):
    assert fetch(f"{server.url}/a.png").data == IMAGE


def test_label_studios_api_honours_it(trusted, server):
    assert ask(server.url) == "1.23.2"


def test_downloads_of_weights_honour_it(trusted, server, tmp_path):
    with pytest.raises(WeightsError, match="expected weights of SAM"):
        load(server.url, tmp_path)


def test_pictures_by_address_honour_it(trusted, server):
    assert Source(f"{server.url}/a.png").open().original_size == (48, 64)


# Refused


@pytest.fixture(params=["unknown", "expired", "other name"])
def refused(request, own, unset, tmp_path, monkeypatch):
    """A server whose certificate is refused, and words of the error message."""
    if request.param != "unknown":
        monkeypatch.setenv("SSL_CERT_FILE", str(own.write(tmp_path / "company.pem")))
    context = {"unknown": own.server, "expired": own.expired, "other name": lambda: own.server("other.example.com")}
    words = {"unknown": "set SSL_CERT_FILE", "expired": "expired; renew it", "other name": "for this name"}
    with AnswerServer(tls=context[request.param](), answers=ANSWERS) as server:
        yield server, words[request.param]


def test_both_clients_name_the_certificate_and_what_to_change(refused):
    server, words = refused
    for call in (lambda: fetch(f"{server.url}/a.png"), lambda: ask(server.url)):
        with pytest.raises(AccessError) as caught:
            call()
        assert caught.value.reason is Reason.UNTRUSTED_CERTIFICATE
        assert "its certificate is refused" in str(caught.value)
        assert words in str(caught.value)
    assert not server.requests


def test_so_do_the_tools(refused, tmp_path):
    server, words = refused
    with pytest.raises(WeightsError, match=words):
        load(server.url, tmp_path)
    with pytest.raises(InputError, match=words):
        Source(f"{server.url}/a.png").open()


def test_a_server_that_speaks_no_tls_will_never_pass(unset):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_in_plain():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer_in_plain, daemon=True).start()
        with pytest.raises(ImageError, match="TLS"):
            fetch(f"https://localhost:{server.getsockname()[1]}/plain")


# Settings


@pytest.mark.parametrize("name", tls.VARIABLES)
def test_a_variable_that_names_nothing_is_one_line_at_the_start(name, tmp_path):
    with pytest.raises(SettingsError) as caught:
        read({name: str(tmp_path / "nowhere")})
    [problem] = caught.value.problems
    assert problem.startswith(f"{name}=")
    assert "expected" in problem


def test_the_tools_tell_it_too(unset, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="SSL_CERT_FILE="):
        load("https://localhost:9", tmp_path)
    with pytest.raises(InputError, match="SSL_CERT_FILE="):
        Source("https://localhost:9/a.png").open()


def test_a_file_that_holds_no_certificate_is_refused(tmp_path):
    (tmp_path / "a.pem").write_text("nothing")
    for name, value in (("SSL_CERT_FILE", tmp_path / "a.pem"), ("SSL_CERT_DIR", tmp_path), ("SSL_CERT_FILE", tmp_path)):
        assert len(tls.problems({name: str(value)})) == 1
    assert tls.problems({"SSL_CERT_FILE": "", "SSL_CERT_DIR": " "}) == ()


def test_certificates_that_were_checked_are_not_read_again(own, tmp_path):
    given = {"SSL_CERT_FILE": str(own.write(tmp_path / "company.pem"))}
    assert tls.problems(given) == ()
    (tmp_path / "company.pem").unlink()
    assert tls.client_context(given).get_ca_certs()


@pytest.mark.parametrize("arguments", [("decoders", "list"), ("erase", "--project", "1"), ("serve", "--check")])
def test_a_command_that_makes_no_such_connection_reads_no_certificates(arguments, tmp_path):
    environ = {"SSL_CERT_FILE": str(tmp_path / "nowhere"), "PADDLE_SAM_CACHE_DIR": str(tmp_path), "PORT": "1"}
    environ["PADDLE_SAM_DECODERS_DIR"] = str(tmp_path / "decoders")
    result = CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)
    assert "SSL_CERT_FILE" not in result.output
    assert result.exit_code == (1 if "--check" in arguments else 0)


@pytest.mark.parametrize("arguments", [("decoders", "list"), ("erase", "--project", "1"), ("worker", "--check")])
def test_a_command_that_reaches_redis_by_tls_refuses_a_file_without_certificates(arguments, tmp_path):
    environ = {"SSL_CERT_FILE": str(tmp_path / "nowhere"), "PADDLE_SAM_CACHE_DIR": str(tmp_path)}
    environ |= {"REDIS_URL": "rediss://127.0.0.1:1", "PADDLE_SAM_DECODERS_DIR": str(tmp_path / "decoders")}
    result = CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)
    assert "SSL_CERT_FILE" in result.output
    assert result.exit_code == 2


def test_without_variables_the_public_authorities_count_and_one_context_serves_all(unset):
    assert tls.client_context() is tls.client_context()
    assert tls.client_context().verify_mode is ssl.CERT_REQUIRED
    assert len(tls.client_context().get_ca_certs()) > 50
