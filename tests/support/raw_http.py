"""Callers that behave as no HTTP library would: bytes as they are, in pieces, or not at all."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from backend.concurrency.byte_budget import ByteBudget
from backend.web.bodies import Bodies
from backend.web.http_connection import ConnectionLimits
from backend.web.http_server import HttpServer

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Line:
    """A connection to a port of this machine."""

    def __init__(self, port: int, timeout_s: float = 20.0, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """Return what comes next; nothing once the server has hung up."""
        return self.socket.recv(65536)

    def rest(self) -> bytes:
        """Return everything until the server hangs up."""
        parts = []
        while part := self.receive():
            parts.append(part)
        return b"".join(parts)

    def answer(self) -> bytes:
        """Return one answer that has a Content-Length; the connection stays open."""
        received = b""
        while b"\r\n\r\n" not in received:
            part = self.receive()
            if not part:
                return received
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self.receive()
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def exchange(port: int, message: bytes) -> bytes:
    """Send bytes as they are and return what comes back until the server hangs up."""
    with Line(port) as line:
        with contextlib.suppress(OSError):  # the server may have hung up already
            line.send(message)
            line.socket.shutdown(socket.SHUT_WR)
        return line.rest()


def post(path: str, body: bytes, *, length: int | None = None) -> bytes:
    """Return a request that announces ``length`` bytes."""
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), length or len(body), body)


ATTACKS = {
    "silent": b"",
    "half a head": b"POST /predict HTTP/1.1\r\nHost: x\r\nX-A: ",
    "half a body": post("/predict", b"{", length=5000),
    "half a chunk": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "kept alive": HEALTH,
}
"""What each connection of an attack says before it falls silent."""


@contextmanager
def attack(kind: str, port: int, connections: int, trickles: bool = False) -> Iterator[list[Line]]:
    """Hold connections of one kind until the block ends; those that trickle send a byte every now and then."""
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(port)) for _ in range(connections)]
        for line in lines:
            line.send(ATTACKS[kind])
            if kind == "kept alive":
                line.answer()
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(0.1):
                for line in lines:
                    with contextlib.suppress(OSError):
                        line.send(b" ")

        thread = threading.Thread(target=trickle)
        if trickles:
            thread.start()
        try:
            yield lines
        finally:
            over.set()
            if trickles:
                thread.join()


@contextmanager
def flood(port: int, connections: int, request: bytes) -> Iterator[None]:
    """Send a request again and again on each of many connections, without waiting for the answers."""
    over = threading.Event()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            line = stack.enter_context(Line(port))
            line.socket.setblocking(False)
            selector.register(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, bytearray())

        def send() -> None:
            while not over.wait(0.005):
                for key, events in selector.select(0.1):
                    with contextlib.suppress(OSError):
                        if events & selectors.EVENT_READ and not key.fileobj.recv(65536):
                            selector.unregister(key.fileobj)
                        elif events & selectors.EVENT_WRITE:
                            unsent = key.data
                            unsent += b"" if unsent else 50 * request
                            del unsent[: key.fileobj.send(unsent)]

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def times_ms(port: int, requests: list[bytes], rounds: int) -> list[float]:
    """Return how long these requests took, each on a connection of its own, the quickest first."""
    times = []
    for request in requests * rounds:
        start = time.perf_counter()
        with Line(port) as line:
            line.send(request)
            assert line.answer().startswith(b"HTTP/1.1 200 ")
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)


class Served:
    """An application behind the product's HTTP server, in a thread of this process."""

    def __init__(
        self,
        application,
        *,
        limits: ConnectionLimits | None = None,
        bodies: Bodies | None = None,
        threads: int = 4,
        **more,
    ):
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.budget = ByteBudget(2_000_000)
        self.bodies = bodies or Bodies(1_000_000, self.budget)
        self.http = HttpServer(application, [listening], self.bodies, threads=threads, limits=limits, **more)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.http.serve_once(0.05)
        self.http.finish(10.0)

    def begin_to_stop(self) -> None:
        self._stop.set()
        self.http.wake()

    def stop(self) -> None:
        self.begin_to_stop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self.http.close()
