"""Builds the parts of a run over a whole project: an encoder in this process, or workers over Redis."""

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from backend.composition import cluster as composition_cluster
from backend.composition import parts
from backend.concurrency.retry import Stopped
from backend.decoders.lazy_decoder import LazyDecoder
from backend.embeddings.local import Embeddings
from backend.embeddings.pipeline import RESERVED, THREADS
from backend.embeddings.stores import FileStore
from backend.errors import Reason, RetryLater
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.metrics import Metrics
from backend.segmentation.decoding import MaskService
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import MB, Settings
from backend.types import ImageRef, Priority
from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.weights import Checkpoint

AT_ONCE_HERE = THREADS - RESERVED
AT_ONCE_ON_WORKERS = 16
IMAGE_WAIT_S = 900.0  # how long to wait for an image to be encoded before it counts as failed
HEARD_WITHIN_S = 4.0  # longest time from a worker's start to its first heartbeat
TIMEOUT_S = 60.0
LOOK_EVERY_S = 1.0
HEADER_BYTES = 1024
USABLE_SHARE = 0.9  # share of Redis' memory that embeddings may take; the rest is for other data


@dataclass(frozen=True)
class Room:
    """The store's capacity; further embeddings would evict those of the first tasks, which are needed first."""

    embeddings: int
    remedy: str


@dataclass(frozen=True)
class Engine:
    """Makes the embeddings of a run."""

    embeddings: Embeddings
    # makes sure that an embedding is in the store, and returns whether it had to be made
    ensure: Callable[[ImageRef], bool]
    at_once: int
    room: Room | None  # how many embeddings the store can hold; None if it has no limit
    close: Callable[[], None]  # stops the threads, and ends all waits; it does not wait for work in progress


def label_studio(settings: Settings) -> LabelStudio:
    """Return a client for thousands of calls, with kept connections and a long timeout."""
    return LabelStudio(
        LabelStudioHttp(
            settings.label_studio_url,
            settings.label_studio_api_key,
            timeout_s=TIMEOUT_S,
            attempts=1,  # `OutageRetry` repeats calls
            keeps_connections=True,
        )
    )


def engine(settings: Settings, checkpoint: Checkpoint, client: LabelStudio) -> Engine:
    """Return the engine of a run, with the encoder loaded or the workers connected.

    Raises:
        ValueError: the encoder cannot be loaded, or Redis cannot be used as it is.
        RetryLater: Redis does not answer, or no worker is running.
    """
    return _on_workers(settings, checkpoint) if settings.redis_url else _here(settings, checkpoint, client)


def check_cache(settings: Settings) -> None:
    """Raise a `ValueError` if embeddings cannot be kept on disk, before the first one is made."""
    folder = settings.cache_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"PADDLE_SAM_CACHE_DIR={folder}: expected a folder that can be written to, got: {error.strerror}"
        ) from error


def segmenter(
    settings: Settings, checkpoint: Checkpoint, embeddings: Embeddings, everything: AutomaticSettings | None
) -> TaskSegmenter:
    """Return the segmenter of tasks; ``everything`` are the settings of automatic masks, None without them.

    Raises:
        ValueError: the decoder cannot be loaded, or does not support the settings.
    """
    from model.build import load_decoder  # here: Paddle logs a lot before logging is configured

    decoder = load_decoder(checkpoint, settings.device)
    loaded = LazyDecoder(checkpoint, settings.device, lambda *_: decoder)
    automatic = None if everything is None else AutomaticMaskGenerator(decoder, None, everything)
    return TaskSegmenter(
        MaskService(lambda _: loaded, Metrics(), decodes_at_once=1, detail=settings.detail),
        embeddings,
        settings.output_kinds,
        None if automatic is None else automatic.generate_from_embedding,
    )


@contextmanager
def only_run(
    settings: Settings, model_version: str, project_id: int, stop: threading.Event, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold a lease on the project while inside, where runs share a Redis; wait until another run has ended.

    Without Redis, or where it loses the lease, two runs do the same work twice and
    `backend.label_studio.prediction_writer` removes the duplicates.

    Raises:
        Stopped: this run is stopped while it waits.
        RetryLater: Redis does not answer.
    """
    if settings.redis_url is None:
        yield
        return
    with closing(composition_cluster.connect(settings, model_version)) as cluster, closing(cluster.leases) as leases:
        leases.start()
        has_said_so = False
        while (lease := leases.acquire(cluster.keys.run(project_id))) is None:
            if not has_said_so:
                say(f"another run works on project {project_id}: waiting for it to end")
            has_said_so = True
            if stop.wait(LOOK_EVERY_S):
                raise Stopped
        with lease:
            yield


def _here(settings: Settings, checkpoint: Checkpoint, client: LabelStudio) -> Engine:
    from model.build import load_encoder  # here: see `segmenter`

    encoder, most_bytes = load_encoder(checkpoint, settings.device), settings.disk_cache_mb * MB
    store = FileStore(settings.cache_dir, most_bytes, shape=parts.embedding_shape(checkpoint))
    budget = parts.byte_budget(settings)
    source = parts.image_source(settings, client, budget)
    embeddings = parts.local_embeddings(settings, checkpoint, source, lambda: encoder, store, Metrics(), budget)
    room = _room(settings, checkpoint, most_bytes, "set PADDLE_SAM_DISK_CACHE_MB higher")
    return Engine(embeddings, embeddings.ensure, AT_ONCE_HERE, room, lambda: embeddings.close(wait=False))


def _on_workers(settings: Settings, checkpoint: Checkpoint) -> Engine:
    composition_cluster.require_usable(settings)
    until = time.monotonic() + HEARD_WITHIN_S
    with closing(composition_cluster.connect(settings, checkpoint.model_version)) as cluster:
        while not (state := cluster.monitor.look()).workers and time.monotonic() < until:
            time.sleep(0.25)
    if not state.workers:
        names = ", ".join(state.other_models)
        others = f"; those that run encode with other weights: {names}" if names else ""
        text = f"no worker encodes with {checkpoint.model_version}{others}; start one with python -m backend worker"
        raise RetryLater(text, Reason.NO_WORKER)
    embeddings, stores, _ = composition_cluster.web(
        settings, checkpoint.model_version, Metrics(), parts.embedding_shape(checkpoint)
    )
    embeddings.start()
    most_bytes = max(stats.max_bytes for stats in stores.stats() if stats.name == "redis")
    usable = int(USABLE_SHARE * most_bytes)
    room = _room(settings, checkpoint, usable, "set Redis' maxmemory higher") if usable else None

    def ensure(ref: ImageRef) -> bool:
        if embeddings.peek(ref) is not None:
            return False
        embeddings.get(ref, IMAGE_WAIT_S, Priority.BULK)
        return True

    return Engine(embeddings, ensure, AT_ONCE_ON_WORKERS, room, embeddings.close)


def _room(settings: Settings, checkpoint: Checkpoint, most_bytes: int, remedy: str) -> Room:
    config, per_number = checkpoint.config, 2 if settings.embedding_dtype == "float16" else 4
    numbers = sum(math.prod(shape) for shape in config.embedding_shapes.values())
    each = numbers * per_number + HEADER_BYTES
    return Room(most_bytes // each, f"{remedy}: a thousand of them take {math.ceil(1000 * each / MB)} MB")
