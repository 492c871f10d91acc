"""The state of the cluster: which workers are alive, how full the queues are, and what was done."""

import time
from contextlib import suppress
from dataclasses import dataclass

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.cluster.queues import JobQueues, QueueState
from backend.errors import Reason, RetryLater

ALIVE_S = 10  # a worker without a heartbeat for this long is dead or stopped
LOADING_S = 30
"""Seconds that a worker may load its model without a heartbeat; loading a library from a slow disk can block Python."""

RECOVERY_S = 7.0
"""Seconds after an outage of Redis, which may have lost their heartbeats, until all workers have sent one again."""

_OURS = """
local kind = redis.call('TYPE', KEYS[1]).ok
local now = tonumber(redis.call('TIME')[1])
"""
_HEARTBEAT = _OURS + """
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600)
redis.call('EXPIRE', KEYS[1], 3600)
"""  # fmt: skip
_ALIVE = _OURS + """
if kind ~= 'zset' then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], now - tonumber(ARGV[1]), now + tonumber(ARGV[2]))
"""  # fmt: skip


@dataclass(frozen=True)
class ClusterState:
    """A snapshot of the cluster."""

    is_known: bool = False
    worker_names: tuple[str, ...] = ()  # ``host:pid`` of each worker that is alive
    # names of the live workers that encode with other weights; a name ends with the model
    other_models: tuple[str, ...] = ()
    queues: tuple[QueueState, ...] = ()  # the most urgent first
    encodes: int = 0  # number of encodes of all workers since Redis was last empty
    fetches: int = 0  # number of images that they fetched
    failures: int = 0  # number of images that they could not encode
    round_trip_s: float = 0.0  # time of one request to Redis

    @property
    def workers(self) -> int:
        """Number of live workers of this model."""
        return len(self.worker_names)


class ClusterMonitor:
    """Reads the state of the cluster, and writes the heartbeats and counts of a worker."""

    def __init__(self, link: RedisConnection, keys: Keys, queues: JobQueues) -> None:
        """Use the names ``keys`` in the Redis at ``link``; ``state`` is unknown until the first `look`."""
        self._link, self._keys, self._queues = link, keys, queues
        self.state = ClusterState()

    def look(self) -> ClusterState:
        """Return the current state of the cluster, and keep it as ``state``."""
        start = time.perf_counter()
        self._link.call(lambda client: client.ping())
        took_s = time.perf_counter() - start
        alive = self.alive()
        ours = tuple(name.split(" ")[0] for name in alive if self._is_ours(name))
        other_models = tuple(name for name in alive if not self._is_ours(name))
        encodes, fetches, failures = self._counts()
        self.state = ClusterState(True, ours, other_models, self._queues.states(), encodes, fetches, failures, took_s)
        return self.state

    def refresh(self) -> None:
        """Update ``state``; keep the old one if Redis does not answer."""
        with suppress(RetryLater):  # the link's trouble is shown separately
            self.look()

    def alive(self) -> tuple[str, ...]:
        """Return the names of the live workers of all models."""
        names = self._link.run_script(_ALIVE, [self._keys.workers], ALIVE_S, LOADING_S)
        return tuple(sorted(name.decode(errors="replace") for name in names if isinstance(name, bytes)))

    def no_worker_error(self) -> RetryLater | None:
        """Return the error of waiting requests if no worker of this model is alive, busy or loading; None if one is.

        None also if that is unknown: during an outage of Redis, and for `RECOVERY_S` after it, since Redis may have
        lost the workers' heartbeats.
        """
        try:
            alive = self.alive()
        except RetryLater:
            return None
        if any(map(self._is_ours, alive)) or self._link.up_s < RECOVERY_S:
            return None
        others = f"; those that run encode with other weights: {', '.join(alive)}" if alive else ""
        return RetryLater(f"no worker is alive that could encode the image{others}", Reason.NO_WORKER)

    def heartbeat(self, name: str, ahead_s: int = 0) -> None:
        """Write the heartbeat of a worker, see `Keys.worker`; the next may be ``ahead_s`` late, up to `LOADING_S`."""
        self._link.run_script(_HEARTBEAT, [self._keys.workers], name, ahead_s)

    def deregister(self, name: str) -> None:
        """Remove a worker that stops; does not raise."""
        with suppress(RetryLater):  # without heartbeats it counts as dead soon
            self._link.call(lambda client: client.zrem(self._keys.workers, name))

    def count(self, kind: str) -> None:
        """Count a worker's ``encode``, ``fetch`` or ``failure``; does not raise."""
        with suppress(RetryLater):  # a number on the status page is not worth an error
            self._link.call(lambda client: client.hincrby(self._keys.counts, kind, 1))

    def _is_ours(self, worker: str) -> bool:
        return worker.endswith(f" {self._keys.model}")

    def _counts(self) -> tuple[int, int, int]:
        command = ("HMGET", self._keys.counts, "encode", "fetch", "failure")
        (counts,) = self._link.call(lambda client: answers(client, command))
        encodes, fetches, failures = (int(count) if count and count.isdigit() else 0 for count in counts or (None,) * 3)
        return encodes, fetches, failures
