"""Connects, sends and reads until one deadline, which bounds a whole request and not only each of its steps.

The deadline covers the look-up of the name, the connection, TLS, what is sent and every byte of the answer, so that it
also ends a request to a server that sends a byte a second. A deadline is a point on the monotonic clock, in seconds.
"""

import io
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpcore

from backend.errors import AccessError
from backend.network.name_resolution import Resolver

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_S = 8.0  # longest time for a pooled connection to be made; `DeadlineBackend.abort` cannot end it
SENT_BYTES = 1 << 16
"""How much is sent at a time; httpcore applies a timeout to each part of it that the system accepts."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline; 0 after it."""
    return max(0.0, deadline - time.monotonic())


def addresses(resolver: Resolver, host: str, port: int, deadline: float) -> list[str]:
    """Return the numeric addresses of a host.

    Raises:
        UnicodeError: it is not a valid name.
        httpcore.ConnectError: there is no such host.
        httpcore.ConnectTimeout: the deadline has passed.
    """
    try:
        return resolver.addresses(host, port, _left(deadline, httpcore.ConnectTimeout))
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except OSError as error:
        raise httpcore.ConnectError(f"no address for {host}: {error}") from error


def connect(
    resolver: Resolver, host: str, port: int, deadline: float, check: Callable[[str], None] = lambda address: None
) -> "DeadlineStream":
    """Connect to the first address of a host that answers and that ``check`` does not refuse with an `AccessError`.

    The deadline is that of the connection, and of the stream until it is changed.

    Raises:
        AccessError: none of the addresses is allowed.
        UnicodeError: the host is not a valid name.
        httpcore.ConnectError: there is no such host, or it does not answer.
        httpcore.ConnectTimeout: the deadline has passed.
    """
    candidates = addresses(resolver, host, port, deadline)
    failure: Exception = httpcore.ConnectError(f"no address for {host}")
    for index, address in enumerate(candidates):
        try:
            check(address)
            # A share of the time each, so that an address that does not answer leaves time for the next.
            share_s = _left(deadline, httpcore.ConnectTimeout) / (len(candidates) - index)
            return DeadlineStream(httpcore.SyncBackend().connect_tcp(address, port, share_s), deadline)
        except (AccessError, httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            failure = error
    raise failure


def _left(deadline: float, timeout_error: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise timeout_error("the deadline has passed")
    return left


class DeadlineStream(io.RawIOBase):
    """A connection on which every wait ends at the deadline, however often a byte arrives.

    Its methods raise httpcore's exceptions; ``deadline`` may be moved, for the next request on the same connection.
    """

    def __init__(self, inner: httpcore.NetworkStream, deadline: float) -> None:
        super().__init__()
        self._inner, self.deadline = inner, deadline

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def receive(self, size: int) -> bytes:
        """Wait for data and return it, at most ``size`` bytes; empty at the end."""
        return self._inner.read(size, _left(self.deadline, httpcore.ReadTimeout))

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Wait for data and read it; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.receive(len(view))
        view[: len(data)] = data
        return len(data)

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        for start in range(0, len(data), SENT_BYTES):
            self._inner.write(data[start : start + SENT_BYTES], _left(self.deadline, httpcore.WriteTimeout))

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS on the connection; the certificate must be that of ``host``."""
        self._inner = self._inner.start_tls(context, host, _left(self.deadline, httpcore.ConnectTimeout))

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._inner.close()

    def info(self, name: str) -> Any:  # noqa: ANN401 - httpcore's own type
        """Return httpcore's information about the connection, such as ``socket``."""
        return self._inner.get_extra_info(name)


class DeadlineBackend(httpcore.NetworkBackend):
    """Makes the connections of a httpcore pool, which may be kept for several requests.

    A pool passes the timeouts of a request on unread. Here each is the deadline of the whole request:
    ``extensions={"timeout": dict.fromkeys(("connect", "write", "read"), deadline)}``.
    """

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._streams: weakref.WeakSet[DeadlineStream] = weakref.WeakSet()
        self._lock, self._is_aborted = threading.Lock(), False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect until the deadline ``timeout``; see `connect`."""
        stream = connect(self._resolver, host, port, min(_required(timeout), time.monotonic() + CONNECT_S))
        with self._lock:
            self._streams.add(stream)
            is_aborted = self._is_aborted
        if is_aborted:
            stream.close()
            raise httpcore.ConnectError("the requests of this program are being ended")
        return _PooledStream(stream)

    def abort(self) -> None:
        """End all waits on connections, present and future; the requests fail as if the server had gone."""
        with self._lock:
            self._is_aborted = True
            streams = list(self._streams)
        for stream in streams:
            with suppress(OSError, AttributeError):  # it is closed
                stream.info("socket").shutdown(socket.SHUT_RDWR)


class _PooledStream(httpcore.NetworkStream):
    """A `DeadlineStream` as httpcore calls it: each ``timeout`` is the deadline of the request."""

    def __init__(self, stream: DeadlineStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._stream.deadline = _required(timeout)
        return self._stream.receive(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.deadline = _required(timeout)
        self._stream.send(buffer)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._stream.deadline = _required(timeout)
        self._stream.start_tls(ssl_context, server_hostname or "")
        return self

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's own type
        return self._stream.info(info)


def _required(deadline: float | None) -> float:
    assert deadline is not None  # see `DeadlineBackend`
    return deadline
