"""Leases: a key in Redis that names the holder of a piece of work, renewed while the holder lives, and expiring after.

The holder's token is a fence: everything written under a lease is written by a script that checks that the lease still
has this token. A worker that was paused for a while therefore cannot overwrite the results of its successor.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from backend.cluster.connection import RedisConnection
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

LEASE_S = 5.0
RENEWALS = 4  # of a lease, before it expires
ATTEMPTS_S = 600

_TEXT = """
local function text(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then return redis.call('GET', key) end
  if kind ~= 'none' then redis.call('DEL', key) end
  return false
end
"""
"""Lua function that returns the string at a key; a value of another type is not ours and is deleted."""

# The script limits the time to live of a lease: one from a restored dump, or written by hand, may have no expiry.
_ACQUIRE = _TEXT + """
if text(KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
if text(KEYS[1]) then
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 or left > tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local before = text(KEYS[3])
if before and not string.match(before, '^%d%d?%d?$') then redis.call('DEL', KEYS[3]) before = '0' end
return 1 + tonumber(before or '0')
"""  # fmt: skip
_COUNT = (
    _TEXT
    + """
if text(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""
)
_RENEW = _TEXT + """
local holder = text(KEYS[1])
if holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 + redis.call('DEL', KEYS[2]) end
if not holder and ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end
return 0
"""  # fmt: skip
_URGENT = 2  # answer of that script if another process called `Leases.expedite`
_RELEASE = _TEXT + """
if text(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""  # fmt: skip


@dataclass(eq=False)
class Lease:
    """One lease, held until it is released or expires; a context manager that releases it."""

    owner: "Leases"
    key: str
    token: str  # random text that identifies its holder
    attempt: int  # 1, and how many counted attempts before it had no clean release, see `Leases.count_attempt`
    renewed_at: float  # when it was last renewed, on `time.monotonic`
    resets_attempts: bool = True  # whether its release resets that count
    # called when a click waits for the work of the holder, see `Leases.expedite`
    on_urgent: Callable[[], None] = lambda: None
    # keeps a renewal from writing the lease again while it is being released
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *exception: object) -> None:
        self.owner.release(self)


class Leases:
    """Acquires leases, and renews those it holds on one thread."""

    def __init__(
        self, link: RedisConnection, *, lease_s: float = LEASE_S, renew_every_s: float = LEASE_S / RENEWALS
    ) -> None:
        """Keep leases that expire after ``lease_s`` unless they are renewed; `start` begins the renewals."""
        self._link, self._lease_s, self._renew_every_s = link, lease_s, renew_every_s
        self._leases: dict[str, Lease] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, heartbeat: Callable[[], None] = lambda: None) -> None:
        """Start the thread that renews leases; it also calls ``heartbeat`` at each interval."""
        self._thread = threading.Thread(target=self._work, args=(heartbeat,), name="leases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; leases that are still held will expire."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def acquire(self, key: str, *, marker_key: str = "", job_id: str = "") -> Lease | None:
        """Return the lease, None if another process holds it.

        The script that acquires it also deletes the marker of the job ``job_id`` at ``marker_key``, so that one of them
        always exists and the job never appears to be lost; the marker of another job stays.
        """
        token, now = secrets.token_hex(16), time.monotonic()
        keys = [key, marker_key or unused_key(key), attempts_key(key)]
        longest_ms = int(max(self._lease_s, LEASE_S) * 1000)
        attempt = self._link.run_script(_ACQUIRE, keys, token, int(self._lease_s * 1000), job_id or "none", longest_ms)
        if not isinstance(attempt, int) or attempt < 1:
            return None
        lease = self._leases[key] = Lease(self, key, token, attempt, now)
        return lease

    def count_attempt(self, lease: Lease) -> None:
        """Count this attempt, until the lease is released cleanly: what its holder begins now may end the process."""
        self._link.run_script(_COUNT, [lease.key, attempts_key(lease.key)], lease.token, ATTEMPTS_S)

    def release(self, lease: Lease) -> None:
        """Release a lease, and reset its attempts if ``resets_attempts``; does not raise."""
        keys = [lease.key, attempts_key(lease.key) if lease.resets_attempts else unused_key(lease.key)]
        try:
            with lease.lock:
                if self._leases.get(lease.key) is lease:  # it may have lapsed, and been acquired again in this process
                    del self._leases[lease.key]
                self._link.run_script(_RELEASE, keys, lease.token)
        except RetryLater as error:
            logger.info("event=lease_lapses detail=%r", str(error))

    def expedite(self, key: str) -> None:
        """Have the holder of a lease call its ``on_urgent``: now if it is here, at the next renewal if elsewhere."""
        lease = self._leases.get(key)
        if lease is not None:
            lease.on_urgent()
        else:
            self._link.call(lambda client: client.set(urgent_key(key), "1", px=int(self._lease_s * 1000)))

    def _work(self, heartbeat: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            with suppress(RetryLater):  # the next heartbeat tries again
                heartbeat()
            self._stopped.wait(self._renew_every_s)
            for lease in list(self._leases.values()):
                self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        """Renew a lease; write it again if Redis lost it before it could expire, e.g. in a restart."""
        keys, is_urgent = (lease.key, urgent_key(lease.key)), False
        with lease.lock, suppress(RetryLater):
            if self._leases.get(lease.key) is not lease:
                return
            now = time.monotonic()
            cannot_have_lapsed = now - lease.renewed_at < self._lease_s
            renewed = self._link.run_script(
                _RENEW, keys, lease.token, int(self._lease_s * 1000), int(cannot_have_lapsed)
            )
            if renewed:
                lease.renewed_at, is_urgent = now, renewed == _URGENT
            else:
                del self._leases[lease.key]
                logger.warning("event=lease_lost key=%s", lease.key)
        if is_urgent:
            lease.on_urgent()


def attempts_key(key: str) -> str:
    """Return the key that counts the attempts since a lease was last released cleanly."""
    return f"{key}:attempts"


def unused_key(key: str) -> str:
    """Return a key beside a lease that holds nothing, for a script whose optional key is not needed."""
    return f"{key}:none"


def urgent_key(key: str) -> str:
    """Return the key that asks the holder of a lease to hurry, see `Leases.expedite`."""
    return f"{key}:urgent"
