"""The composition root: the one module that knows every class, and puts them together as the settings say."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from flask import Flask

from backend import redis_parts
from backend.addresses import AddressPolicy, Origin
from backend.app import Access, create_app
from backend.embeddings import Embeddings, LocalEmbeddings
from backend.encode_queue import Encoder
from backend.errors import BackendError, Reason
from backend.image_source import ImageSource
from backend.image_source import Limits as FetchLimits
from backend.images import Limits as PixelLimits
from backend.label_studio import LabelStudio
from backend.metrics import Metrics
from backend.segmenter import Policy, Segmenter
from backend.settings import MB, Settings
from backend.status import Request, Row, Status
from backend.store import EmbeddingStore, FileStore, MemoryStore, TieredStore
from backend.tokens import TokenKind
from backend.worker import Worker
from model.api import find_weights
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint, merge, read

logger = logging.getLogger(__name__)

ERRANDS = 32


def read_weights(settings: Settings) -> Checkpoint:
    """Read the configured weights: a published model's name, a path, or two of either to be merged, ``A,B``.

    Raises:
        WeightsError: they are not there, or are not those of a SAM network.
    """
    checkpoints = []
    for name in (part.strip() for part in settings.weights.split(",")):
        is_path = Path(name).exists()
        checkpoints.append(read(name) if is_path else read(find_weights(name, settings.model_dir), name))
    first, *others = checkpoints
    for other in others:
        first = merge(first, other)
    return first


Decode: TypeAlias = Callable[[Embedding, Sequence[Prompt], bool | None], Masks]


class LoadingDecoder:
    """A decoder that is loaded once, by the first who needs it or by `start`; everybody else waits for that.

    Attributes:
        model_version: known before anything is loaded.
        device: where it runs, empty until it is loaded.
        failure: why it could not be loaded, empty when it could or has not been tried.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model_version, self.device, self.failure = checkpoint.model_version, "", ""
        self._checkpoint, self._wanted = checkpoint, device
        self._lock = threading.Lock()
        self._decode: Decode | None = None

    def start(self) -> None:
        """Load in the background."""
        threading.Thread(target=self._try, name="load-decoder", daemon=True).start()

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None) -> Masks:
        """Answer prompts about one image; see `model.predictor.Decoder.decode`.

        Raises:
            BackendError: the decoder cannot be loaded; the next call tries again.
        """
        return self._loaded()(embedding, prompts, multimask_output)

    def _try(self) -> None:
        with contextlib.suppress(BackendError):  # it is logged, and told on the status page
            self._loaded()

    def _loaded(self) -> Decode:
        with self._lock:
            if self._decode is None:
                self._decode = self._load()
            return self._decode

    def _load(self) -> Decode:
        from model.predictor import load_decoder  # here: Paddle must not be imported before a fork

        try:
            decoder = load_decoder(self._checkpoint, self._wanted)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            logger.error("event=decoder_not_loaded detail=%r", self.failure)
            raise BackendError(f"the decoder cannot be loaded: {error}", Reason.MODEL_NOT_READY) from error
        self.device, self.failure = decoder.device, ""
        return decoder.decode


class Errands:
    """Runs small background jobs on one thread, dropping them when too many wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="errand")
        self._free = threading.Semaphore(ERRANDS)

    def submit(self, errand: Callable[[], None]) -> None:
        """Run ``errand`` soon; dropped without a word when ``ERRANDS`` wait already, since they only warm things up."""
        if not self._free.acquire(blocking=False):
            return
        try:
            self._pool.submit(_logged, errand).add_done_callback(lambda _: self._free.release())
        except RuntimeError:  # closed while a click was being answered
            self._free.release()

    def close(self) -> None:
        """Drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _logged(errand: Callable[[], None]) -> None:
    try:
        errand()
    except Exception:  # nobody waits for it
        logger.exception("event=errand_defect")


class Engine(Embeddings, Protocol):
    """Embeddings and the threads behind them: `LocalEmbeddings`, or `QueuedEmbeddings` with Redis."""

    @property
    def is_ready(self) -> bool:
        """Whether an image that nobody has encoded yet can be."""
        ...

    @property
    def encoding(self) -> int:
        """How many images this process encodes or waits for."""
        ...

    @property
    def ahead(self) -> int:
        """How many images wait to be encoded ahead."""
        ...

    def start(self) -> None:
        """Begin; after a fork, not before."""
        ...

    def close(self) -> None:
        """End, finishing what is in hand."""
        ...


@dataclass(frozen=True)
class Service:
    """Everything one web process runs.

    Attributes:
        app: the WSGI application.
        segmenter: the use cases behind it, for callers without HTTP.
        metrics: what was counted and timed.
        start: begins loading the model in the background; after a fork, not before.
        close: ends the threads, finishing what is in hand.
    """

    app: Flask
    segmenter: Segmenter
    metrics: Metrics
    start: Callable[[], None]
    close: Callable[[], None]


