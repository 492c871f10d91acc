"""Checks Redis and the workers from the machine that the service runs on, and reports each problem with its fix."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from backend.cli.doctor.findings import Finding, Level
from backend.cluster import check
from backend.cluster.parts import ClusterParts
from backend.cluster.store import memory_of
from backend.composition import cluster as composition_cluster
from backend.composition.parts import read_weights
from backend.errors import RetryLater
from backend.settings import MB, Settings

ROOM_MB = 64
POLICY = "volatile-lru"


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield findings about Redis, its memory, its eviction policy and the workers; none without ``redis_url``."""
    if settings.redis_url is None:
        return
    try:
        model_version = read_weights(settings).model_version
    except (ValueError, OSError):
        return  # reported by another check; queues belong to a model
    with closing(composition_cluster.connect(settings, model_version)) as parts:
        try:
            yield from _redis(parts)
        except RetryLater as error:
            yield Finding(Level.PROBLEM, "Redis", str(error), _unreachable(settings.redis_url.value, str(error)))


def _redis(parts: ClusterParts) -> Iterator[Finding]:
    troubles = check.find_troubles(parts.link, parts.keys)
    for trouble in troubles:
        yield Finding(Level.PROBLEM, "Redis", trouble.text, trouble.fix)
    if troubles:
        return
    yield from _memory(memory_of(parts.link))
    state = parts.monitor.look()
    if state.workers:
        yield Finding(Level.OK, "workers", f"{state.workers} alive: {', '.join(state.worker_names)}")
    else:
        fix = "start one per device with python -m backend worker, with the same REDIS_URL and weights"
        others = f", others are: {', '.join(state.other_models)}" if state.other_models else ""
        text = f"none is alive that encodes with {parts.keys.model_version}{others}"
        yield Finding(Level.PROBLEM, "workers", text, fix)
    waiting = ", ".join(f"{queue.name} {queue.depth}" for queue in state.queues)
    yield Finding(Level.OK, "queues", f"{waiting}; Redis answers in {state.round_trip_s * 1000:.1f} ms")


def _unreachable(url: str, why: str) -> str:
    """Return what to do about a Redis that does not answer; one with TLS closes connections without it."""
    if "certificate verify failed" in why.lower():
        return "give REDIS_URL the certificate of the authority that signed its own: ?ssl_ca_certs=FILE"
    scheme, other = ("rediss", "redis") if url.startswith("rediss:") else ("redis", "rediss")
    tls = "speaks no TLS" if scheme == "rediss" else "speaks TLS only"
    unix = url.startswith("unix:")
    return "check REDIS_URL, and that Redis runs" + ("" if unix else f"; if its port {tls}, write {other}:// there")


def _memory(memory: dict[str, Any]) -> Iterator[Finding]:  # Any: redis-py types the answer to INFO so
    if not memory:
        text = "answers; its user may not ask INFO, so its memory and policy cannot be looked at"
        fix = f"allow INFO (ACL SETUSER <user> +info), or see to maxmemory and maxmemory-policy {POLICY} yourself"
        yield Finding(Level.HINT, "Redis", text, fix)
        return
    yield Finding(Level.OK, "Redis", f"answers, {int(memory.get('used_memory', 0)) / MB:.0f} MB used")
    yield from _policy(memory)


def _policy(memory: dict[str, Any]) -> Iterator[Finding]:
    most, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", ""))
    if not most:
        text = "maxmemory is not set: embeddings fill the machine's memory"
        fix = f"start Redis with --maxmemory 2gb --maxmemory-policy {POLICY}"
        yield Finding(Level.PROBLEM, "Redis memory", text, fix)
    elif most < ROOM_MB * MB:
        text = f"maxmemory is {most / MB:.0f} MB"
        yield Finding(Level.PROBLEM, "Redis memory", text, f"give it {ROOM_MB} MB or more")
    if policy != POLICY:
        fix = f"start Redis with --maxmemory-policy {POLICY}: embeddings may go when room is short, queues must not"
        level = Level.PROBLEM if policy.startswith("allkeys") else Level.HINT
        yield Finding(level, "Redis policy", f"maxmemory-policy is {policy or 'unknown'}", fix)
    if most >= ROOM_MB * MB and policy == POLICY:
        yield Finding(Level.OK, "Redis memory", f"at most {most / MB:.0f} MB, {policy}")
