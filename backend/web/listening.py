"""Shared by all ways to serve: the service, its port, which is checked before anything is loaded, and its limits."""

import errno
import select
import socket
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flask import Flask

from backend.metrics import Metrics
from backend.segmentation.service import Segmenter
from backend.types import WebhookEvent
from backend.web.app import BODIES, GATE
from backend.web.bodies import Bodies
from backend.web.http_connection import ConnectionLimits
from backend.web.http_server import HttpServer

STOP_WITHIN_S = 30
CHECK_EVERY_S = 1.0
IDLE_S = 30
DEFAULT_MAX_BODY_BYTES = 200_000_000
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)
SPARE_THREADS = 8  # threads that answer further clicks empty at once while clicks wait in all of ``settings.threads``
SPARE_CONNECTIONS = 512
"""How many connections may be silent, slow or idle beside those whose requests are being answered."""

SPARE_FILES = 128  # how many of a process' file descriptors are reserved for other uses than callers' connections
MOST_SELECTED = 512
"""How many sockets one process can watch on Windows, which has no ``poll``."""


class PortTakenError(OSError):
    """Another program already listens on the address."""


class HostError(OSError):
    """``HOST`` is not an address of this machine."""


@dataclass(frozen=True)
class Service:
    """The application of one web process and its threads, see `backend.composition.web.build`."""

    app: Flask
    segmenter: Segmenter  # answers requests, for callers without HTTP
    metrics: Metrics
    start: Callable[[], None]  # starts loading the model in the background; after a fork, not before
    close: Callable[[], None]  # stops the threads, after finishing the work in progress
    on_event: Callable[[WebhookEvent], None] = lambda event: None  # starts the training that a webhook asks for


def http_server(
    application: Callable[..., Iterable[bytes]],
    sockets: Sequence[socket.socket],
    *,
    threads: int,
    idle_s: float = IDLE_S,
) -> HttpServer:
    """Return a server of an application on bound sockets, with the application's own limits if it is ours."""
    config = getattr(application, "config", {})  # of a Flask application
    bodies = config.get(BODIES) or Bodies(config.get("MAX_CONTENT_LENGTH") or DEFAULT_MAX_BODY_BYTES)
    limits = ConnectionLimits(idle_s=idle_s, connections=most_connections(threads))
    return HttpServer(application, sockets, bodies, threads=threads, limits=limits, gate=config.get(GATE))


def check_temporary_folder() -> None:
    """Raise `OSError` if no temporary file can be made, which the server needs for its processes."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OSError("no temporary files can be written: mount a folder for them at /tmp, or set TMPDIR") from error


def check_port(host: str, port: int) -> None:
    """Check that the server can listen on an address, before anything is loaded.

    Raises:
        PortTakenError: another program listens there, or the port is reserved.
        HostError: the address is not this machine's, or not a valid address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded for a look-up
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if isinstance(error, socket.gaierror | ValueError) or error.errno in _NOT_OURS:
                raise HostError(
                    f"HOST={host}: cannot listen on {host}:{port}: {reason}; set HOST to 0.0.0.0 for all addresses of "
                    "this machine (conda and some shells set HOST to something else), or give --host 0.0.0.0"
                ) from error
            is_reserved = error.errno == errno.EACCES
            remedy = "choose one above 1023" if is_reserved else "stop the program that does, or choose another"
            raise PortTakenError(f"cannot listen on {host}:{port}: {reason}; {remedy} with PORT") from error


def most_connections(threads: int) -> int:
    """Return the maximum number of connections, limited by the file descriptors that the process may open or watch."""
    most = threads + SPARE_CONNECTIONS
    if not hasattr(select, "poll"):
        most = min(most, MOST_SELECTED - SPARE_FILES)
    try:
        import resource
    except ImportError:  # Windows
        return most
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files == resource.RLIM_INFINITY else max(1, min(most, files - SPARE_FILES))
