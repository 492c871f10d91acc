"""The composition root: creates all objects of a service and connects them as the settings say."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from flask import Flask

from backend import paddle_import
from backend.cluster.worker import Worker
from backend.composition import cluster
from backend.concurrency.background import BackgroundTasks
from backend.concurrency.byte_budget import ByteBudget, Use
from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.local import Embeddings, LocalEmbeddings
from backend.embeddings.stores import EmbeddingStore, FileStore, MemoryStore, Shape, TieredStore
from backend.images.decode import Limits as PixelLimits
from backend.images.fetch import ImageSource, Route
from backend.images.fetch import Limits as FetchLimits
from backend.images.http.connections import Proxy
from backend.images.network_policy import AddressPolicy, Origin
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.label_studio.tokens import TokenKind
from backend.metrics import Metrics
from backend.segmentation.claims import RecentlyAnswered
from backend.segmentation.decoding import MaskService
from backend.segmentation.deferred import DeferredPredictions
from backend.segmentation.lazy_decoder import LazyDecoder
from backend.segmentation.retrieval import OpenedTaskPolicy, Retrieval, RetrievalPolicy
from backend.segmentation.service import ClickPolicy, Segmenter
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import MB, Settings
from backend.web.access import Access
from backend.web.app import BODIES, create_app
from backend.web.bodies import Bodies
from backend.web.status import snapshot
from backend.web.status.snapshot import StatusSources
from backend.web.status.view import ClusterView
from model.demo import SAMPLES
from model.machine import cpu_count
from model.paddlex.model import find_weights
from model.transforms import preprocess
from model.weights import Checkpoint, in_order, merge, read
from model.weights.catalogue import NAMED, SOURCES
from model.weights.download import default_folder, downloaded

logger = logging.getLogger(__name__)


def read_weights(settings: Settings) -> Checkpoint:
    """Read the configured weights: a published model's name, a path, or two of either to be merged, ``A,B`` or ``B,A``.

    Raises:
        WeightsError: they do not exist, or are not those of a SAM network.
    """
    checkpoints = []
    for name in (part.strip() for part in settings.weights.split(",")):
        is_path = name not in NAMED and Path(name).exists()  # a directory ./demo hides no model
        checkpoints.append(read(name) if is_path else read(_published(name, settings.model_dir), name))
    first, *others = sorted(checkpoints, key=in_order)
    for other in others:
        first = merge(first, other)
    return first


def _published(name: str, folder: Path | None) -> Path:
    """Return the path of a published model's weights, after downloading them if necessary, which takes minutes."""
    folder = folder or default_folder()
    if name in SOURCES and downloaded(name, folder) is None:
        logger.info("event=downloading weights=%s folder=%s", name, folder)
    return find_weights(name, folder, own="PADDLE_SAM_WEIGHTS takes the path of weights that you have")


class Engine(Embeddings, snapshot.Work, Protocol):
    """Embeddings and the threads behind them: `LocalEmbeddings`, or `QueuedEmbeddings` with Redis."""

    def start(self) -> None:
        """Start the threads; after a fork, not before."""
        ...

    def close(self) -> None:
        """Stop the threads, after finishing the work in progress."""
        ...


@dataclass(frozen=True)
class Service:
    """The parts of one web process.

    Attributes:
        app: the WSGI application.
        segmenter: answers requests, for callers without HTTP.
        metrics: counts and times.
        start: starts loading the model in the background; after a fork, not before.
        close: stops the threads, after finishing the work in progress.
    """

    app: Flask
    segmenter: Segmenter
    metrics: Metrics
    start: Callable[[], None]
    close: Callable[[], None]


def build(settings: Settings, checkpoint: Checkpoint) -> Service:
    """Build a web service; its ``start`` loads the model and starts the threads.

    Args:
        settings: the settings to build it from.
        checkpoint: the weights, as `read_weights` returned them.
    """
    metrics = Metrics()
    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key))
    decoder = LazyDecoder(checkpoint, settings.device)
    budget = byte_budget(settings)
    embeddings, store, team = _engine(settings, checkpoint, label_studio, metrics, budget)
    metrics.watch("encodes_waiting", "Images waiting for the encoder or in it.", lambda: embeddings.encoding)
    metrics.watch("prefetch_waiting", "Images waiting to be encoded ahead.", lambda: embeddings.ahead)
    _watch_memory(budget, metrics)
    background = BackgroundTasks()
    policy = ClickPolicy(
        settings.predict_budget_s,
        settings.output_preference,
        settings.prefetch_tasks,
        settings.max_image_pixels,
    )
    next_tasks = None if label_studio.http.token_kind is TokenKind.NONE else label_studio
    decodes_at_once = cpu_count() + 1  # one runs Python code while the others compute
    masks = MaskService(decoder, metrics, decodes_at_once, wait_for_decoder=decoder.wait)
    retrieval, deferred = _retrieval(settings, TaskSegmenter(masks, embeddings, policy.outputs), label_studio, metrics)
    segmenter = Segmenter(masks, embeddings, metrics, background, next_tasks, policy, retrieval)

    def start() -> None:
        decoder.start()
        embeddings.start()

    def close() -> None:
        background.close()
        deferred.stop()
        embeddings.close()
        deferred.close()
        label_studio.http.close()

    parts = StatusSources(settings, checkpoint, embeddings, decoder, store, metrics, team, budget)
    access = Access(settings.max_body_mb * MB, settings.threads, settings.basic_auth_user, settings.basic_auth_pass)
    samples = SAMPLES if settings.try_page else None
    app = create_app(segmenter, metrics, lambda: snapshot.take(parts), access, lambda: snapshot.unready(parts), samples)
    app.config[BODIES] = Bodies(access.max_body_bytes, budget)
    return Service(app, segmenter, metrics, start, close)


