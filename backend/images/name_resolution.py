"""Names to numeric addresses, within a time; the system's own call takes none."""

import concurrent.futures
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

Resolve: TypeAlias = Callable[[str, int], list[str]]

LOOKUPS_AT_ONCE = 16
"""A look-up that hangs keeps its thread until the system gives it up; there are never more of them than these."""


def resolve(host: str, port: int) -> list[str]:
    """Return the numeric addresses of ``host``, in the system's order of preference.

    Raises:
        OSError: there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names on threads of its own, so that the caller can leave in time; safe from many threads."""

    def __init__(self, resolve: Resolve = resolve, at_once: int = LOOKUPS_AT_ONCE) -> None:
        """Take the function that resolves, and how many look-ups may be under way."""
        self._resolve = resolve
        self._free = threading.BoundedSemaphore(at_once)

    def addresses(self, host: str, port: int, within_s: float) -> list[str]:
        """Return the numeric addresses of ``host``, in the system's order of preference.

        Raises:
            TimeoutError: it takes longer.
            OSError: there is no such host.
            UnicodeError: it is no name.
        """
        if _is_numeric(host):
            return self._resolve(host, port)
        found: Future[list[str]] = Future()
        if not self._free.acquire(timeout=max(0.0, within_s)):
            raise TimeoutError(f"{host} cannot be looked up: too many look-ups of names hang")
        try:
            threading.Thread(target=self._look_up, args=(host, port, found), name="resolve", daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._free.release()
            raise
        try:
            return found.result(max(0.0, within_s))
        except concurrent.futures.TimeoutError:
            if found.done():
                return found.result()
            raise TimeoutError(f"looking up {host} takes too long") from None

    def _look_up(self, host: str, port: int, found: "Future[list[str]]") -> None:
        try:
            addresses = self._resolve(host, port)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            found.set_exception(error)
        else:
            found.set_result(addresses)
        finally:
            self._free.release()


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
