"""The connection to Redis: opened on the first use, with timeouts and a circuit breaker.

The first caller that cannot reach Redis opens the breaker; until it closes again, all other calls fail at once instead
of waiting for a timeout. Every failure is a `RetryLater` with reason ``store_unavailable``.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from redis import Redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooSlow
from redis.retry import Retry

from backend.errors import Reason, RetryLater
from backend.types import Secret

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bytes, int)

CONNECT_TIMEOUT_S = 1.0
TIMEOUT_S = 4.0  # for one answer
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
REFUSAL_SHOWN_S = 30.0

READ_BYTES = 1 << 20
"""Read size for embeddings, and of the buffer that each connection keeps; a busy machine may delay each read."""

PART_BYTES = 1 << 22
"""Size of the parts in which large values are read; Redis keeps the memory of such an answer for the next one."""


class ValueChangedError(RedisError):
    """A value was replaced, evicted or deleted while it was read."""


class RedisConnection:
    """One Redis, with as many connections as there are concurrent callers; safe from many threads.

    >>> link = RedisConnection(Secret("redis://localhost:6379/0"))
    >>> link.is_down, link.last_error
    (False, '')
    >>> link.close()
    """

    def __init__(self, url: Secret, clock: Callable[[], float] = time.monotonic) -> None:
        """Use the Redis at ``url``; the first call connects. ``clock`` is in s, monotonic."""
        self._url, self._clock = url, clock
        self._client = Redis.from_url(
            url.value,
            retry=Retry(NoBackoff(), 1),  # reopens a connection that the server closed while idle
            health_check_interval=10,
            socket_read_size=READ_BYTES,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
        )
        self._lock = threading.Lock()
        self._pause_s, self._retry_at = FIRST_PAUSE_S, 0.0
        self._outage_text, self._refusal_text = "", ""
        self._down_since: float | None = None
        self._recovered_at = float("-inf")
        self._refused_at = 0.0

    @property
    def last_error(self) -> str:
        """The current outage, or the last refusal within `REFUSAL_SHOWN_S`; empty if there is neither."""
        if self._down_since is not None:
            return self._outage_text
        return self._refusal_text if self._clock() - self._refused_at < REFUSAL_SHOWN_S else ""

    @property
    def is_down(self) -> bool:
        """Whether the last call could not reach Redis."""
        return self._down_since is not None

    @property
    def down_s(self) -> float:
        """Seconds since Redis became unreachable; 0 if it is reachable."""
        since = self._down_since
        return 0.0 if since is None else self._clock() - since

    @property
    def up_s(self) -> float:
        """Seconds since the last outage of Redis ended; infinite if there was none, 0 during one."""
        return 0.0 if self._down_since is not None else self._clock() - self._recovered_at

    def call(self, work: Callable[["Redis"], T]) -> T:
        """Return what ``work`` returns for the client."""
        if self._clock() < self._retry_at:
            raise _unavailable(self._outage_text)
        try:
            result = work(self._client)
        except (NoConnection, TooSlow, OSError) as error:
            raise self._on_failure(error) from error
        except RedisError as error:  # Redis answers with an error: full, read-only, not allowed
            self._on_success()
            raise self._on_refusal(error) from error
        self._on_success()
        return result

    def run_script(self, script: str, keys: Sequence[str], *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - any type
        """Return the answer of a Lua script to ``keys`` and ``arguments``, which it gets as ``KEYS`` and ``ARGV``."""
        return self.call(lambda client: client.eval(script, len(keys), *keys, *arguments))

    def subscribe(self, channel: str) -> PubSub:
        """Return a subscription to a channel, on its own connection."""

        def work(client: "Redis") -> PubSub:
            pubsub: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            try:
                pubsub.subscribe(channel)
            except BaseException:
                pubsub.close()
                raise
            return pubsub

        return self.call(work)

    def read(self, pubsub: PubSub, timeout_s: float) -> bytes | None:
        """Return the bytes of the next message, None if there is none within ``timeout_s``."""
        try:
            # A read without a message does not prove that Redis works, so it does not close the breaker.
            message = pubsub.get_message(timeout=timeout_s)
        except (RedisError, OSError) as error:
            raise self._on_failure(error) from error
        data = message["data"] if message is not None and message["type"] == "message" else None
        return data if isinstance(data, bytes) else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _on_success(self) -> None:
        with self._lock:
            if self._down_since is not None:
                self._recovered_at = self._clock()
                logger.warning("event=redis_back after_s=%.1f", self._recovered_at - self._down_since)
            self._down_since, self._pause_s, self._retry_at = None, FIRST_PAUSE_S, 0.0

    def _on_failure(self, error: Exception) -> RetryLater:
        with self._lock:
            now = self._clock()
            if self._down_since is None:
                self._down_since = now
                logger.warning("event=redis_down detail=%r", self._describe(error))
            self._outage_text = f"Redis cannot be reached: {self._describe(error)}"
            if now >= self._retry_at:
                self._retry_at = now + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return _unavailable(self._outage_text)

    def _on_refusal(self, error: Exception) -> RetryLater:
        text = f"Redis refuses: {self._describe(error)}"
        if not self.last_error:
            logger.warning("event=redis_refuses detail=%r", self._describe(error))
        self._refusal_text, self._refused_at = text, self._clock()
        return _unavailable(text)

    def _describe(self, error: Exception) -> str:
        return str(error).replace(self._url.value, "***")[:200] or type(error).__name__


def answers(client: "Redis", *commands: tuple[str | int, ...]) -> list[Any]:
    """Send commands in one round trip; return their answers, None for each whose key holds a value of another type.

    Raises:
        RedisError: the first other error among the answers.
    """
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    replies = pipeline.execute(raise_on_error=False)
    for index, reply in enumerate(replies):
        if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
            replies[index] = None
        elif isinstance(reply, RedisError):
            raise reply
    return replies


def read_large(client: "Redis", name: str, value_bytes: int) -> memoryview:
    """Return the string of ``value_bytes`` bytes under a key, received into the memory that it is used from, read-only.

    The client library copies an answer three times, and Redis takes new pages from the system for each answer of 8 MiB
    and more; both together take longer than the transfer (``python -m tests.benchmarks sam2``).

    Raises:
        ValueChangedError: the key holds fewer bytes, or another type.
        RedisError, OSError: Redis cannot be reached.
    """
    value = np.empty(value_bytes, np.uint8).data
    pool = client.connection_pool
    connection: Any = pool.get_connection()  # Any: the library leaves these methods untyped
    try:
        for start in range(0, value_bytes, PART_BYTES):
            part = value[start : start + PART_BYTES]
            connection.send_command("GETRANGE", name, start, start + len(part) - 1)
            _receive(connection._sock, part)  # the library has no public name for the socket
    except BaseException:
        connection.disconnect()  # the rest of the answer may still arrive on it
        raise
    finally:
        pool.release(connection)
    return value.toreadonly()


def _receive(peer: socket.socket, part: memoryview) -> None:
    """Receive one answer into ``part``."""
    head = b"$%d\r\n" % len(part)
    received = b""
    while received != head:
        received += _some(peer.recv(len(head) - len(received)))
        if not head.startswith(received):  # this answer may be shorter than the expected head
            raise ValueChangedError(f"expected {len(part)} bytes, got an answer that begins with {received!r}")
    while part:
        part = part[_some(peer.recv_into(part)) :]
    end_bytes = len(b"\r\n")
    while end_bytes:
        end_bytes -= len(_some(peer.recv(end_bytes)))


def _some(received: R) -> R:
    if not received:
        raise NoConnection("Redis closed the connection in the middle of an answer")
    return received


def _unavailable(text: str) -> RetryLater:
    return RetryLater(text, Reason.STORE_UNAVAILABLE)
