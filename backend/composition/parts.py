"""Builds the parts that web processes, workers and runs over projects share, as the settings say."""

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from backend import paddle_import
from backend.cluster.worker import Worker
from backend.composition import cluster
from backend.concurrency.byte_budget import ByteBudget, Use
from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import EmbeddingStore, Shape
from backend.embeddings.word_boxes import WordDetector
from backend.errors import BackendError
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.decode import PixelLimits
from backend.images.fetch import FetchLimits, ImageSource, Route
from backend.images.http.connections import Proxy
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.metrics import Metrics
from backend.settings import MB, Settings
from model.detection.detector import Detector
from model.detection.load import read_detector as read_detector_directory
from model.paddlex.detection import locate_detector
from model.paddlex.model import find_weights
from model.transforms import preprocess
from model.weights import Checkpoint, merge, merge_order, read
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
    first, *others = sorted(checkpoints, key=merge_order)
    for other in others:
        first = merge(first, other)
    return first


def _published(name: str, folder: Path | None) -> Path:
    """Return the path of a published model's weights, after downloading them if necessary, which takes minutes."""
    folder = folder or default_folder()
    if name in SOURCES and downloaded(name, folder) is None:
        logger.info("event=downloading weights=%s folder=%s", name, folder)
    return find_weights(name, folder, own="PADDLE_SAM_WEIGHTS takes the path of weights that you have")


def read_detector(settings: Settings) -> Detector | None:
    """Return the configured detector, read once, with its program not loaded yet; None where none is configured.

    It is downloaded first if necessary, which takes minutes.

    Raises:
        WeightsError: there is no such detector, or its program does more than compute.
    """
    return None if settings.detector is None else _detector(settings.detector, settings.model_dir, settings.device)


@lru_cache(maxsize=1)
def _detector(name_or_path: str, folder: Path, device: str) -> Detector:
    return read_detector_directory(locate_detector(name_or_path, folder), device)


def build_worker(settings: Settings, checkpoint: Checkpoint) -> Worker:
    """Build a worker, which loads the encoder and connects when it runs; ``redis_url`` must be set."""
    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key))
    return cluster.worker(
        settings,
        encode_spec(settings, checkpoint),
        partial(image_source, settings, label_studio),
        lambda: load_models(checkpoint, settings),
        embedding_shape(checkpoint),
    )


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


def byte_budget(settings: Settings) -> ByteBudget:
    """Return the memory for bodies, ``data:`` addresses and files; one of the largest size of each always fits."""
    body = settings.max_body_mb * MB
    return ByteBudget(
        settings.buffer_bytes, {Use.BODIES: body, Use.ADDRESSES: body, Use.FILES: settings.max_image_bytes}
    )


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


def encode_spec(settings: Settings, checkpoint: Checkpoint) -> EncodeSpec:
    """Return how image files become embeddings of these weights."""
    config = checkpoint.config
    limits = PixelLimits(settings.max_image_pixels, model_side=config.image_size, keeps_shape=config.keeps_shape)
    return EncodeSpec(
        checkpoint.model_version,
        partial(preprocess, config=config),
        limits,
        settings.embedding_dtype,
        word_detector(settings, limits),
    )


def word_detector(settings: Settings, limits: PixelLimits) -> WordDetector | None:
    """Return what finds words on images; None where no detector is configured. It is read when it is needed."""
    if settings.detector is None:
        return None
    return WordDetector(partial(_detector, settings.detector, settings.model_dir, settings.device), limits)


def embedding_shape(checkpoint: Checkpoint) -> Shape:
    """Return the shape of these weights' embeddings, (C, H, W)."""
    side = checkpoint.config.embedding_size
    return checkpoint.config.prompt_embed_dim, side, side


def load_models(checkpoint: Checkpoint, settings: Settings) -> Encoder:
    """Load the encoder, and the detector's program if one is configured; where that fails, each request for it does."""
    encoder = load_encoder(checkpoint, settings.device)
    detector = encode_spec(settings, checkpoint).detector
    if detector is not None:
        try:
            detector.load()
        except BackendError as error:
            logger.error("event=detector_not_loaded detail=%r", str(error))
    return encoder


def load_encoder(checkpoint: Checkpoint, device: str) -> Encoder:
    """Load the encoder and log how long it took."""
    with paddle_import.sigterm_guard():
        from model import build  # here: Paddle must not be imported before a fork

    start = time.monotonic()
    encoder = build.load_encoder(checkpoint, device)
    paddle_import.freeze_imports()
    took = time.monotonic() - start
    logger.info("event=encoder_loaded model=%s device=%s s=%.1f", encoder.model_version, encoder.device, took)
    return encoder
