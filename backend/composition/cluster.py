"""Builds the parts that use Redis: a web process without an encoder, and a worker without a web server."""

import os
import socket
from collections.abc import Callable
from functools import partial

from backend.cluster import check
from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import SharedContentIndex
from backend.cluster.encode_job import EncodeJob
from backend.cluster.keys import Keys
from backend.cluster.lease import Leases
from backend.cluster.monitor import LOADING_S, ClusterMonitor
from backend.cluster.queues import JobQueues
from backend.cluster.remote import QueuedEmbeddings
from backend.cluster.store import RedisStore
from backend.cluster.worker import WarmLoad, Worker
from backend.cluster.yielding_source import PreemptibleFetcher, Source
from backend.concurrency.byte_budget import ByteBudget
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import EmbeddingStore, MemoryStore, Shape, TieredStore
from backend.metrics import Metrics
from backend.settings import MB, Settings
from backend.types import Priority
from backend.web.status.formatting import format_ms
from backend.web.status.view import ClusterView, Field, Problem, Queue

WORKER_MEMORY_MB = 64
"""Size of a worker's memory store, which keeps new embeddings if Redis was unavailable when they were made."""


def link_and_cluster(settings: Settings, model_version: str) -> tuple[RedisConnection, Keys, JobQueues, ClusterMonitor]:
    """Return the connection to Redis, its keys, job queues and monitor; the first call connects."""
    assert settings.redis_url is not None
    link, keys = RedisConnection(settings.redis_url), Keys(settings.redis_prefix, model_version)
    queues = JobQueues(link, keys)
    return link, keys, queues, ClusterMonitor(link, keys, queues)


def web(
    settings: Settings,
    model_version: str,
    metrics: Metrics,
    shape: Shape | None = None,
    budget: ByteBudget | None = None,
) -> tuple[QueuedEmbeddings, EmbeddingStore, Callable[[], ClusterView]]:
    """Return a web process' embeddings, their store, and a function that returns the state of the cluster.

    Args:
        settings: with ``redis_url`` set.
        model_version: of the workers' encoders and the decoder.
        metrics: counts and times.
        shape: of the network's embeddings; None takes any.
        budget: the memory for ``data:`` addresses; None for a new one.
    """
    link, keys, queues, cluster = link_and_cluster(settings, model_version)
    memory = MemoryStore(settings.memory_cache_mb * MB)
    store = RedisStore(link, keys, settings.redis_ttl_s, metrics.stage, shape=shape, on_drop=metrics.dropped)
    embeddings = QueuedEmbeddings(
        link,
        cluster,
        memory,
        store,
        SharedContentIndex(link, keys),
        queues,
        model_version,
        metrics,
        dtype=settings.embedding_dtype,
        budget=budget,
    )
    _watch(embeddings, metrics)
    metrics.watch(
        "redis_up",
        "1 while Redis answers; while it does not, what is told of the cluster is old.",
        lambda: 0.0 if link.is_down else 1.0,
    )
    return embeddings, TieredStore([memory, store]), lambda: _cluster_view(embeddings, link)


def worker(
    settings: Settings,
    spec: EncodeSpec,
    source: Source,
    load: Callable[[], Encoder],
    shape: Shape | None = None,
) -> Worker:
    """Return a worker, which loads and connects when it runs.

    Args:
        settings: with ``redis_url`` set.
        spec: how files become embeddings.
        source: fetches image files.
        load: returns the encoder; called once.
        shape: of its embeddings; None takes any.
    """
    link, keys, queues, cluster = link_and_cluster(settings, spec.model_version)
    name = keys.worker(socket.gethostname(), os.getpid())
    metrics = Metrics()
    store = RedisStore(link, keys, settings.redis_ttl_s, metrics.stage, shape=shape)
    warm = WarmLoad(load, spec)
    queue = EncoderThread(warm, TieredStore([MemoryStore(WORKER_MEMORY_MB * MB), store]), metrics)

    def beat() -> None:
        cluster.beat(name, 0 if warm.is_over.is_set() else LOADING_S)

    leases = Leases(link, keys.attempts, on_beat=beat)
    job = EncodeJob(
        PreemptibleFetcher(source, queues.is_click_waiting),
        queue,
        store,
        SharedContentIndex(link, keys),
        leases,
        keys,
        metrics,
        spec=spec,
        ask_again=queues.ask,
        count=cluster.count,
    )
    return Worker(
        link,
        keys,
        job,
        queue,
        warm,
        leases,
        announce=beat,
        on_stop=lambda: cluster.leave(name),
    )


