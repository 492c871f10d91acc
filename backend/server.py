"""The web server: gunicorn with threads, as label-studio-ml's own examples run it, started from Python.

The application is built in the worker process, after the fork: Paddle and CUDA do not survive one.
"""

import logging
import os
import socket
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from backend import bootstrap, logs
from backend.settings import Settings
from model.weights import Checkpoint

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

STOP_WITHIN_S = 30
SPARE_THREADS = 8
"""For what never waits: /health and its like, while clicks wait in all of ``settings.threads``."""


class PortTakenError(OSError):
    """Another program listens on the address already."""


class WebWorker(ThreadWorker):
    """gunicorn's worker with threads, which ends at once on Ctrl-C also where that comes at a bad moment."""

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End the process without waiting for requests.

        The handler that this replaces shuts the pool of threads down, and waits for ever where the signal interrupts
        the pool in the middle of taking up a request. There is no need to: the process ends without its threads.
        """
        Worker.handle_quit(self, sig, frame)


class Server(BaseApplication):
    """One listening address and ``settings.workers`` processes, each for ``settings.threads`` predictions at a time."""

    def __init__(self, settings: Settings, checkpoint: Checkpoint) -> None:
        self._settings, self._checkpoint = settings, checkpoint
        self._service: bootstrap.Service | None = None
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what the settings say."""
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
        self._service = bootstrap.build(self._settings, self._checkpoint)
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
            if worker.booted:  # otherwise gunicorn is to learn from the exit code that it need not try again
                logging.shutdown()
                os._exit(0)  # what Paddle is still loading, or its threads, would abort a closing interpreter


def check_port(host: str, port: int) -> None:
    """Refuse an address on which nothing can listen, before anything is loaded.

    Raises:
        PortTakenError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"cannot listen on {host}:{port}: {error.strerror}; stop the program that does, "
                "or choose another with PORT"
            ) from error
