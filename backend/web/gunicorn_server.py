"""Runs the web server's processes under gunicorn, as label-studio-ml's own examples do.

The application is built in the worker process, after the fork: Paddle and CUDA do not survive one.
"""

import logging
import os
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from backend import logs
from backend.settings import Settings
from backend.web.http_server import HttpServer
from backend.web.listening import CHECK_EVERY_S, IDLE_S, SPARE_THREADS, STOP_WITHIN_S, Service, http_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class WebWorker(Worker):
    """A gunicorn worker class, also for ``--worker-class``: one process that runs `backend.web.http_server`."""

    http: HttpServer | None = None

    def run(self) -> None:
        """Serve until a stop is requested, then finish the requests in progress."""
        sockets = [getattr(sock, "sock", sock) for sock in self.sockets]
        http = self.http = http_server(self.wsgi, sockets, threads=self.cfg.threads, idle_s=self.cfg.keepalive)
        while self.alive and self.ppid == os.getppid():
            self.notify()
            http.serve_once(CHECK_EVERY_S)
        http.finish(self.cfg.graceful_timeout - 1)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as soon as the requests in progress are answered."""
        super().handle_exit(sig, frame)
        if self.http is not None:
            self.http.wake()


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
            "keepalive": IDLE_S,
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