def require_usable(settings: Settings) -> None:
    """Check that the configured Redis, if any, can be used; one that does not answer yet passes.

    Raises:
        RedisUnusableError: it answers, and cannot be used as it is.
    """
    if settings.redis_url is None:
        return
    link, keys, _, _ = link_and_cluster(settings, "any")
    try:
        check.require_usable(link, keys)
    finally:
        link.close()


def has_worker(settings: Settings) -> bool:
    """Whether a worker on this machine, or in this container, is alive.

    Raises:
        RetryLater: Redis does not answer.
    """
    link, _, _, cluster = link_and_cluster(settings, "")
    try:
        return any(name.startswith(f"{socket.gethostname()}:") for name in cluster.alive())
    finally:
        link.close()


def _watch(embeddings: QueuedEmbeddings, metrics: Metrics) -> None:
    """Register the cluster's metrics, which are a few seconds old, so that a slow Redis does not delay the page."""
    metrics.watch("workers", "Workers that are alive.", lambda: embeddings.cluster.workers)
    metrics.watch(
        "redis_round_trip_seconds", "How long Redis takes to answer.", lambda: embeddings.cluster.round_trip_s
    )
    for index, priority in enumerate(Priority):
        name = f"queue_{priority.name.lower()}"
        metrics.watch(f"{name}_depth", "Images in the queue.", partial(_depth, embeddings, index))
        metrics.watch(
            f"{name}_age_seconds",
            "How long the first image in the queue has waited.",
            partial(_age_s, embeddings, index),
        )
    metrics.watch("cluster_encodes", "Encodes by all workers together.", lambda: embeddings.cluster.encodes)
    metrics.watch("cluster_fetches", "Images fetched by all workers together.", lambda: embeddings.cluster.fetches)
    metrics.watch("cluster_failures", "Images all workers together gave up.", lambda: embeddings.cluster.failures)


def _depth(embeddings: QueuedEmbeddings, index: int) -> float:
    queues = embeddings.cluster.queues
    return queues[index].depth if queues else 0


def _age_s(embeddings: QueuedEmbeddings, index: int) -> float:
    queues = embeddings.cluster.queues
    return queues[index].age_s if queues else 0.0


def _cluster_view(embeddings: QueuedEmbeddings, link: RedisConnection) -> ClusterView:
    state = embeddings.cluster
    if link.is_down:
        problem = Problem("Redis", link.trouble, "it is tried again by itself; look at Redis")
        return ClusterView(problems=(problem,), headline="Redis does not answer")
    if not state.is_known:
        return ClusterView((Field("workers", "not looked yet"),))
    problems = []
    if not state.workers:
        text = "none is running that could encode an image"
        problems.append(Problem("workers", text, "start one with python -m backend worker"))
    if state.other_models:
        names = ", ".join(state.other_models)
        problems.append(Problem("workers", f"with other weights: {names}", "give all of them one PADDLE_SAM_WEIGHTS"))
    rows = (
        Field("Redis answers in", format_ms(1000 * state.round_trip_s)),
        Field("encoded by all workers", str(state.encodes)),
        Field("fetched by all workers", str(state.fetches)),
        Field("given up by all workers", str(state.failures)),
    )
    queues = tuple(
        Queue(queue.name, queue.depth, format_ms(1000 * queue.age_s) if queue.depth else "") for queue in state.queues
    )
    headline = "" if state.workers else "no worker is running"
    return ClusterView(rows, state.worker_names, queues, tuple(problems), headline)
