"""One connection of the HTTP server: what it is at, until when, and how it ends."""

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask

from backend.web.bodies import Bodies
from backend.web.http_requests import Parser

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Limits:
    """For how long a connection may be at what, and how many there may be.

    Attributes:
        head_s: from the first byte of a request, or the beginning of a connection, to the end of the head.
        body_s: from the first byte of a request to its last; Label Studio gives up after 100.
        idle_s: between two requests.
        answer_s: from the end of an answer's making to that of its sending.
        linger_s: after the last answer, for what the caller is still sending.
        stop_s: what is left of ``head_s`` and ``body_s`` once the server is to stop.
        connections: at a time, those whose requests are in hand among them.
    """

    head_s: float = 10.0
    body_s: float = 100.0
    idle_s: float = 30.0
    answer_s: float = 100.0
    linger_s: float = 1.0
    stop_s: float = 5.0
    connections: int = 512


class Hub(Protocol):
    """What all connections of a server have in common; see `backend.web.http_server.HttpServer`."""

    @property
    def limits(self) -> Limits:
        """Deadlines, and how many connections there may be."""
        ...

    @property
    def bodies(self) -> Bodies:
        """What keeps bodies."""
        ...

    def admits(self, authorization: str, /) -> bool:
        """Whether the body of a caller with this header is kept."""
        ...

    @property
    def stops_at(self) -> float:
        """When the server was told to stop, monotonic; infinite before that."""
        ...


class Door(Protocol):
    """The listening socket that a connection came in by."""

    @property
    def http(self) -> Hub:
        """The server."""
        ...


class Connection(HTTPChannel):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Receives requests one after the other, and sends their answers.

    What a caller sends beyond the request in hand waits unread: 64 KB hold two thousand requests, and a few dozen
    connections would keep the loop busy for seconds.

    Attributes:
        since: when that began which it is at, monotonic.
        request: what is being received, None between requests.
    """

    request: Parser | None
    close_when_flushed: bool

    def __init__(
        self,
        server: Door,
        sock: socket.socket,
        addr: tuple[object, ...],
        adj: Adjustments,
        map: dict[int, Any],  # noqa: A002 - waitress' own name
    ) -> None:
        self.hub = server.http
        self.parser_class = partial(Parser, bodies=self.hub.bodies, admits=self.hub.admits, keep=self._keep)
        self.since, self._has_spoken, self._lingers = time.monotonic(), False, False
        self._surplus = b""
        super().__init__(server, sock, addr, adj, map)

    @property
    def is_in_hand(self) -> bool:
        """Whether a whole request is waiting for its answer."""
        return bool(self.requests)

    @property
    def unsent_bytes(self) -> int:
        """How much of answers the caller has yet to take."""
        return int(self.total_outbufs_len)

    def ends_at(self) -> float:
        """Return when it has to be over with what it is at, monotonic."""
        limits, stops_at = self.hub.limits, self.hub.stops_at
        if self._lingers:
            return self.since + limits.linger_s
        if self.is_in_hand:
            return float("inf")
        if self.unsent_bytes:
            return self.since + limits.answer_s
        if self.request is not None:
            within_s = limits.body_s if self.request.headers_finished else limits.head_s
            return min(self.since + within_s, stops_at + limits.stop_s)
        return min(self.since + (limits.idle_s if self._has_spoken else limits.head_s), stops_at + limits.linger_s)

    def give_up(self) -> None:
        """Hang up, telling a caller who is sending a request that it took too long."""
        if self._lingers or self.request is None:
            self.handle_close()
            return
        with suppress(OSError):
            self.socket.send(TIMED_OUT)
        self._linger()

    def received(self, data: bytes) -> bool:
        """Take what has come; see waitress."""
        if self._lingers:
            return False
        if self.request is None:
            data = data.lstrip()  # empty lines before a request are none
            if not data:
                return False
            self.since = time.monotonic()
        self._has_spoken = True
        return bool(super().received(data))

    def readable(self) -> bool:
        """Whether more is to be received; see waitress."""
        return not self._surplus and bool(super().readable())

    def go_on(self) -> None:
        """Take in the next request, if it has come already and the one before it is answered."""
        if self._surplus and super().readable():
            data, self._surplus = self._surplus, b""
            self.received(data)

    def write_soon(self, data: bytes) -> int:
        """Take a part of an answer; from another thread, which has the request in hand until all is written."""
        self.since = time.monotonic()
        return int(super().write_soon(data))

    def send_now(self) -> None:
        """Send what the system takes, from the thread that has made it; the loop would have to wake up first."""
        with self.outbuf_lock:
            self._flush_exception(self._flush_some, do_close=False)

    def handle_write(self) -> None:
        """Send what the system takes, and hang up after the last answer; see waitress."""
        is_last, self.close_when_flushed = self.close_when_flushed, False
        super().handle_write()
        if is_last and self.connected:
            if self.unsent_bytes:
                self.close_when_flushed = True
            else:
                self._linger()

    def handle_close(self) -> None:
        """Hang up."""
        self._forget_request()
        super().handle_close()

    def _linger(self) -> None:
        """Send no more, and wait for the caller to hang up: one that is still sending would not see the answer."""
        self._forget_request()
        self._lingers, self.since = True, time.monotonic()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def _keep(self, surplus: bytes) -> None:
        self._surplus = surplus

    def _forget_request(self) -> None:
        if self.request is not None:
            self.request.close()
            self.request = None


class _Task(WSGITask):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Answers a request."""

    def build_response_header(self) -> bytes:
        is_last = self.request.is_cut_off or self.channel.hub.stops_at < float("inf")
        if is_last:
            self.set_close_on_finish()
        return bytes(super().build_response_header())

    def finish(self) -> None:
        super().finish()
        self.channel.send_now()


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Answers what is no request, in JSON like everything else."""

    def execute(self) -> None:
        error = self.request.error
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
        self.set_close_on_finish()
        body = json.dumps({"error": " ".join(str(error.body).split())}).encode()
        self.content_length = len(body)
        self.write(body)


Connection.task_class, Connection.error_task_class = _Task, _ErrorTask
