"""Large values of Redis, received into the memory that they are used from.

The client library copies an answer three times, and Redis takes new pages from the system for each answer of 8 MiB and
more; both together take longer than the transfer (``python -m tests.benchmarks sam2``).
"""

import socket
from typing import Any, TypeVar

import numpy as np
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

PART_BYTES = 1 << 22
"""Redis keeps the memory of an answer of this size for the next one."""

T = TypeVar("T", bytes, int)


class ValueChangedError(RedisError):
    """A value was replaced, evicted or deleted while it was read."""


def read(client: "Redis", name: str, value_bytes: int) -> memoryview:
    """Return the string of ``value_bytes`` bytes under a key, read-only.

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


def _some(received: T) -> T:
    if not received:
        raise NoConnection("Redis closed the connection in the middle of an answer")
    return received
