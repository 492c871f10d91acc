"""Builds the parts that use Redis: a web process without an encoder, and a worker without a web server."""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from backend.cluster import check
from backend.cluster.lease import LEASE_S
from backend.cluster.parts import ClusterParts
from backend.cluster.pipeline import EncodePipeline
from backend.cluster.remote import QueuedEmbeddings
from backend.cluster.store import RedisStore
from backend.cluster.worker import Worker, load_warm
from backend.concurrency.background import BackgroundTasks
from backend.concurrency.byte_budget import ByteBudget
from backend.decoders import training
from backend.decoders.exchange import DecoderExchange, TrainingWorker
from backend.decoders.folder import DecoderFolder
from backend.decoders.training import TrainingLog, TrainingRunner
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.pipeline import Source
from backend.embeddings.stores import EmbeddingStore, MemoryStore, Shape, TieredStore
from backend.metrics import Metrics
from backend.segmentation.corrections.recent_answers import LASTS_S, MOST_ON_AN_IMAGE, RecentAnswers
from backend.segmentation.corrections.redis_answers import RedisAnswers
from backend.settings import MB, Settings
from backend.types import Priority
from backend.web.status.snapshot import cluster_view
from backend.web.status.view import ClusterView
from model.weights import Checkpoint

WORKER_MEMORY_MB = 64
"""Size of a worker's memory store, which keeps new embeddings if Redis was unavailable when they were made."""

ANY_MODEL = "any"  # for what needs no model: it uses only keys that all models share


def connect(settings: Settings, model_version: str, lease_s: float = LEASE_S) -> ClusterParts:
    """Return the parts that use the Redis of the settings; the first call of one connects."""
    assert settings.redis_url is not None
    return ClusterParts.connect(settings.redis_url, settings.redis_prefix, model_version, lease_s)


def web(
    settings: Settings,
    model_version: str,
    metrics: Metrics,
    shape: Shape | None = None,
    budget: ByteBudget | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[QueuedEmbeddings, EmbeddingStore, Callable[[], ClusterView]]:
    """Return a web process' embeddings, their store, and a function that returns the state of the cluster."""
    parts = connect(settings, model_version)
    memory = MemoryStore(settings.memory_cache_mb * MB)
    store = RedisStore(
        parts.link, parts.keys, settings.redis_ttl_s, metrics.stage, shape=shape, on_drop=metrics.record_drop
    )
    embeddings = QueuedEmbeddings(parts, memory, store, metrics, settings.embedding_dtype, clock=clock, budget=budget)
    _watch(parts, metrics)

    def view() -> ClusterView:
        return cluster_view(parts.monitor.state, parts.link.last_error if parts.link.is_down else "")

    return embeddings, TieredStore([memory, store]), view


def recent_answers(settings: Settings, checkpoint: Checkpoint) -> tuple[RecentAnswers, Callable[[], None]]:
    """Return the memory of the last answers to clicks, shared through Redis if the settings name one, and its end."""
    if settings.redis_url is None:
        return RecentAnswers(), lambda: None
    parts, background = connect(settings, checkpoint.model_version), BackgroundTasks()
    shared = RedisAnswers(parts.link, parts.keys, LASTS_S, MOST_ON_AN_IMAGE, checkpoint.config.low_res_size)

    def close() -> None:
        background.close()
        parts.close()

    return RecentAnswers(shared, background.submit), close


def worker(
    settings: Settings,
    spec: EncodeSpec,
    source: Callable[[ByteBudget], Source],
    load: Callable[[], Encoder],
    shape: Shape | None = None,
    lease_s: float = LEASE_S,
) -> Worker:
    """Return a worker, which loads and connects when it runs; ``source`` returns what fetches files, in that memory."""
    parts, metrics = connect(settings, spec.model_version, lease_s), Metrics()
    store = RedisStore(parts.link, parts.keys, settings.redis_ttl_s, metrics.stage, shape=shape)
    encoder = EncoderThread(partial(load_warm, load, spec), MemoryStore(WORKER_MEMORY_MB * MB), metrics)
    largest = settings.max_image_bytes
    clicks, others = ByteBudget(largest), ByteBudget(max(largest, settings.buffer_bytes - largest))
    pipeline = EncodePipeline(parts, spec, source(others), source(clicks), encoder, store, metrics)
    folder = DecoderFolder(settings.decoders_dir)
    log = TrainingLog(folder)
    runner = TrainingRunner(training.command(settings.weights, settings.device), log)
    trainings = TrainingWorker(parts, DecoderExchange(parts.link, parts.keys, folder), runner, log)
    return Worker(parts, pipeline, encoder, trainings.train_next)


def require_usable(settings: Settings) -> None:
    """Check that the configured Redis, if any, can be used; one that does not answer yet passes.

    Raises:
        RedisUnusableError: it answers, and cannot be used as it is.
    """
    if settings.redis_url is None:
        return
    with closing(connect(settings, ANY_MODEL)) as parts:
        check.require_usable(parts.link, parts.keys)


def has_worker(settings: Settings) -> bool:
    """Whether a worker on this machine, or in this container, is alive; `RetryLater` if Redis does not answer."""
    with closing(connect(settings, ANY_MODEL)) as parts:
        return any(name.startswith(f"{socket.gethostname()}:") for name in parts.monitor.alive())


def _watch(parts: ClusterParts, metrics: Metrics) -> None:
    """Register the cluster's metrics, which are a few seconds old, so that a slow Redis does not delay the page."""
    monitor, link = parts.monitor, parts.link
    up = "1 while Redis answers; while it does not, the other figures of the cluster are old."
    metrics.watch("redis_up", up, lambda: 0.0 if link.is_down else 1.0)
    metrics.watch("workers", "Workers that are alive.", lambda: monitor.state.workers)
    metrics.watch("redis_round_trip_seconds", "How long Redis takes to answer.", lambda: monitor.state.round_trip_s)
    metrics.watch("cluster_encodes", "Encodes by all workers together.", lambda: monitor.state.encodes)
    metrics.watch("cluster_fetches", "Images fetched by all workers together.", lambda: monitor.state.fetches)
    metrics.watch("cluster_failures", "Images all workers together gave up.", lambda: monitor.state.failures)
    for priority in Priority:
        _watch_queue(parts, metrics, priority)


def _watch_queue(parts: ClusterParts, metrics: Metrics, priority: Priority) -> None:
    def figure(name: str) -> float:
        queues = {queue.name: queue for queue in parts.monitor.state.queues}
        return float(getattr(queues[priority.name.lower()], name)) if queues else 0.0

    name, age = f"queue_{priority.name.lower()}", "How long the first image in the queue has waited."
    metrics.watch(f"{name}_depth", "Images in the queue.", lambda: figure("depth"))
    metrics.watch(f"{name}_age_seconds", age, lambda: figure("age_s"))
