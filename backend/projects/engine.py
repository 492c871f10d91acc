"""The composition root's half for runs over whole projects: an encoder here, or workers over Redis."""

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backend.cluster.lease import Leases
from backend.composition import cluster as composition_cluster
from backend.composition import web
from backend.concurrency.retry import OutageRetry, Stopped
from backend.embeddings.content_journal import ContentJournal
from backend.embeddings.direct import DirectEmbeddings
from backend.embeddings.local import Embeddings
from backend.embeddings.stores import FileStore
from backend.errors import Reason, RetryLater
from backend.images.decode import Limits
from backend.label_studio.client import LabelStudio
from backend.metrics import Metrics
from backend.projects.precompute import Room
from backend.segmentation.decoding import MaskService
from backend.segmentation.service import ClickPolicy
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import MB, Settings
from backend.shapes import ShapeKind
from backend.types import ImageRef, Priority
from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.weights import Checkpoint

AT_ONCE_HERE = 4
AT_ONCE_ON_WORKERS = 16
DEADLINE_S = 900.0
"""For how long workers may be busy with something else before an image counts as not to be had."""

HEARD_WITHIN_S = 4.0
"""A worker is heard of this long after it has begun, at the latest."""

TIMEOUT_S = 60.0
LOOK_EVERY_S = 1.0
HEADER_BYTES = 1024
USABLE_SHARE = 0.9
"""Of Redis' memory; the rest is for what is not embeddings."""


@dataclass(frozen=True)
class Engine:
    """What makes embeddings for a run.

    Attributes:
        embeddings: makes and finds them.
        ensure: has one in the store, and returns whether it was made for that.
        at_once: how many tasks are worth having in hand.
        room: how many of them the store can hold; None where it has no limit.
        close: ends the threads, and lets everybody go who waits.
    """

    embeddings: Embeddings
    ensure: Callable[[ImageRef], bool]
    at_once: int
    room: Room | None
    close: Callable[[], None]


def label_studio(settings: Settings) -> LabelStudio:
    """Return a client for thousands of calls."""
    return LabelStudio(
        settings.label_studio_url,
        settings.label_studio_api_key,
        timeout_s=TIMEOUT_S,
        attempts=1,  # patience tries again
        keeps_connections=True,
    )


def engine(settings: Settings, checkpoint: Checkpoint, client: LabelStudio, patience: OutageRetry) -> Engine:
    """Return what makes embeddings, ready for work.

    Raises:
        ValueError: the encoder cannot be loaded, or Redis cannot be used as it is.
        RetryLater: Redis does not answer, or no worker is running.
    """
    return _on_workers(settings, checkpoint) if settings.redis_url else _here(settings, checkpoint, client, patience)


def check_cache(settings: Settings) -> None:
    """Return if embeddings can be kept on disk, before the first one is made.

    Raises:
        ValueError: nothing can be written to the folder.
    """
    folder = settings.cache_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"PADDLE_SAM_CACHE_DIR={folder}: expected a folder that can be written to, got: {error.strerror}"
        ) from error


def pixel_limits(settings: Settings, checkpoint: Checkpoint) -> Limits:
    """Return the limits of images."""
    return Limits(max_pixels=settings.max_image_pixels, model_side=checkpoint.config.image_size)


def outputs(settings: Settings) -> tuple[ShapeKind, ...]:
    """Return what masks may be drawn as, the preferred kinds first."""
    return ClickPolicy(output_preference=settings.output_preference).outputs


def segmenter(
    settings: Settings, checkpoint: Checkpoint, embeddings: Embeddings, everything: AutomaticSettings | None
) -> TaskSegmenter:
    """Return what makes the predictions of tasks; ``everything`` is what automatic masks shall be like.

    Raises:
        ValueError: the decoder cannot be loaded, or cannot do what is asked.
    """
    from model.build import load_decoder  # here: Paddle has much to say while logs are not set up

    decoder = load_decoder(checkpoint, settings.device)
    automatic = None if everything is None else AutomaticMaskGenerator(decoder, None, everything)
    return TaskSegmenter(
        MaskService(decoder, Metrics(), decodes_at_once=1),
        embeddings,
        outputs(settings),
        None if automatic is None else automatic.generate_from_embedding,
    )


