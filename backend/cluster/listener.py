"""One thread that listens to a channel in Redis, and looks around at times, since a message may be missed."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.client import PubSub

from backend.cluster.connection import RedisConnection
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

LISTEN_S = 0.5
LOOK_EVERY_S = 2.0
REFRESH_S = 5.0


@dataclass(frozen=True)
class ListenerCallbacks:
    """What a listener does about what it notices; ``heard``, ``look`` and ``refresh`` may raise `RetryLater`.

    Attributes:
        heard: is given each message.
        look: is called every `LOOK_EVERY_S`, and when listening begins anew.
        refresh: is called every `REFRESH_S`.
        lost: is told why nothing can be heard, again and again.
    """

    heard: Callable[[bytes], None]
    look: Callable[[], None]
    refresh: Callable[[], None]
    lost: Callable[[RetryLater], None]


class Listener:
    """Listens until closed, through every outage of Redis."""

    def __init__(
        self, link: RedisConnection, channel: str, ears: ListenerCallbacks, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start nothing yet."""
        self._link, self._channel, self._ears, self._clock = link, channel, ears, clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin; the second call does nothing."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
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
                pubsub = self._link.subscribe(self._channel)
            except RetryLater as error:
                self._ears.lost(error)
                self._stopped.wait(LISTEN_S)
                continue
            try:
                self._listen(pubsub)
            except RetryLater as error:
                self._ears.lost(error)
            except Exception:
                if not self._stopped.is_set():
                    logger.exception("event=listener_defect")
                    self._stopped.wait(LISTEN_S)
            finally:
                pubsub.close()

    def _listen(self, pubsub: PubSub) -> None:
        looked = refreshed = float("-inf")  # what was said while nobody listened is looked for at once
        while not self._stopped.is_set():
            now = self._clock()
            if now - refreshed > REFRESH_S:
                refreshed = now
                self._ears.refresh()
            if now - looked > LOOK_EVERY_S:
                looked = now
                self._ears.look()
            data = self._link.read(pubsub, LISTEN_S)
            if data is not None:
                self._ears.heard(data)
