"""An HTTP server whose threads see whole requests only: waitress, with deadlines, and a bound on connections.

One thread receives and sends for all connections, so one that is slow or silent takes up nothing but its place. Every
stage of a request has to be over in time, whatever trickles in meanwhile; and where all places are taken, those that
have waited for the longest give way to new ones. On any system, in the process that makes it;
`backend.web.gunicorn_server` starts it in several.
"""

import heapq
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer

from backend.web.bodies import Bodies
from backend.web.http_connection import Connection, Limits

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65_536
RECEIVE_BYTES = 65_536
BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
LOOK_EVERY_S = 0.25
TOLD_EVERY_S = 60.0

FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


class HttpServer:
    """Answers what comes in on sockets that listen; for one thread, which calls `turn` again and again."""

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        sockets: Sequence[socket.socket],
        bodies: Bodies,
        *,
        threads: int,
        limits: Limits | None = None,
        admits: Callable[[str], bool] = lambda authorization: True,
    ) -> None:
        """Begin to listen, and start the threads.

        Args:
            application: is called with whole requests.
            sockets: bound ones; they are closed with the server.
            bodies: what keeps them.
            threads: how many requests are in hand at a time.
            limits: of connections.
            admits: whether the body of a caller with this ``Authorization`` header is kept for the application.
        """
        self.application, self.bodies, self.limits, self.admits = application, bodies, limits or Limits(), admits
        self.map: dict[int, Any] = {}  # Any: what waitress' loop takes has no type of its own
        self.connections: dict[int, Connection] = {}
        self.stops_at = float("inf")
        self.dispatcher = _Dispatcher(threads)
        self._looked_at = self._told_at = float("-inf")
        self.adjustments = Adjustments(
            ident="",
            server_name="localhost",
            threads=threads,
            backlog=BACKLOG,
            recv_bytes=RECEIVE_BYTES,
            max_request_header_size=MAX_HEAD_BYTES,
            max_request_body_size=sys.maxsize,  # see `backend.web.bodies`
            outbuf_overflow=sys.maxsize,  # there may be no disk to write to, and the sum is bounded
            outbuf_high_watermark=sys.maxsize,  # no thread waits for a slow reader
            log_socket_errors=False,
            clear_untrusted_proxy_headers=False,
        )
        self._listeners = [_Listener(self, one) for one in sockets]
        self._poll = wasyncore.poll2 if hasattr(select, "poll") else wasyncore.poll

    def turn(self, timeout_s: float) -> None:
        """Receive and send what is ready, waiting for it at most so long."""
        self._poll(min(timeout_s, LOOK_EVERY_S if self.connections else timeout_s), self.map)
        for connection in list(self.connections.values()):
            connection.go_on()
        now = time.monotonic()
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            self._look_after(now)

    def wake(self) -> None:
        """End a `turn` that waits; from any thread or signal handler."""
        for listener in self._listeners:
            listener.pull_trigger()

    def finish(self, within_s: float) -> None:
        """Take no more connections, and answer what is in hand or on its way.

        Connections that the system has accepted for this server are answered too, rather than reset.
        """
        for listener in self._listeners:
            while listener.accept_some():
                pass
            wasyncore.dispatcher.close(listener)  # its trigger is needed until the end
        self.stops_at = time.monotonic()
        until = self.stops_at + within_s
        while self.connections and time.monotonic() < until:
            self.turn(0.05)

    def close(self) -> None:
        """End the threads that are idle, and hang up."""
        self.dispatcher.close()
        for one in list(self.map.values()):
            with suppress(OSError):
                one.close()

    def make_room(self) -> bool:
        """Return whether there is a place for one more connection; others give theirs up for it, if need be."""
        if len(self.connections) < self.limits.connections:
            return True
        self.warn("event=connections_full connections=%d", len(self.connections))
        waiting, at_once = self._waiting(), max(1, self.limits.connections // 32)  # looking at all of them takes time
        for connection in heapq.nsmallest(at_once, waiting, key=_since):
            connection.handle_close()
        return bool(waiting)

    def warn(self, message: str, *values: object) -> None:
        """Log a warning, unless one was logged a moment ago: an attack is no reason to fill a disk."""
        now = time.monotonic()
        if now - self._told_at > TOLD_EVERY_S:
            self._told_at = now
            logger.warning(message, *values)

    def _waiting(self) -> list[Connection]:
        """Return the connections that wait for their callers."""
        return [connection for connection in self.connections.values() if not connection.is_in_hand]

    def _look_after(self, now: float) -> None:
        for connection in list(self.connections.values()):
            if now >= connection.ends_at():
                connection.give_up()
        unsent_bytes = sum(one.unsent_bytes for one in self.connections.values())
        if unsent_bytes <= self.bodies.budget_bytes:
            return
        for connection in sorted(self._waiting(), key=_since):
            if connection.unsent_bytes and unsent_bytes > self.bodies.budget_bytes:
                unsent_bytes -= connection.unsent_bytes
                connection.handle_close()


class _Dispatcher:
    """Hands requests to threads.

    Waitress' own has them take turns. This takes one that is idle, and begins another only where none is: each thread
    in which Paddle computes has helpers and memory of its own, and a click in a new one takes twice as long.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")

    def add_task(self, connection: Connection) -> None:
        self._pool.submit(connection.service)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _since(connection: Connection) -> float:
    return connection.since


class _Listener(BaseWSGIServer):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """A socket that listens; what waitress calls a server."""

    channel_class = Connection

    def __init__(self, http: HttpServer, sock: socket.socket) -> None:
        self.http, self._is_tcp = http, sock.family in (socket.AF_INET, socket.AF_INET6)
        super().__init__(
            http.application,
            http.map,
            _sock=sock,
            dispatcher=http.dispatcher,
            adj=http.adjustments,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            bind_socket=False,
        )
        self.active_channels = http.connections
        if isinstance(self.trigger.trigger, int):  # a pipe; elsewhere it is a socket
            os.set_blocking(self.trigger.trigger, False)
        else:
            self.trigger.trigger.setblocking(False)

    def pull_trigger(self) -> None:
        """Wake the loop up, which a full pipe will do as well: a thread that waited for room in it might hold a lock
        that the loop needs.
        """
        with suppress(BlockingIOError):
            super().pull_trigger()

    def getsockname(self) -> tuple[str, str]:
        host, port = self.socket.getsockname()[:2] if self._is_tcp else ("localhost", "")
        return host, str(port)

    def readable(self) -> bool:
        return bool(self.accepting)

    def handle_accept(self) -> None:
        self.accept_some()

    def accept_some(self) -> bool:
        """Accept connections, and return whether there may be more."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted = self.accept()
            except OSError as error:
                self.http.warn("event=connection_not_accepted detail=%r", str(error))
                return False
            if accepted is None:
                return False
            self._welcome(*accepted)
        return True

    def _welcome(self, connection: socket.socket, address: tuple[object, ...]) -> None:
        try:
            connection.setblocking(False)
            if self._is_tcp:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.http.make_room():
                connection.send(FULL)
                connection.close()
                return
        except OSError:  # it is gone already
            connection.close()
            return
        Connection(self, connection, address if self._is_tcp else ("localhost", None), self.adj, self._map)
