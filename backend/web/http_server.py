"""An HTTP server whose threads see complete requests only: waitress, with timeouts and a limit on connections.

One thread receives and sends for all connections, so a slow or silent one occupies only its connection. Every stage of
a request has a timeout that arriving bytes do not extend. If the maximum number of connections is reached, those that
have waited longest are closed for new ones. The server runs in the process that creates it, on any system;
`backend.web.gunicorn_server` starts it in several processes.
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
from operator import attrgetter
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer

from backend.web.access import Gate
from backend.web.bodies import Bodies
from backend.web.http_connection import Connection, ConnectionLimits, ServerState

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65_536
RECEIVE_BYTES = 65_536
BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
CHECK_EVERY_S = 0.25
WARN_EVERY_S = 60.0
GO_ON_S = 0.02
"""How long the loop works on requests that came together with earlier ones before it looks at other connections."""
QUICK_THREADS = 2
"""Threads for requests that do not wait: many that compute would keep the receiving loop from its turn in Python."""

FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


_since = attrgetter("since")


class HttpServer:
    """Answers requests on listening sockets; one thread calls `serve_once` in a loop."""

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        sockets: Sequence[socket.socket],
        bodies: Bodies,
        *,
        threads: int,
        limits: ConnectionLimits | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Start listening on bound ``sockets``, and start the threads for ``threads`` requests that may wait.

        ``gate`` decides about requests before they take a thread; None admits all, each of which may wait.
        """
        self.application, self.limits = application, limits or ConnectionLimits()
        self.state = ServerState(bodies, self.limits, gate)
        self.map: dict[int, Any] = {}  # Any: the objects of waitress' loop have no common type
        self.connections: dict[int, Connection] = {}
        self.dispatcher = _Dispatcher(threads, gate)
        self._checked_at = self._warned_at = float("-inf")
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
        self._listeners = [_Listener(self, sock) for sock in sockets]
        self._poll = wasyncore.poll2 if hasattr(select, "poll") else wasyncore.poll

    def serve_once(self, timeout_s: float) -> None:
        """Receive and send what is ready, waiting for it at most ``timeout_s``."""
        self._poll(min(timeout_s, CHECK_EVERY_S if self.connections else timeout_s), self.map)
        self._go_on()
        now = time.monotonic()
        if now - self._checked_at > CHECK_EVERY_S:
            self._checked_at = now
            self._close_overdue(now)

    def wake(self) -> None:
        """End a `serve_once` that is waiting; from any thread or signal handler."""
        for listener in self._listeners:
            listener.pull_trigger()

    def finish(self, within_s: float) -> None:
        """Stop listening, and answer the requests that are in progress or being received, at most ``within_s``.

        Connections that the system has already accepted for this server are answered too, rather than reset.
        """
        for listener in self._listeners:
            while listener.accept_some():
                pass
            wasyncore.dispatcher.close(listener)  # its trigger is needed until the end
        self.state.stops_at = time.monotonic()
        until = self.state.stops_at + within_s
        while self.connections and time.monotonic() < until:
            self.serve_once(0.05)

    def close(self) -> None:
        """Stop the idle threads, and close all connections."""
        self.dispatcher.close()
        for dispatcher in list(self.map.values()):
            with suppress(OSError):
                dispatcher.close()

    def free_connection(self) -> bool:
        """Return whether one more connection can be accepted, after closing the longest waiting ones if necessary."""
        if len(self.connections) < self.limits.connections:
            return True
        self.warn("event=connections_full connections=%d", len(self.connections))
        waiting, at_once = self._waiting(), max(1, self.limits.connections // 32)  # several, as finding them takes time
        for connection in heapq.nsmallest(at_once, waiting, key=_since):
            connection.handle_close()
        return bool(waiting)

    def warn(self, message: str, *values: object) -> None:
        """Log a warning, unless one was logged less than `WARN_EVERY_S` ago: an attack must not fill the disk."""
        now = time.monotonic()
        if now - self._warned_at > WARN_EVERY_S:
            self._warned_at = now
            logger.warning(message, *values)

    def _go_on(self) -> None:
        """Take in requests that came together with earlier ones, those first that have waited longest."""
        until = time.monotonic() + GO_ON_S
        for connection in sorted((each for each in self.connections.values() if each.has_next), key=_since):
            connection.go_on()
            if time.monotonic() > until:
                self.wake()
                return

    def _waiting(self) -> list[Connection]:
        return [connection for connection in self.connections.values() if not connection.is_answering]

    def _close_overdue(self, now: float) -> None:
        for connection in list(self.connections.values()):
            if now >= connection.deadline():
                connection.time_out()
        unsent_bytes = sum(connection.unsent_bytes for connection in self.connections.values())
        if unsent_bytes <= self.limits.unsent_bytes:
            return
        for connection in sorted(self._waiting(), key=_since):
            if connection.unsent_bytes and unsent_bytes > self.limits.unsent_bytes:
                unsent_bytes -= connection.unsent_bytes
                connection.handle_close()


class _Dispatcher:
    """Runs requests in threads; those that never wait have a few of their own, so that no waiting one delays them.

    Waitress' own dispatcher uses all threads in rotation. This one uses an idle thread and starts another only if none
    is idle: Paddle has helper threads and memory for each thread that computes, and a click in a new one takes twice as
    long.
    """

    def __init__(self, threads: int, gate: Gate | None) -> None:
        self._gate = gate
        self._waiting = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._quick = ThreadPoolExecutor(QUICK_THREADS, thread_name_prefix="quick")

    def add_task(self, connection: Connection) -> None:
        if not connection.needs_no_thread():
            may_wait = self._gate is None or self._gate.may_wait(connection.requests[0].path)
            (self._waiting if may_wait else self._quick).submit(connection.service)

    def close(self) -> None:
        for pool in (self._waiting, self._quick):
            pool.shutdown(wait=False, cancel_futures=True)


class _Listener(BaseWSGIServer):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """A listening socket, which waitress calls a server."""

    channel_class = Connection

    def __init__(self, http: HttpServer, sock: socket.socket) -> None:
        self.http, self.state, self._is_tcp = http, http.state, sock.family in (socket.AF_INET, socket.AF_INET6)
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
            self._open_connection(*accepted)
        return True

    def _open_connection(self, connection: socket.socket, address: tuple[object, ...]) -> None:
        try:
            connection.setblocking(False)
            if self._is_tcp:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.http.free_connection():
                connection.send(FULL)
                connection.close()
                return
        except OSError:  # the caller has already disconnected
            connection.close()
            return
        Connection(self, connection, address if self._is_tcp else ("localhost", None), self.adj, self._map)
