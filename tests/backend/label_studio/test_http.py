"""A request to Label Studio ends at its deadline, whichever step the server is slow at, and when the run is stopped."""

import contextlib
import gzip
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import Reason, RetryLater
from backend.label_studio.http import LabelStudioHttp, Request
from tests.support.fakes import FakeLabelStudio, Reply

TIMEOUT_S = 0.4
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class SlowServer:
    """Takes connections, and gives each to a function in a thread of its own."""

    def __init__(self, serve):
        self._serve, self._listener = serve, socket.create_server(("127.0.0.1", 0))
        self.over, self.served = threading.Event(), 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.served += 1
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        with connection, contextlib.suppress(OSError):
            self._serve(connection, self.over)

    def close(self):
        self.over.set()
        self._listener.close()


def silent(connection, over):
    connection.recv(65536)
    over.wait(20)


def drips(data):
    def serve(connection, over):
        connection.recv(65536)
        for byte in data:
            connection.sendall(bytes([byte]))
            if over.wait(0.02):
                return
        over.wait(20)

    return serve


def reads_nothing(connection, over):
    over.wait(20)


def reads_a_little(connection, over):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while not over.wait(0.02) and connection.recv(2048):
        pass


SLOW = {
    "silent": silent,
    "head": drips(HEAD + b"X-Padding: " + b"x" * 3000),
    "body": drips(HEAD + b"Content-Length: 3000\r\n\r\n" + b" " * 3000),
    "chunks": drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000),
    "endless-interim-answers": drips(b"HTTP/1.1 100 Continue\r\n\r\n" * 300),
    "reads-nothing": reads_nothing,
    "reads-a-little": reads_a_little,
}
LARGE = Request("POST", "/api/projects/1/import/predictions", body=b"x" * 40_000_000, is_repeatable=False)


@pytest.fixture
def serve():
    servers = []

    def start(how):
        servers.append(SlowServer(how))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("keeps_connections", [False, True])
def test_a_request_ends_at_its_deadline_whatever_the_server_is_slow_at(serve, how, keeps_connections):
    http = LabelStudioHttp(
        serve(SLOW[how]).url, None, timeout_s=TIMEOUT_S, attempts=1, keeps_connections=keeps_connections
    )
    started = time.monotonic()
    with pytest.raises(RetryLater, match=r"takes longer than 0\.4 s") as caught:
        http.send(LARGE if how.startswith("reads") else Request("GET", "/api/version"))
    assert time.monotonic() - started < TIMEOUT_S + 1
    assert caught.value.reason is Reason.LABEL_STUDIO_UNREACHABLE
    http.close()


def test_a_handshake_that_drips_ends_at_the_deadline_too(serve):
    """The server sends the beginning of a record of TLS, a byte at a time."""
    server = serve(drips(b"\x16\x03\x03\x40\x00" + b"\x02" * 3000))
    http = LabelStudioHttp(server.url.replace("http:", "https:"), None, timeout_s=TIMEOUT_S, attempts=1)
    started = time.monotonic()
    with pytest.raises(RetryLater):
        http.send(Request("GET", "/api/version"))
    assert time.monotonic() - started < TIMEOUT_S + 1


def test_a_look_up_of_the_name_that_hangs_ends_at_the_deadline_too(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: over.wait(20) and [])
    http = LabelStudioHttp("http://label-studio.example.com", None, timeout_s=TIMEOUT_S, attempts=1)
    started = time.monotonic()
    with pytest.raises(RetryLater, match=r"label-studio\.example\.com"):
        http.send(Request("GET", "/api/version"))
    assert time.monotonic() - started < TIMEOUT_S + 1
    over.set()


def test_each_request_on_a_kept_connection_has_a_deadline_of_its_own(serve):
    def answer(connection, over):
        while connection.recv(65536):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    server = serve(answer)
    http = LabelStudioHttp(server.url, None, timeout_s=TIMEOUT_S, attempts=1, keeps_connections=True)
    for _ in range(3):
        assert http.send(Request("GET", "/api/version")) == b"{}"
        time.sleep(0.6 * TIMEOUT_S)
    assert server.served == 1
    http.close()


@pytest.mark.parametrize("how", ["silent", "body", "reads-nothing"])
def test_requests_that_hang_end_when_they_are_aborted_and_so_do_later_ones(serve, how):
    server = serve(SLOW[how])
    http = LabelStudioHttp(server.url, None, timeout_s=60, attempts=1, keeps_connections=True)
    request = LARGE if how == "reads-nothing" else Request("GET", "/api/version")
    with ThreadPoolExecutor(3) as pool:
        hanging = [pool.submit(http.send, request) for _ in range(3)]
        while server.served < 3:
            time.sleep(0.01)
        time.sleep(0.1)
        started = time.monotonic()
        http.abort()
        failures = [future.exception(5) for future in hanging]
    assert [type(failure) for failure in failures] == [RetryLater] * 3
    assert {failure.reason for failure in failures} == {Reason.LABEL_STUDIO_UNREACHABLE}
    with pytest.raises(RetryLater):
        http.send(Request("GET", "/api/version"))
    assert time.monotonic() - started < 2
    http.close()


def test_a_compressed_answer_is_decoded():
    with FakeLabelStudio() as server:
        body = gzip.compress(b'{"release": "1.23.2"}')
        server.routes["/api/version"] = Reply(body, headers={"Content-Encoding": "gzip"})
        http = LabelStudioHttp(server.url, None, attempts=1)
        assert http.send(Request("GET", "/api/version")) == b'{"release": "1.23.2"}'
        assert server.requests[-1].headers["user-agent"] == "paddle-sam-backend"
        server.routes["/api/version"] = Reply(b"no gzip", headers={"Content-Encoding": "gzip"})
        with pytest.raises(RetryLater, match="cannot be reached"):
            http.send(Request("GET", "/api/version"))
