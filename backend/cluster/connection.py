"""The connection to Redis: made late, bounded in time, and left alone for a moment after it failed.

Nobody waits for a Redis that is not there: the first caller to notice opens a breaker, and until it closes again every
other caller is told at once. Whatever goes wrong is a `RetryLater` with reason ``store_unavailable``.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline, PubSub
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooSlow
from redis.retry import Retry

from backend.errors import Reason, RetryLater
from backend.types import Secret

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 1.0
TIMEOUT_S = 4.0  # for one answer
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
REFUSAL_SHOWN_S = 30.0

READ_BYTES = 4 << 20
"""An embedding in one piece: redis-py's 32 KiB make 64 pieces of it, and a busy machine may pause before each."""


class RedisConnection:
    """One Redis, with as many connections as there are callers at a time; safe from many threads."""

    def __init__(self, url: Secret, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to nothing yet.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``; may hold a password.
            clock: seconds, monotonic.
        """
        self._url, self._clock = url, clock
        self._client = self.connect()
        self._lock = threading.Lock()
        self._pause_s, self._closed_until = FIRST_PAUSE_S, 0.0
        self._outage, self._refusal = "", ""
        self._down_since: float | None = None
        self._back_at = float("-inf")
        self._refused_at = 0.0

    @property
    def trouble(self) -> str:
        """What is wrong with Redis, or was a moment ago; empty when nothing is."""
        if self._down_since is not None:
            return self._outage
        return self._refusal if self._clock() - self._refused_at < REFUSAL_SHOWN_S else ""

    @property
    def is_down(self) -> bool:
        """Whether Redis could not be reached when it was last asked."""
        return self._down_since is not None

    @property
    def down_s(self) -> float:
        """For how long Redis could not be reached."""
        since = self._down_since
        return 0.0 if since is None else self._clock() - since

    @property
    def up_s(self) -> float:
        """For how long Redis has answered since it was away last."""
        return 0.0 if self._down_since is not None else self._clock() - self._back_at

    def connect(self) -> "Redis":
        """Return another client, with connections of its own, for a library that wants to set them up its way."""
        return Redis.from_url(
            self._url.value,
            retry=Retry(NoBackoff(), 1),  # a connection that the server closed while idle is opened anew
            health_check_interval=10,
            socket_read_size=READ_BYTES,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
        )

    def call(self, work: Callable[["Redis"], T]) -> T:
        """Return what ``work`` returns.

        Raises:
            RetryLater: Redis cannot be reached or refuses (``store_unavailable``).
        """
        if self._clock() < self._closed_until:
            raise _unavailable(self._outage)
        try:
            found = work(self._client)
        except (NoConnection, TooSlow, OSError) as error:
            raise self._failed(error) from error
        except RedisError as error:  # it is there, and says no: full, read-only, not allowed
            self._worked()
            raise self._refused(error) from error
        self._worked()
        return found

    def subscribe(self, channel: str) -> PubSub:
        """Return a subscription to a channel, on a connection of its own.

        Raises:
            RetryLater: see `call`.
        """

        def work(client: "Redis") -> PubSub:
            pubsub: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            try:
                pubsub.subscribe(channel)
            except BaseException:
                pubsub.close()
                raise
            return pubsub

        return self.call(work)

    def read(self, pubsub: PubSub, timeout_s: float) -> bytes | None:
        """Return the next message's bytes, None if none comes in time.

        Raises:
            RetryLater: see `call`.
        """
        try:
            message = pubsub.get_message(timeout=timeout_s)  # silence proves nothing, so it closes no breaker
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        data = message["data"] if message is not None and message["type"] == "message" else None
        return data if isinstance(data, bytes) else None

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _worked(self) -> None:
        if self._down_since is None:
            return
        with self._lock:
            if self._down_since is not None:
                self._back_at = self._clock()
                logger.warning("event=redis_back after_s=%.1f", self._back_at - self._down_since)
            self._down_since, self._pause_s, self._closed_until = None, FIRST_PAUSE_S, 0.0

    def _failed(self, error: Exception) -> RetryLater:
        with self._lock:
            now = self._clock()
            if self._down_since is None:
                self._down_since = now
                logger.warning("event=redis_down detail=%r", self._said(error))
            self._outage = f"Redis cannot be reached: {self._said(error)}"
            if now >= self._closed_until:
                self._closed_until = now + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return _unavailable(self._outage)

    def _refused(self, error: Exception) -> RetryLater:
        text = f"Redis refuses: {self._said(error)}"
        if not self.trouble:
            logger.warning("event=redis_refuses detail=%r", self._said(error))
        self._refusal, self._refused_at = text, self._clock()
        return _unavailable(text)

    def _said(self, error: Exception) -> str:
        return str(error).replace(self._url.value, "***")[:200] or type(error).__name__


def has_wrong_type(answer: object) -> bool:
    """Whether Redis answers that a key holds a value of another type than ours there: not ours, as good as none."""
    return isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE")


def answers(pipeline: "Pipeline") -> list[Any]:
    """Return what the commands of a pipeline answer; None of each whose key holds a value of another type.

    Raises:
        RedisError: the first other error among the answers.
    """
    found = [None if has_wrong_type(one) else one for one in pipeline.execute(raise_on_error=False)]
    for one in found:
        if isinstance(one, RedisError):
            raise one
    return found


def _unavailable(text: str) -> RetryLater:
    return RetryLater(text, Reason.STORE_UNAVAILABLE)
