"""The image proxy: which images go through it, and that neither the token nor Label Studio's own files ever do."""

import base64
import contextlib
import select
import socket
import socketserver
import threading

import pytest

from backend.composition import parts
from backend.errors import AccessError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource, Route
from backend.images.http.connections import Proxy
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.settings import SettingsError, read
from backend.types import ImageRef, Secret
from tests.support.certificates import company
from tests.support.fakes import LEGACY_TOKEN, FakeLabelStudio, Reply
from tests.support.http_answers import IMAGE, AnswerServer, answer

PUBLIC, PRIVATE = "93.184.216.34", "10.1.2.3"
NAMES = {
    "localhost": ["127.0.0.1"],
    "pictures.example.com": [PUBLIC],
    "inside.example.com": [PRIVATE],
    "mixed.example.com": [PUBLIC, PRIVATE],
    "::1": ["::1"],
}


class ProxyServer:
    """A proxy that gives one answer to every plain request, and connects every tunnel to one port.

    Attributes:
        heads: the request lines and headers it got.
        refuses: a status line, to refuse tunnels with.
    """

    def __init__(self, port=0, tls=None):
        self.heads, self.refuses = [], None
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                lines = [self.rfile.readline()]
                while (line := self.rfile.readline()) not in (b"\r\n", b""):
                    lines.append(line)
                outer.heads.append(b"".join(lines).decode())
                if outer.refuses:
                    self.wfile.write(outer.refuses + b"\r\nContent-Length: 0\r\n\r\n")
                elif lines[0].startswith(b"CONNECT"):
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    with socket.create_connection(("127.0.0.1", port)) as target, contextlib.suppress(OSError):
                        pump(self.connection, target)
                else:
                    self.wfile.write(answer())

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def get_request(self):
                connection, address = super().get_request()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                return connection, address

        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"localhost:{self._server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()


def pump(source, sink):
    """Carry bytes both ways until one side ends."""
    while True:
        for ready in select.select([source, sink], [], [], 5)[0]:
            data = ready.recv(65536)
            if not data:
                return
            (sink if ready is source else source).sendall(data)


def lookup(host, port):
    if host in NAMES:
        return NAMES[host]
    if host.replace(".", "").isdigit() and host.count(".") == 3:
        return [host]
    raise OSError("Name or service not known")


def image_source(proxy, login="", url="http://localhost:9", allowed=()):
    client = LabelStudioHttp(url, Secret(LEGACY_TOKEN), retry_wait_s=0.001)
    policy = AddressPolicy(Origin.of(url), allowed)
    way = Proxy.of(f"{proxy.scheme}://{login}{proxy.address}")
    return ImageSource(client, policy, FetchLimits(timeout_s=5, retry_wait_s=0.001), route=Route(lookup, way))


@pytest.fixture
def proxy():
    with ProxyServer() as proxy:
        yield proxy


def refusal(kind, source, uri):
    with pytest.raises(kind) as caught:
        source.fetch(ImageRef(uri))
    return caught.value


def test_a_public_image_is_asked_of_the_proxy_with_its_whole_address(proxy):
    assert image_source(proxy, "me:s%40cret@").fetch(ImageRef("http://pictures.example.com/a.png?b")).data == IMAGE
    [head] = proxy.heads
    assert head.startswith("GET http://pictures.example.com:80/a.png?b HTTP/1.1\r\n")
    assert "\r\nHost: pictures.example.com\r\n" in head
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:s@cret').decode()}\r\n" in head


@pytest.mark.parametrize("is_secured", [False, True])
def test_https_goes_through_a_tunnel_and_the_proxys_login_no_further(tmp_path, monkeypatch, is_secured):
    own = company()
    monkeypatch.setenv("SSL_CERT_FILE", str(own.write(tmp_path / "company.pem")))
    with AnswerServer(tls=own.server("pictures.example.com")) as server:  # noqa: SIM117 - the proxy needs its port
        with ProxyServer(server.port, own.server() if is_secured else None) as proxy:
            source = image_source(proxy, "me:secret@")
            assert source.fetch(ImageRef("https://pictures.example.com/plain")).data == IMAGE
            [head] = proxy.heads
            assert head.startswith("CONNECT pictures.example.com:443 HTTP/1.1\r\n")
            assert "Proxy-Authorization" in head
            assert "proxy-authorization" not in server.headers()


