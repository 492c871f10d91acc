"""Looks at Redis and the workers from where the service runs, and says how to put right what is wrong."""

from collections.abc import Iterator
from typing import Any

from backend import redis_parts
from backend.bootstrap import read_weights
from backend.doctor import Finding, Level
from backend.errors import RetryLater
from backend.settings import MB, Settings

ROOM_MB = 64
POLICY = "volatile-lru"


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield findings about Redis, its policy, its memory and the workers; none without ``redis_url``."""
    if settings.redis_url is None:
        return
    try:
        model_version = read_weights(settings).model_version
    except (ValueError, OSError):
        return  # said already; without a model there are no queues to look at
    link, _, _, cluster = redis_parts.link_and_cluster(settings, model_version)
    try:
        memory: dict[str, Any] = dict(link.call(lambda client: client.info("memory")))  # Any: redis-py types INFO so
        yield Finding(Level.OK, "Redis", f"answers, {int(memory.get('used_memory', 0)) / MB:.0f} MB used")
        yield from _policy(memory)
        state = cluster.look()
        if state.workers:
            yield Finding(Level.OK, "workers", f"{state.workers} alive: {', '.join(state.worker_names)}")
        else:
            fix = "start one per device with python -m backend worker, with the same REDIS_URL and weights"
            others = f", others are: {', '.join(state.strangers)}" if state.strangers else ""
            yield Finding(Level.PROBLEM, "workers", f"none is alive that encodes with {model_version}{others}", fix)
        waiting = ", ".join(f"{queue.name} {queue.depth}" for queue in state.queues)
        yield Finding(Level.OK, "queues", f"{waiting}; Redis answers in {state.round_trip_s * 1000:.1f} ms")
    except RetryLater as error:
        yield Finding(Level.PROBLEM, "Redis", str(error), "check REDIS_URL, that Redis runs, and its password and ACL")
    finally:
        link.close()


def _policy(memory: dict[str, Any]) -> Iterator[Finding]:
    most, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", ""))
    if not most:
        yield Finding(
            Level.PROBLEM,
            "Redis memory",
            "maxmemory is not set: embeddings fill the machine's memory",
            f"start Redis with --maxmemory 2gb --maxmemory-policy {POLICY}",
        )
    elif most < ROOM_MB * MB:
        yield Finding(
            Level.PROBLEM, "Redis memory", f"maxmemory is {most / MB:.0f} MB", f"give it {ROOM_MB} MB or more"
        )
    if policy != POLICY:
        fix = f"start Redis with --maxmemory-policy {POLICY}: embeddings may go when room is short, queues must not"
        level = Level.PROBLEM if policy.startswith("allkeys") else Level.HINT
        yield Finding(level, "Redis policy", f"maxmemory-policy is {policy or 'unknown'}", fix)
    if most >= ROOM_MB * MB and policy == POLICY:
        yield Finding(Level.OK, "Redis memory", f"at most {most / MB:.0f} MB, {policy}")
