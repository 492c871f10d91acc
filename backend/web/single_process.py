"""Serves in this process alone: where gunicorn is missing, as on Windows, and on macOS, where a fork is not safe.

Nothing starts the process again if it ends by a defect; the system's own supervisor can.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable

from backend import logs
from backend.settings import Settings
from backend.web.http_server import HttpServer
from backend.web.listening import CHECK_EVERY_S, SPARE_THREADS, STOP_WITHIN_S, Service, http_server

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server:
    """One listening address and this process, for ``settings.threads`` predictions at a time."""

    def __init__(self, settings: Settings, build: Callable[[], Service]) -> None:
        """``build`` is called by `run`.

        Raises:
            ValueError: ``settings`` ask for several processes.
        """
        if settings.workers > 1:
            raise ValueError(
                f"WORKERS: expected 1, got {settings.workers}; several processes need gunicorn, which serves on Linux "
                "only. Start further services on other ports"
            )
        self._settings, self._build = settings, build
        self._http: HttpServer | None = None
        self._is_told_to_stop = False

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, finish the requests in progress, and end the process."""
        for number in SIGNALS:
            signal.signal(number, self._stop)
        logs.configure(self._settings.log_level)
        service = self._build()
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        with socket.create_server((self._settings.host, self._settings.port), family=family) as listening:
            listening.setblocking(False)
            http = http_server(service.app, [listening], threads=self._settings.threads + SPARE_THREADS)
            self._http = http
            service.start()
            while not self._is_told_to_stop:
                http.serve_once(CHECK_EVERY_S)
            http.finish(STOP_WITHIN_S - 1)
        service.close()
        logging.shutdown()
        os._exit(0)  # a load that is still running in Paddle, or its threads, would abort a closing interpreter

    def _stop(self, number: int, frame: object) -> None:
        self._is_told_to_stop = True
        if self._http is not None:
            self._http.wake()