def test_a_name_that_only_the_proxy_resolves_goes_through_it(proxy):
    assert image_source(proxy).fetch(ImageRef("http://elsewhere.example.com/a.png")).data == IMAGE


@pytest.mark.parametrize("host", ["intranet", "nas.local", "db.internal", "x.localhost", "[::2]", "1.2.3.4.5"])
def test_a_name_of_a_private_network_that_does_not_resolve_is_not_left_to_the_proxy(proxy, host):
    refusal(RetryLater, image_source(proxy), f"http://{host}/a.png")
    assert not proxy.heads


@pytest.mark.parametrize(
    "host", ["inside.example.com", "mixed.example.com", "10.0.0.1", "169.254.169.254", "[::1]", "localhost"]
)
def test_what_may_not_be_fetched_directly_may_not_through_the_proxy(proxy, host):
    assert refusal(AccessError, image_source(proxy), f"http://{host}/a.png").reason is Reason.FORBIDDEN_ADDRESS
    assert not proxy.heads


def test_an_allowed_private_host_is_reached_directly(proxy):
    with AnswerServer() as server:
        assert image_source(proxy, allowed=("localhost",)).fetch(ImageRef(f"{server.url}/plain")).data == IMAGE
    assert not proxy.heads


def test_label_studio_and_the_token_never_go_through_it(proxy):
    with FakeLabelStudio() as studio:
        studio.routes["/data/upload/a.png"] = Reply(IMAGE)
        studio.routes["/data/upload/r.png"] = Reply(b"", 302, {"Location": "http://pictures.example.com/b.png"})
        source = image_source(proxy, url=studio.url)
        assert source.fetch(ImageRef("/data/upload/a.png")).data == IMAGE
        assert not proxy.heads
        assert source.fetch(ImageRef("/data/upload/r.png")).data == IMAGE
    [head] = proxy.heads
    assert "Authorization" not in head


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required", AccessError, "PADDLE_SAM_IMAGE_PROXY"),
        (b"HTTP/1.1 403 Forbidden", AccessError, "when asked for pictures.example.com"),
        (b"HTTP/1.1 502 Bad Gateway", RetryLater, "answers 502"),
    ],
)
def test_what_the_proxy_refuses_is_reported_as_the_proxys(proxy, line, kind, words):
    proxy.refuses = line
    error = refusal(kind, image_source(proxy, "me:secret@"), "https://pictures.example.com/a.png")
    assert words in str(error)
    assert f"the image proxy {proxy.address}" in str(error)
    assert "secret" not in str(error)


def test_a_proxy_that_is_away_is_named(proxy):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy_url = f"http://localhost:{free.getsockname()[1]}"
    client = LabelStudioHttp("http://localhost:9", None)
    source = ImageSource(client, AddressPolicy(Origin.of(client.url)), route=Route(lookup, Proxy.of(proxy_url)))
    assert "the image proxy localhost" in str(refusal(RetryLater, source, "http://pictures.example.com/a.png"))


# The setting


def test_the_service_takes_its_proxy_from_the_setting(proxy):
    settings = read({"PADDLE_SAM_IMAGE_PROXY": f"http://{proxy.address}"})
    source = parts.image_source(settings, LabelStudio(LabelStudioHttp(settings.label_studio_url, None)))
    assert source.fetch(ImageRef(f"http://{PUBLIC}/a.png")).data == IMAGE
    assert proxy.heads[0].startswith(f"GET http://{PUBLIC}:80/a.png HTTP/1.1")


@pytest.mark.parametrize(
    "value", ["proxy:3128", "socks5://proxy:1080", "http://", "http://u:p#w@proxy:3128", "http://u:p/w@proxy", "http://h:0x"]
)  # fmt: skip
def test_what_is_no_address_of_a_proxy_is_refused_and_not_shown(value):
    with pytest.raises(SettingsError) as caught:
        read({"PADDLE_SAM_IMAGE_PROXY": value})
    assert caught.value.problems[0].startswith("PADDLE_SAM_IMAGE_PROXY=***: expected an address such as http://proxy:")
    assert "p#w" not in str(caught.value)


def test_its_credentials_are_in_no_repr():
    assert "secret" not in repr(read({"PADDLE_SAM_IMAGE_PROXY": "http://me:secret@proxy:3128"}))
    assert "bWU6" not in repr(Proxy.of("http://me:secret@proxy:3128"))
