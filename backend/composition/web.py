"""The composition root: creates all objects of a service and connects them as the settings say."""

import logging
import time
from collections.abc import Callable
from functools import partial

from backend.composition import cluster
from backend.composition import decoders as composition_decoders
from backend.composition.parts import (
    byte_budget,
    embedding_shape,
    image_source,
    load_models,
    local_embeddings,
    read_detector,
)
from backend.concurrency.background import BackgroundTasks
from backend.concurrency.byte_budget import ByteBudget, Use
from backend.decoders.lazy_decoder import LazyDecoder
from backend.decoders.training import TrainingTrigger
from backend.embeddings.stores import EmbeddingStore, FileStore, MemoryStore, TieredStore
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.label_studio.tokens import TokenKind
from backend.metrics import Metrics
from backend.segmentation.decoding import MaskService
from backend.segmentation.deferred import DeferredPredictions
from backend.segmentation.pipeline import Pipeline
from backend.segmentation.recently_answered import RecentlyAnswered
from backend.segmentation.retrieval import OpenedTaskPolicy, Retrieval, RetrievalPolicy
from backend.segmentation.service import ClickPolicy, Segmenter
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import MB, Settings
from backend.web import readiness
from backend.web.access import Access
from backend.web.app import BODIES, create_app
from backend.web.bodies import Bodies
from backend.web.listening import Service
from backend.web.readiness import Work
from backend.web.status import snapshot
from backend.web.status.snapshot import StatusSources
from backend.web.status.view import ClusterView
from model.demo import SAMPLES
from model.machine import cpu_count
from model.weights import Checkpoint

logger = logging.getLogger(__name__)


def build(settings: Settings, checkpoint: Checkpoint) -> Service:
    """Build a web service; its ``start`` loads the model and starts the threads."""
    metrics = Metrics()
    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key))
    decoder = LazyDecoder(checkpoint, settings.device)
    budget = byte_budget(settings)
    embeddings, store, view = _engine(settings, checkpoint, label_studio, metrics, budget)
    metrics.watch("encodes_waiting", "Images waiting for the encoder or in it.", lambda: embeddings.encoding)
    metrics.watch("prefetch_waiting", "Images waiting to be encoded ahead.", lambda: embeddings.ahead)
    _watch_memory(budget, metrics)
    background = BackgroundTasks()
    policy = ClickPolicy(
        settings.predict_budget_s,
        settings.output_preference,
        settings.prefetch_tasks,
        settings.max_image_pixels,
        read_detector(settings),
    )
    next_tasks = None if label_studio.http.token_kind is TokenKind.NONE else label_studio
    decoders = composition_decoders.web(settings, checkpoint, decoder, metrics)
    masks = MaskService(decoders.projects.of, metrics, checkpoint.config.decodes_at_once(cpu_count()), settings.detail)
    retrieval, deferred = _retrieval(settings, TaskSegmenter(masks, embeddings, policy.outputs), label_studio, metrics)
    answers, close_answers = cluster.recent_answers(settings, checkpoint)
    clicks = Pipeline(masks, embeddings, policy.outputs, policy.vocabulary, answers)
    segmenter = Segmenter(clicks, embeddings, metrics, background, next_tasks, policy, retrieval)

    def start() -> None:
        decoder.start()
        decoders.start()
        embeddings.start()

    def close() -> None:
        background.close()
        close_answers()
        deferred.stop()
        embeddings.close()
        deferred.close()
        label_studio.http.close()
        decoders.close()

    sources = StatusSources(
        settings, checkpoint, embeddings, decoder, store, metrics, view, budget, decoders.projects, decoders.log
    )
    access = Access(settings.max_body_mb * MB, settings.threads, settings.basic_auth_user, settings.basic_auth_pass)
    show, unready = partial(snapshot.take, sources), lambda: readiness.obstacle(embeddings, decoder, view())
    on_event = TrainingTrigger(decoders.trainings, decoders.log, settings.finetune_every).on_event
    samples, finds_words = SAMPLES if settings.try_page else None, settings.detector is not None
    app = create_app(segmenter, metrics, show, access, unready, samples, on_event, finds_words=finds_words)
    app.config[BODIES] = Bodies(access.max_body_bytes, budget)
    return Service(app, segmenter, metrics, start, close, on_event)


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
) -> tuple[Work, EmbeddingStore, Callable[[], ClusterView | None]]:
    """Return the embeddings, their store, and a function that returns the workers, or None without Redis."""
    if settings.redis_url is not None:
        return cluster.web(settings, checkpoint.model_version, metrics, embedding_shape(checkpoint), budget)
    store = _store(settings, checkpoint, metrics)
    source = image_source(settings, label_studio, budget)
    embeddings = local_embeddings(
        settings, checkpoint, source, lambda: load_models(checkpoint, settings), store, metrics, budget
    )
    return embeddings, store, lambda: None


def _watch_memory(budget: ByteBudget, metrics: Metrics) -> None:
    for use in Use:
        metrics.watch(f"buffered_{use.value}_bytes", f"Memory taken by {use.value}.", partial(budget.taken_for, use))
    metrics.watch("buffer_bytes", "Memory for bodies, addresses and files together.", lambda: budget.max_bytes)


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
                on_drop=metrics.record_drop,
            )
        )
    return TieredStore(tiers, metrics.record_lookup)
