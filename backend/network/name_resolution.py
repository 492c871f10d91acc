"""Resolves host names with a timeout, which the system's own call does not have."""

import concurrent.futures
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

Resolve: TypeAlias = Callable[[str, int], list[str]]

LOOKUPS_AT_ONCE = 16  # largest number of look-ups at once; one that hangs keeps its thread until the system gives up


def resolve(host: str, port: int) -> list[str]:
    """Return the numeric addresses of ``host`` (`OSError` if there is none), in the system's order of preference."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class Resolver:
    """Resolves names on separate threads, so that callers can stop waiting; safe from many threads.

    >>> Resolver().addresses("127.0.0.1", 80, within_s=1)
    ['127.0.0.1']
    """

    def __init__(self, resolve: Resolve = resolve, at_once: int = LOOKUPS_AT_ONCE) -> None:
        """Use ``resolve``, which returns the numeric addresses of a host and port, for ``at_once`` names at once."""
        self._resolve = resolve
        self._free = threading.BoundedSemaphore(at_once)

    def addresses(self, host: str, port: int, within_s: float) -> list[str]:
        """Return the numeric addresses of ``host``, in the system's order of preference.

        Raises:
            TimeoutError: it takes longer than ``within_s`` seconds.
            OSError: there is no such host.
            UnicodeError: it is not a valid name.
        """
        if _is_numeric(host):
            return self._resolve(host, port)
        result: Future[list[str]] = Future()
        if not self._free.acquire(timeout=max(0.0, within_s)):
            raise TimeoutError(f"{host} cannot be looked up: too many look-ups of names hang")
        try:
            threading.Thread(target=self._look_up, args=(host, port, result), name="resolve", daemon=True).start()
        except RuntimeError:  # no thread can be started
            self._free.release()
            raise
        try:
            return result.result(max(0.0, within_s))
        except concurrent.futures.TimeoutError:
            if result.done():
                return result.result()
            raise TimeoutError(f"looking up {host} takes too long") from None

    def _look_up(self, host: str, port: int, result: "Future[list[str]]") -> None:
        try:
            addresses = self._resolve(host, port)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            result.set_exception(error)
        else:
            result.set_result(addresses)
        finally:
            self._free.release()


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
