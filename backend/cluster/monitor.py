"""What goes on in the cluster: which workers are alive, what waits in the queues, and what is being worked on."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis import Redis

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.cluster.queues import JobQueues, QueueState
from backend.embeddings.content_index import SourceKey
from backend.errors import RetryLater
from backend.types import Priority

ALIVE_S = 10
"""A worker that has not been heard of for so long is dead or stopped."""

LOADING_S = 30
"""For how long a worker that loads its model counts as alive unheard: Python may stand still while a library comes from
a slow disk."""

_OURS = """
local kind = redis.call('TYPE', KEYS[1]).ok
local now = tonumber(redis.call('TIME')[1])
"""
_BEAT = (
    _OURS
    + """
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600)
redis.call('EXPIRE', KEYS[1], 3600)
"""
)
_ALIVE = (
    _OURS
    + """
if kind ~= 'zset' then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], now - tonumber(ARGV[1]), now + tonumber(ARGV[2]))
"""
)


@dataclass(frozen=True)
class ClusterState:
    """A look at the cluster.

    Attributes:
        is_known: whether it has been looked at yet.
        worker_names: host and process of each worker that is alive.
        other_models: workers that are alive and encode with other weights, which their names end with.
        queues: the most urgent first.
        encodes: how many the workers have made since Redis was last empty.
        fetches: how many images they fetched for it.
        failures: how many images they gave up.
        round_trip_s: how long Redis takes to answer.
    """

    is_known: bool = False
    worker_names: tuple[str, ...] = ()
    other_models: tuple[str, ...] = ()
    queues: tuple[QueueState, ...] = ()
    encodes: int = 0
    fetches: int = 0
    failures: int = 0
    round_trip_s: float = 0.0

    @property
    def workers(self) -> int:
        """How many workers are alive."""
        return len(self.worker_names)


class ClusterMonitor:
    """Looks at the cluster, and tells it of a worker."""

    def __init__(self, link: RedisConnection, keys: Keys, queues: JobQueues) -> None:
        """Connect to nothing yet."""
        self._link, self._keys, self._queues = link, keys, queues
        self.state = ClusterState()

    @property
    def channel(self) -> str:
        """Where workers say what they have done."""
        return self._keys.notices

    def look(self) -> ClusterState:
        """Return how the cluster is now.

        Raises:
            RetryLater: Redis does not answer.
        """
        start = time.perf_counter()
        self._link.call(lambda client: client.ping())
        took = time.perf_counter() - start
        alive = self.alive()
        ours = tuple(name.split(" ")[0] for name in alive if self._is_ours(name))
        other_models = tuple(name for name in alive if not self._is_ours(name))
        encodes, fetches, failures = self._counts()
        self.state = ClusterState(True, ours, other_models, self._queues.states(), encodes, fetches, failures, took)
        return self.state

    def refresh(self) -> None:
        """Take a new look; the old one stays where that fails."""
        with suppress(RetryLater):  # the link's trouble is shown beside
            self.look()

    def alive(self) -> tuple[str, ...]:
        """Return the names of the workers that are alive, of all models.

        Raises:
            RetryLater: Redis does not answer.
        """
        arguments = (str(ALIVE_S), str(LOADING_S))
        found = self._link.call(lambda client: client.eval(_ALIVE, 1, self._keys.workers, *arguments))
        return tuple(sorted(name.decode(errors="replace") for name in found if isinstance(name, bytes)))

    def strangers_alone(self) -> tuple[str, ...] | None:
        """Return the workers of other models if none of ours is alive; None where one is.

        Raises:
            RetryLater: Redis does not answer.
        """
        alive = self.alive()
        return None if any(map(self._is_ours, alive)) else alive

    def beat(self, name: str, ahead_s: int = 0) -> None:
        """Say that a worker is alive.

        Args:
            name: the worker's.
            ahead_s: for how long it cannot be expected to say so again, up to `LOADING_S`.

        Raises:
            RetryLater: Redis does not answer.
        """
        self._link.call(lambda client: client.eval(_BEAT, 1, self._keys.workers, name, str(ahead_s)))

    def leave(self, name: str) -> None:
        """Say that a worker has stopped; does not raise."""
        with suppress(RetryLater):  # it will be missed soon enough
            self._link.call(lambda client: client.zrem(self._keys.workers, name))

    def count(self, what: str) -> None:
        """Count what a worker did; does not raise."""
        with suppress(RetryLater):  # a number on a page is not worth more
            self._link.call(lambda client: client.hincrby(self._keys.counts, what, 1))

    def is_worked_on(self, place: SourceKey) -> bool:
        """Whether a worker is at an address.

        Raises:
            RetryLater: Redis does not answer.
        """
        return bool(self._link.call(lambda client: client.exists(self._keys.lease(place))))

    def is_announced(self, place: SourceKey, priority: Priority) -> bool:
        """Whether a job for an address was queued that no worker has begun.

        Raises:
            RetryLater: Redis does not answer.
        """
        return bool(self._link.call(lambda client: client.exists(self._keys.asked(place, priority))))

    def under_way(self, flights: Sequence[tuple[SourceKey, Priority | None]]) -> list[bool]:
        """Return of each address whether a worker is at it, or its job waits in a queue; one question for all.

        Raises:
            RetryLater: Redis does not answer.
        """
        if not flights:
            return []

        def work(client: "Redis") -> list[bool]:
            pipeline = client.pipeline(transaction=False)
            for place, priority in flights:
                pipeline.exists(self._keys.lease(place))
                pipeline.get(self._keys.asked(place, priority or Priority.INTERACTIVE))
            for priority in Priority:
                pipeline.lrange(f"rq:queue:{self._keys.queue(priority)}", 0, -1)
            *found, interactive, ahead, bulk = answers(pipeline)
            waiting = {*(interactive or ()), *(ahead or ()), *(bulk or ())}
            return [bool(lease) or (job in waiting) for lease, job in zip(found[::2], found[1::2], strict=True)]

        return self._link.call(work)

    def _is_ours(self, worker: str) -> bool:
        return worker.endswith(f" {self._keys.model}")

    def _counts(self) -> tuple[int, int, int]:
        def work(client: "Redis") -> list[int]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(self._keys.counts, ["encode", "fetch", "failure"])
            (found,) = answers(pipeline)
            return [int(one) if one is not None and one.isdigit() else 0 for one in found or (None,) * 3]

        encodes, fetches, failures = self._link.call(work)
        return encodes, fetches, failures
