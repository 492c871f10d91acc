"""One connection of the HTTP server: its state, its deadline, and how it is closed."""

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, WSGITask

from backend.web.access import Gate
from backend.web.bodies import Bodies
from backend.web.http_requests import Parser

if TYPE_CHECKING:
    from flask import Response

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class ConnectionLimits:
    """Timeouts of a connection's states, and the maximum number of connections."""

    head_s: float = 10.0  # from the first byte of a request, or the start of a connection, to the end of the head
    body_s: float = 100.0  # from the first byte of a request to its last; Label Studio's own timeout is 100
    idle_s: float = 30.0
    answer_s: float = 100.0  # from the end of an answer's computation to the end of its transfer
    linger_s: float = 1.0  # after the last answer, for bytes that the caller is still sending
    stop_s: float = 5.0  # limit on ``head_s`` and ``body_s`` after the server was asked to stop
    connections: int = 512  # maximum number at a time, including those whose requests are being answered
    # maximum size of all answers that wait to be sent; the slowest readers are disconnected
    unsent_bytes: int = 200_000_000


@dataclass
class ServerState:
    """What all connections of a server share."""

    bodies: Bodies
    limits: ConnectionLimits
    gate: Gate | None  # decides about requests before they take a thread; None admits all, each of which may wait
    stops_at: float = float("inf")  # when the server was asked to stop, monotonic; infinite before that


class Connection(HTTPChannel):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Receives requests one after the other, and sends their answers.

    What a caller sends beyond the current request waits unread: 64 KB hold two thousand requests, and a few dozen
    connections would keep the loop busy for seconds. ``since`` is when the current state began, monotonic;
    ``known_answer`` answers the current request without a thread.
    """

    request: Parser | None
    close_when_flushed: bool

    def __init__(
        self,
        server: BaseWSGIServer,
        sock: socket.socket,
        addr: tuple[object, ...],
        adj: Adjustments,
        map: dict[int, Any],  # noqa: A002 - waitress' own name
    ) -> None:
        self.server_state: ServerState = server.state
        gate = self.server_state.gate
        self.parser_class = partial(
            Parser,
            bodies=self.server_state.bodies,
            admits=gate.admits if gate is not None else lambda authorization: True,
            keep=partial(setattr, self, "_surplus"),
        )
        self.since, self._has_received, self._is_lingering = time.monotonic(), False, False
        self._surplus, self._needs_no_thread = b"", False
        self.known_answer: Response | None = None
        super().__init__(server, sock, addr, adj, map)

    @property
    def is_answering(self) -> bool:
        """Whether a complete request is waiting for its answer."""
        return bool(self.requests)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes of answers are not sent yet."""
        return int(self.total_outbufs_len)

    def deadline(self) -> float:
        """Return when the current state times out, monotonic; infinity while a request is being answered."""
        limits, stops_at = self.server_state.limits, self.server_state.stops_at
        if self._is_lingering:
            return self.since + limits.linger_s
        if self.is_answering:
            return float("inf")
        if self.unsent_bytes:
            return self.since + limits.answer_s
        if self.request is not None:
            within_s = limits.body_s if self.request.headers_finished else limits.head_s
            return min(self.since + within_s, stops_at + limits.stop_s)
        return min(self.since + (limits.idle_s if self._has_received else limits.head_s), stops_at + limits.linger_s)

    def time_out(self) -> None:
        """Close the connection; a caller that is sending a request gets the status 408 first."""
        if self._is_lingering or self.request is None:
            self.handle_close()
            return
        with suppress(OSError):
            self.socket.send(TIMED_OUT)
        self._linger()

    def received(self, data: bytes) -> bool:
        """Process received bytes; see waitress."""
        if self._is_lingering:
            return False
        if self.request is None:
            data = data.lstrip()  # empty lines before a request are none
            if not data:
                return False
            self.since = time.monotonic()
        self._has_received = True
        was_taken = bool(super().received(data))
        if self._needs_no_thread:
            self._needs_no_thread = False
            self.service()
        return was_taken

    def needs_no_thread(self) -> bool:
        """Return whether the current request is answered by the receiving loop, which does it next."""
        request, gate = self.requests[0], self.server_state.gate
        if request.error is None and gate is not None:
            authorization = request.headers.get("AUTHORIZATION", "")
            self.known_answer = gate.answer(request.command, request.path, authorization)
        self._needs_no_thread = request.error is not None or self.known_answer is not None
        return self._needs_no_thread

    def readable(self) -> bool:
        """Whether the loop should receive more; see waitress."""
        return not self._surplus and bool(super().readable())

    @property
    def has_next(self) -> bool:
        """Whether the next request has come already, and the one before it is answered."""
        return bool(self._surplus and super().readable())

    def go_on(self) -> None:
        """Take in the next request."""
        data, self._surplus = self._surplus, b""
        self.received(data)

    def write_soon(self, data: bytes) -> int:
        """Queue a part of an answer; called from the thread that answers the request, until all is written."""
        self.since = time.monotonic()
        return int(super().write_soon(data))

    def handle_write(self) -> None:
        """Send as much as the system accepts, and close the connection after the last answer; see waitress."""
        is_last, self.close_when_flushed = self.close_when_flushed, False
        super().handle_write()
        if is_last and self.connected:
            if self.unsent_bytes:
                self.close_when_flushed = True
            else:
                self._linger()

    def handle_close(self) -> None:
        """Close the connection."""
        self._drop_request()
        super().handle_close()

    def _linger(self) -> None:
        """Stop sending, and wait until the caller closes: a caller that is still sending would not see the answer."""
        self._drop_request()
        self._is_lingering, self.since = True, time.monotonic()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def _drop_request(self) -> None:
        if self.request is not None:
            self.request.close()
            self.request = None


class _Task(WSGITask):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    def execute(self) -> None:
        answer, self.channel.known_answer = self.channel.known_answer, None
        if answer is None:
            super().execute()
            return
        self.complete, self.status, self.response_headers = True, answer.status, list(answer.headers.items())
        body = b"" if self.request.command == "HEAD" else answer.get_data()
        self.channel.write_soon(self.build_response_header() + body)
        self.wrote_header = True

    def build_response_header(self) -> bytes:
        is_last = self.request.is_cut_off or self.channel.server_state.stops_at < float("inf")
        if is_last:
            self.set_close_on_finish()
        return bytes(super().build_response_header())

    def finish(self) -> None:
        super().finish()
        channel = self.channel
        with channel.outbuf_lock:  # waking up the loop to send would take longer
            channel._flush_exception(channel._flush_some, do_close=False)


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Answers a malformed request, in JSON like all other answers."""

    def execute(self) -> None:
        error = self.request.error
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
        self.set_close_on_finish()
        body = json.dumps({"error": " ".join(str(error.body).split())}).encode()
        self.content_length = len(body)
        self.write(body)


Connection.task_class, Connection.error_task_class = _Task, _ErrorTask
