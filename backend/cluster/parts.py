"""The objects that each process of a cluster uses to reach the shared state in Redis."""

from dataclasses import dataclass

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import SharedContentIndex
from backend.cluster.keys import Keys
from backend.cluster.lease import LEASE_S, RENEWALS, Leases
from backend.cluster.monitor import ClusterMonitor
from backend.cluster.queues import JobQueues
from backend.types import Secret


@dataclass(frozen=True)
class ClusterParts:
    """One installation's state in Redis, as the processes of one model see it."""

    link: RedisConnection
    keys: Keys
    leases: Leases
    queues: JobQueues
    contents: SharedContentIndex  # the content at each address, and the failures
    monitor: ClusterMonitor  # the workers that are alive, and the counts of their work

    @classmethod
    def connect(cls, url: Secret, prefix: str, model_version: str, lease_s: float = LEASE_S) -> "ClusterParts":
        """Return the parts that use the Redis at ``url``, with leases of ``lease_s``; the first call of one connects.

        >>> parts = ClusterParts.connect(Secret("redis://localhost:6379/0"), "paddle-sam", "SAM@1234")
        >>> parts.keys.events
        'paddle-sam:SAM@1234:notices'
        >>> parts.close()
        """
        link, keys = RedisConnection(url), Keys(prefix, model_version)
        queues = JobQueues(link, keys)
        leases = Leases(link, lease_s=lease_s, renew_every_s=lease_s / RENEWALS)
        return cls(link, keys, leases, queues, SharedContentIndex(link, keys), ClusterMonitor(link, keys, queues))

    def close(self) -> None:
        """Close the connections to Redis."""
        self.link.close()