@contextmanager
def only_run(
    settings: Settings, model_version: str, project_id: int, stop: threading.Event, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold the project while inside, where runs share a Redis; wait for another one's end.

    Without Redis, or where it forgets, two runs do the same work twice and `backend.label_studio.prediction_writer`
    makes up for it.

    Raises:
        Stopped: this run is to end before that.
        RetryLater: Redis does not answer.
    """
    if settings.redis_url is None:
        yield
        return
    link, keys, _, _ = composition_cluster.link_and_cluster(settings, model_version)
    leases = Leases(link, keys.attempts)
    leases.start()
    try:
        waits = False
        while (lease := leases.acquire(keys.run(project_id))) is None:
            if not waits:
                say(f"another run is at project {project_id}: waiting for its end")
            waits = True
            if stop.wait(LOOK_EVERY_S):
                raise Stopped
        with lease:
            yield
    finally:
        leases.close()
        link.close()


def _here(settings: Settings, checkpoint: Checkpoint, client: LabelStudio, patience: OutageRetry) -> Engine:
    from model.build import load_encoder  # here: see `segmenter`

    made = DirectEmbeddings(
        web.image_source(settings, client),
        load_encoder(checkpoint, settings.device),
        FileStore(settings.cache_dir, settings.disk_cache_mb * MB, shape=web.embedding_shape(checkpoint)),
        ContentJournal(settings.cache_dir / "contents.jsonl", settings.label_studio_url),
        Metrics(),
        limits=pixel_limits(settings, checkpoint),
        dtype=settings.embedding_dtype,
        check=patience.check,
    )
    room = _room(settings, checkpoint, settings.disk_cache_mb * MB, "set PADDLE_SAM_DISK_CACHE_MB higher")
    return Engine(made, made.ensure, AT_ONCE_HERE, room, lambda: None)


def _on_workers(settings: Settings, checkpoint: Checkpoint) -> Engine:
    composition_cluster.require_usable(settings)
    link, _, _, cluster = composition_cluster.link_and_cluster(settings, checkpoint.model_version)
    until = time.monotonic() + HEARD_WITHIN_S
    try:
        while not (state := cluster.look()).workers and time.monotonic() < until:
            time.sleep(0.25)
    finally:
        link.close()
    if not state.workers:
        others = (
            f"; those that run encode with other weights: {', '.join(state.other_models)}" if state.other_models else ""
        )
        raise RetryLater(
            f"no worker encodes with {checkpoint.model_version}{others}; start one with python -m backend worker",
            Reason.NO_WORKER,
        )
    made, stores, _ = composition_cluster.web(
        settings, checkpoint.model_version, Metrics(), web.embedding_shape(checkpoint)
    )
    made.start()
    most_bytes = max(one.max_bytes for one in stores.stats() if one.name == "redis")
    usable = int(USABLE_SHARE * most_bytes)
    room = _room(settings, checkpoint, usable, "set Redis' maxmemory higher") if usable else None

    def ensure(ref: ImageRef) -> bool:
        if made.peek(ref) is not None:
            return False
        made.get(ref, DEADLINE_S, Priority.BULK)
        return True

    return Engine(made, ensure, AT_ONCE_ON_WORKERS, room, made.close)


def _room(settings: Settings, checkpoint: Checkpoint, most_bytes: int, remedy: str) -> Room:
    config, per_number = checkpoint.config, 2 if settings.embedding_dtype == "float16" else 4
    each = config.prompt_embed_dim * config.embedding_size**2 * per_number + HEADER_BYTES
    return Room(most_bytes // each, f"{remedy}: a thousand of them take {math.ceil(1000 * each / MB)} MB")
