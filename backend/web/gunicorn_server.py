"""Runs the web server's processes under gunicorn, as label-studio-ml's own examples do.

The application is built in the worker process, after the fork: Paddle and CUDA do not survive one.
"""

import errno
import logging
import os
import resource
import socket
import tempfile
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from backend import logs
from backend.settings import Settings
from backend.web.app import BODIES, GATE
from backend.web.bodies import Bodies
from backend.web.http_connection import ConnectionLimits
from backend.web.http_server import HttpServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

STOP_WITHIN_S = 30
CHECK_EVERY_S = 1.0
DEFAULT_MAX_BODY_BYTES = 200_000_000
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)
SPARE_THREADS = 8  # threads that answer further clicks empty at once while clicks wait in all of ``settings.threads``
SPARE_CONNECTIONS = 512
"""How many connections may be silent, slow or idle beside those whose requests are being answered."""

SPARE_FILES = 128  # how many of a process' file descriptors are reserved for other uses than callers' connections


class PortTakenError(OSError):
    """Another program already listens on the address."""


class HostError(OSError):
    """``HOST`` is not an address of this machine."""


class WebWorker(Worker):
    """A gunicorn worker class, also for ``--worker-class``: one process that runs `backend.web.http_server`."""

    http: HttpServer | None = None

    def run(self) -> None:
        """Serve until a stop is requested, then finish the requests in progress."""
        threads = self.cfg.threads
        limits = ConnectionLimits(idle_s=self.cfg.keepalive, connections=_most_connections(threads))
        sockets = [getattr(sock, "sock", sock) for sock in self.sockets]
        config = getattr(self.wsgi, "config", {})  # of a Flask application
        bodies = config.get(BODIES) or Bodies(config.get("MAX_CONTENT_LENGTH") or DEFAULT_MAX_BODY_BYTES)
        http = HttpServer(self.wsgi, sockets, bodies, threads=threads, limits=limits, gate=config.get(GATE))
        self.http = http
        while self.alive and self.ppid == os.getppid():
            self.notify()
            http.serve_once(CHECK_EVERY_S)
        http.finish(self.cfg.graceful_timeout - 1)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as soon as the requests in progress are answered."""
        super().handle_exit(sig, frame)
        if self.http is not None:
            self.http.wake()


class Service(Protocol):
    """The application and its threads; see `backend.composition.web.Service`."""

    @property
    def app(self) -> Flask:
        """The WSGI application."""

    def start(self) -> None:
        """Start loading the model."""

    def close(self) -> None:
        """Stop the threads."""


class Server(BaseApplication):
    """One listening address and ``settings.workers`` processes, each for ``settings.threads`` predictions at a time."""

    def __init__(self, settings: Settings, build: Callable[[], Service]) -> None:
        """``build`` is called in each worker process, after the fork."""
        self._settings, self._build = settings, build
        self._service: Service | None = None
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options from the settings."""
        options: dict[str, Any] = {  # Any: gunicorn's options are of many types
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": WebWorker,
            "threads": self._settings.threads + SPARE_THREADS,
            "timeout": 0,  # a worker whose threads encode is not stuck
            "graceful_timeout": STOP_WITHIN_S,
            "keepalive": 30,
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_worker_init": self._start,
            "worker_exit": self._close,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> "WSGIApplication":  # type: ignore[override]  # gunicorn also takes ASGI, which this is not
        """Build the application, in the worker."""
        logs.configure(self._settings.log_level)
        self._service = self._build()
        return self._service.app

    def _start(self, _: Worker) -> None:
        if self._service is not None:
            self._service.start()

    def _close(self, _: Arbiter, worker: Worker) -> None:
        if self._service is None:
            return
        try:
            self._service.close()
        finally:  # also on a second signal, which raises
            if worker.booted:  # otherwise the exit code must reach gunicorn, which then does not start another worker
                logging.shutdown()
                os._exit(0)  # a load that is still running in Paddle, or its threads, would abort a closing interpreter


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


def _most_connections(threads: int) -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = threads + SPARE_CONNECTIONS
    return most if files == resource.RLIM_INFINITY else max(1, min(most, files - SPARE_FILES))
