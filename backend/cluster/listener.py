"""A thread that listens to a channel in Redis, and polls at intervals because messages may be missed."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing

from redis.client import PubSub

from backend.cluster.connection import RedisConnection
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 0.5
POLL_EVERY_S = 2.0
REFRESH_EVERY_S = 5.0


class Listener:
    """Listens until it is closed, and subscribes again after an outage of Redis."""

    def __init__(
        self,
        link: RedisConnection,
        channel: str,
        on_message: Callable[[bytes], None],
        on_poll: Callable[[], None],
        on_refresh: Callable[[], object],
        on_outage: Callable[[RetryLater], None],
    ) -> None:
        """Listen to ``channel`` on a thread that `start` begins; ``on_outage`` gets the errors and must not raise.

        ``on_poll`` is called every `POLL_EVERY_S` and whenever the subscription is renewed, ``on_refresh`` every
        `REFRESH_EVERY_S`.
        """
        self._link, self._channel, self._on_message = link, channel, on_message
        self._on_poll, self._on_refresh, self._on_outage = on_poll, on_refresh, on_outage
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread; a second call does nothing."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._work, name="events", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(self._link.subscribe(self._channel)) as pubsub:
                    self._listen(pubsub)
            except RetryLater as error:
                self._on_outage(error)
            except Exception:
                logger.exception("event=listener_defect")
            self._stopped.wait(READ_TIMEOUT_S)

    def _listen(self, pubsub: PubSub) -> None:
        polled_at = refreshed_at = float("-inf")  # poll at once, for earlier messages
        while not self._stopped.is_set():
            now = time.monotonic()
            if now - refreshed_at > REFRESH_EVERY_S:
                refreshed_at = now
                self._on_refresh()
            if now - polled_at > POLL_EVERY_S:
                polled_at = now
                self._on_poll()
            data = self._link.read(pubsub, READ_TIMEOUT_S)
            if data is not None:
                self._on_message(data)