def build(settings: Settings, checkpoint: Checkpoint) -> Service:
    """Put a service together; nothing is loaded, connected or started yet.

    Args:
        settings: what to build.
        checkpoint: the weights, as `read_weights` returned them.
    """
    metrics = Metrics()
    label_studio = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
    decoder = LoadingDecoder(checkpoint, settings.device)
    embeddings, store, more = _engine(settings, checkpoint, label_studio, metrics)
    metrics.watch("encodes_waiting", "Images waiting for the encoder or in it.", lambda: embeddings.encoding)
    metrics.watch("prefetch_waiting", "Images waiting to be encoded ahead.", lambda: embeddings.ahead)
    errands = Errands()
    policy = Policy(
        settings.predict_budget_s,
        settings.output_preference,
        settings.prefetch_tasks,
        decodes_at_once=_cores() + 1,  # one more is in Python while the others compute
    )
    next_tasks = None if label_studio.token_kind is TokenKind.NONE else label_studio
    segmenter = Segmenter(decoder, embeddings, metrics, errands, next_tasks, policy)

    def start() -> None:
        decoder.start()
        embeddings.start()

    def close() -> None:
        errands.close()
        embeddings.close()
        label_studio.close()

    def status() -> Status:
        return _status(settings, checkpoint, embeddings, decoder, store, metrics, more())

    access = Access(settings.max_body_mb * MB, settings.threads, settings.basic_auth_user, settings.basic_auth_pass)
    return Service(create_app(segmenter, metrics, status, access), segmenter, metrics, start, close)


def build_worker(settings: Settings, checkpoint: Checkpoint) -> Worker:
    """Put a worker together; nothing is loaded, connected or started yet.

    Args:
        settings: what to build; its ``redis_url`` is set.
        checkpoint: the weights, as `read_weights` returned them.
    """
    label_studio = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
    return redis_parts.worker(
        settings,
        checkpoint.model_version,
        _pixel_limits(settings, checkpoint),
        image_source(settings, label_studio),
        lambda: _load_encoder(checkpoint, settings.device),
    )


def _engine(
    settings: Settings, checkpoint: Checkpoint, label_studio: LabelStudio, metrics: Metrics
) -> tuple[Engine, EmbeddingStore, Callable[[], Sequence[Row]]]:
    """Return what makes embeddings, what keeps them, and what else is to be said of both."""
    if settings.redis_url is not None:
        return redis_parts.web(settings, checkpoint.model_version, metrics)
    store = _store(settings, metrics)
    embeddings = LocalEmbeddings(
        image_source(settings, label_studio),
        lambda: _load_encoder(checkpoint, settings.device),
        checkpoint.model_version,
        store,
        metrics,
        limits=_pixel_limits(settings, checkpoint),
        dtype=settings.embedding_dtype,
    )
    return embeddings, store, tuple


def _pixel_limits(settings: Settings, checkpoint: Checkpoint) -> PixelLimits:
    return PixelLimits(max_pixels=settings.max_image_pixels, model_side=checkpoint.config.image_size)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def image_source(settings: Settings, label_studio: LabelStudio) -> ImageSource:
    """Return what fetches images, within the limits and addresses that the settings allow."""
    return ImageSource(
        label_studio,
        AddressPolicy(Origin.of(settings.label_studio_url), settings.allowed_hosts),
        FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s),
        local_files_root=settings.local_files_root,
    )


def _load_encoder(checkpoint: Checkpoint, device: str) -> Encoder:
    from model.predictor import load_encoder  # here: Paddle must not be imported before a fork

    start = time.monotonic()
    encoder = load_encoder(checkpoint, device)
    took = time.monotonic() - start
    logger.info("event=encoder_loaded model=%s device=%s s=%.1f", encoder.model_version, encoder.device, took)
    return encoder


def _store(settings: Settings, metrics: Metrics) -> EmbeddingStore:
    tiers: list[EmbeddingStore] = []
    if settings.memory_cache_mb:
        tiers.append(MemoryStore(settings.memory_cache_mb * MB))
    if settings.disk_cache_mb:
        tiers.append(FileStore(settings.cache_dir, settings.disk_cache_mb * MB))
    return TieredStore(tiers, metrics.looked_up)


def _status(
    settings: Settings,
    checkpoint: Checkpoint,
    embeddings: Engine,
    decoder: LoadingDecoder,
    store: EmbeddingStore,
    metrics: Metrics,
    more: Sequence[Row],
) -> Status:
    is_ready = embeddings.is_ready and bool(decoder.device)
    headline = "ready" if is_ready else "the model cannot be loaded" if decoder.failure else "loading the model"
    config = checkpoint.config
    model = (
        Row("version", checkpoint.model_version),
        Row("device", decoder.device or settings.device),
        Row("input", f"{config.image_size} x {config.image_size} pixels"),
        Row("takes", ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")),
    )
    tiers = store.stats()
    cache = tuple(
        Row(
            one.name,
            one.trouble or f"{one.entries} images, {one.nbytes / MB:.0f} of {one.max_bytes / MB:.0f} MB",
            is_problem=bool(one.trouble),
        )
        for one in tiers
    )
    queue = (
        Row("being encoded or waiting", str(embeddings.encoding)),
        Row("to be encoded ahead", str(embeddings.ahead)),
        *more,
    )
    problems = [
        Row(f"project {project}", text, is_problem=True)
        for project, texts in metrics.config_problems().items()
        for text in texts
    ]
    if decoder.failure:
        problems.insert(0, Row("model", decoder.failure, is_problem=True))
    if settings.label_studio_api_key is None:
        text = "LABEL_STUDIO_API_KEY is not set: images uploaded to Label Studio cannot be fetched"
        problems.append(Row("API key", text, is_problem=True))
    requests = tuple(
        Request(
            time.strftime("%H:%M:%S", time.gmtime(one.at)),
            one.tasks,
            one.regions,
            one.total_ms,
            ", ".join(f"{name} {took:.0f}" for name, took in one.stages_ms.items() if name != "total" and took >= 0.5),
            tuple(str(reason) for reason in one.reasons),
        )
        for one in metrics.recent()
    )
    return Status(headline, is_ready, model, cache, queue, tuple(problems), requests)