def build_worker(settings: Settings, checkpoint: Checkpoint) -> Worker:
    """Build a worker, which loads the encoder and connects when it runs.

    Args:
        settings: the settings to build it from, with ``redis_url`` set.
        checkpoint: the weights, as `read_weights` returned them.
    """
    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key))
    return cluster.worker(
        settings,
        encode_spec(settings, checkpoint),
        partial(image_source, settings, label_studio),
        lambda: _load_encoder(checkpoint, settings.device),
        embedding_shape(checkpoint),
    )


def _retrieval(
    settings: Settings, segmenter: TaskSegmenter, label_studio: LabelStudio, metrics: Metrics
) -> tuple[Retrieval, DeferredPredictions]:
    """Return the service that answers whole tasks, and the queue that makes and stores late predictions."""
    answered = RecentlyAnswered(time.monotonic)
    deferred = DeferredPredictions(segmenter, label_studio, answered, metrics)
    metrics.watch("pushes_waiting", "Tasks whose predictions are still to be made and stored.", lambda: len(deferred))
    can_store = label_studio.http.token_kind is not TokenKind.NONE
    policy = RetrievalPolicy(settings.retrieve_budget_s, OpenedTaskPolicy(settings.answer_opened_tasks))
    return Retrieval(segmenter, answered, deferred if can_store else None, policy), deferred


def _engine(
    settings: Settings, checkpoint: Checkpoint, label_studio: LabelStudio, metrics: Metrics, budget: ByteBudget
) -> tuple[Engine, EmbeddingStore, Callable[[], ClusterView | None]]:
    """Return the embeddings, their store, and a function that returns the workers, or None without Redis."""
    if settings.redis_url is not None:
        return cluster.web(settings, checkpoint.model_version, metrics, embedding_shape(checkpoint), budget)
    store = _store(settings, checkpoint, metrics)
    source = image_source(settings, label_studio, budget)
    embeddings = local_embeddings(
        settings, checkpoint, source, lambda: _load_encoder(checkpoint, settings.device), store, metrics, budget
    )
    return embeddings, store, lambda: None


def local_embeddings(
    settings: Settings,
    checkpoint: Checkpoint,
    source: ImageSource,
    load_encoder: Callable[[], Encoder],
    store: EmbeddingStore,
    metrics: Metrics,
    budget: ByteBudget,
) -> LocalEmbeddings:
    """Return embeddings made in this process; what lies at an address is kept beside those on disk, if any are."""
    database = ContentDatabase(settings.cache_dir / "contents.db", settings.label_studio_url)
    contents = ContentIndex(database=database if settings.disk_cache_mb else None)
    return LocalEmbeddings(source, load_encoder, encode_spec(settings, checkpoint), store, metrics, contents, budget)


def embedding_shape(checkpoint: Checkpoint) -> Shape:
    """Return the shape of these weights' embeddings, (C, H, W)."""
    side = checkpoint.config.embedding_size
    return checkpoint.config.prompt_embed_dim, side, side


def encode_spec(settings: Settings, checkpoint: Checkpoint) -> EncodeSpec:
    """Return how image files become embeddings of these weights."""
    config = checkpoint.config
    return EncodeSpec(
        checkpoint.model_version,
        partial(preprocess, config=config),
        PixelLimits(settings.max_image_pixels, model_side=config.image_size, keeps_shape=config.keeps_shape),
        settings.embedding_dtype,
    )


def byte_budget(settings: Settings) -> ByteBudget:
    """Return the memory for bodies, ``data:`` addresses and files; one of the largest size of each always fits."""
    body = settings.max_body_mb * MB
    return ByteBudget(
        settings.buffer_bytes, {Use.BODIES: body, Use.ADDRESSES: body, Use.FILES: settings.max_image_bytes}
    )


def _watch_memory(budget: ByteBudget, metrics: Metrics) -> None:
    for use in Use:
        metrics.watch(f"buffered_{use.value}_bytes", f"Memory taken by {use.value}.", partial(budget.taken_for, use))
    metrics.watch("buffer_bytes", "Memory for bodies, addresses and files together.", lambda: budget.max_bytes)


def image_source(settings: Settings, label_studio: LabelStudio, budget: ByteBudget | None = None) -> ImageSource:
    """Return the source that fetches images, within the limits and addresses that the settings allow."""
    return ImageSource(
        label_studio.http,
        AddressPolicy(Origin.of(settings.label_studio_url), settings.allowed_hosts),
        FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s),
        public_url=settings.label_studio_public_url,
        local_files_root=settings.local_files_root,
        route=Route(proxy=None if settings.image_proxy is None else Proxy.of(settings.image_proxy.value)),
        budget=budget or byte_budget(settings),
    )


def _load_encoder(checkpoint: Checkpoint, device: str) -> Encoder:
    with paddle_import.sigterm_guard():
        from model.build import load_encoder  # here: Paddle must not be imported before a fork

    start = time.monotonic()
    encoder = load_encoder(checkpoint, device)
    took = time.monotonic() - start
    logger.info("event=encoder_loaded model=%s device=%s s=%.1f", encoder.model_version, encoder.device, took)
    return encoder


def _store(settings: Settings, checkpoint: Checkpoint, metrics: Metrics) -> EmbeddingStore:
    tiers: list[EmbeddingStore] = []
    if settings.memory_cache_mb:
        tiers.append(MemoryStore(settings.memory_cache_mb * MB))
    if settings.disk_cache_mb:
        tiers.append(
            FileStore(
                settings.cache_dir,
                settings.disk_cache_mb * MB,
                shape=embedding_shape(checkpoint),
                on_drop=metrics.dropped,
            )
        )
    return TieredStore(tiers, metrics.record_lookup)
