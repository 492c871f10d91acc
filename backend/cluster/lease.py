"""Who is at work on what: a key in Redis that lapses by itself when its holder dies, and is renewed while it lives.

The holder's token is the fence: what it writes under a lease is written by a script that looks whether the lease is
still its own, so a worker that was stopped for a while cannot overwrite what its successor found out.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from backend.cluster.connection import RedisConnection
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

LEASE_S = 5.0
RENEW_EVERY_S = 1.25
ATTEMPTS_S = 600

_TEXT = """
local function text(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then return redis.call('GET', key) end
  if kind ~= 'none' then redis.call('DEL', key) end
  return false
end
"""
"""What a key holds; a value of another type than ours there is nobody's, and makes room."""

# A lease lasts no longer than we let it: one from a restored dump, or that somebody wrote by hand, may have no end.
_ACQUIRE = (
    _TEXT
    + """
if text(KEYS[2]) == ARGV[4] then redis.call('DEL', KEYS[2]) end
if text(KEYS[1]) then
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 or left > tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local before = text(KEYS[3])
if before and not string.match(before, '^%d%d?%d?$') then redis.call('DEL', KEYS[3]) end
local attempts = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return attempts
"""
)
_RENEW = (
    _TEXT
    + """
local holder = text(KEYS[1])
if holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
if not holder and ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end
return 0
"""
)
_RELEASE = (
    _TEXT
    + """
if text(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
)


class Lease:
    """One lease, held until it is released or lapses; a context manager that releases it.

    Attributes:
        key: its name in Redis.
        token: what tells its holder.
        attempt: the how-manieth in a row this is without one having ended in order.
        ends_in_order: whether its end lets the next attempt be the first again; it does unless told otherwise.
    """

    def __init__(self, leases: "Leases", key: str, token: str, attempt: int, renewed_at: float) -> None:
        self.key, self.token, self.attempt = key, token, attempt
        self.renewed_at, self.ends_in_order = renewed_at, True
        self._leases = leases

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.release(self)


class Leases:
    """Takes leases and keeps those it holds from lapsing, on one thread for all of them."""

    def __init__(
        self,
        link: RedisConnection,
        attempts_key: Callable[[str], str],
        *,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet.

        Args:
            link: to Redis.
            attempts_key: where the attempts at a lease are counted.
            lease_s: after which a lease lapses that is not renewed.
            renew_every_s: how often leases are renewed.
            on_beat: is called each time, with or without leases.
        """
        self._link, self._attempts_key, self._on_beat = link, attempts_key, on_beat
        self._lease_s, self._renew_every_s = lease_s, renew_every_s
        self._held: dict[str, Lease] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin renewing."""
        self._thread = threading.Thread(target=self._work, name="leases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; leases that are still held lapse."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def acquire(self, key: str, *, asked_key: str = "", job_id: str = "") -> Lease | None:
        """Return the lease, None if somebody else has it.

        Args:
            key: its name.
            asked_key: where the job that this is for was announced; the announcement goes as the lease comes, so that
                there is no moment at which the work seems lost.
            job_id: that job; an announcement of another one stays.

        Raises:
            RetryLater: Redis does not answer.
        """
        token, now = secrets.token_hex(16), time.monotonic()
        keys = [key, asked_key or f"{key}:none", self._attempts_key(key)]
        lasts_ms, longest_ms = int(self._lease_s * 1000), int(max(self._lease_s, LEASE_S) * 1000)
        arguments = [token, str(lasts_ms), str(ATTEMPTS_S), job_id or "none", str(longest_ms)]
        attempt = self._link.call(lambda client: client.eval(_ACQUIRE, len(keys), *keys, *arguments))
        if not isinstance(attempt, int) or attempt < 1:
            return None
        lease = self._held[key] = Lease(self, key, token, attempt, now)
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back, and forget the attempts at it; does not raise."""
        self._held.pop(lease.key, None)
        keys = [lease.key, self._attempts_key(lease.key) if lease.ends_in_order else f"{lease.key}:none"]
        try:
            self._link.call(lambda client: client.eval(_RELEASE, len(keys), *keys, lease.token))
        except RetryLater as error:
            logger.info("event=lease_lapses detail=%r", str(error))

    def _work(self) -> None:
        while not self._stopped.is_set():
            with suppress(RetryLater):  # the next beat tells
                self._on_beat()
            self._stopped.wait(self._renew_every_s)
            for lease in list(self._held.values()):
                self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        """Renew a lease; one that Redis has lost before its time, in a restart, is written anew."""
        now = time.monotonic()
        cannot_have_lapsed = now - lease.renewed_at < self._lease_s
        arguments = [lease.token, str(int(self._lease_s * 1000)), "1" if cannot_have_lapsed else "0"]
        try:
            renewed = self._link.call(lambda client: client.eval(_RENEW, 1, lease.key, *arguments))
        except RetryLater:
            return
        if renewed == 1:
            lease.renewed_at = now
        elif self._held.pop(lease.key, None) is not None:
            logger.warning("event=lease_lost key=%s", lease.key)
